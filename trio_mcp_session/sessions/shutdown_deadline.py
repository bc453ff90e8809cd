"""The one deadline of a shutdown, which the budgets of its stages stay within.

::

    begin                                                                        deadline
      │ work may finish │ flush │ held contexts and lifespans        │ last hooks │
                        └ flush └───────────── reserve ──────────────────────────┘
                          budget

Work and output leave a reserve to the clean-up, so that what sessions hold is closed and not
lost. Off, all budgets are what the configuration says.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final, final

import attrs
import trio

RESERVE: Final = 2.0
"""Seconds of a shutdown that work and output leave to the clean-up: a browser closes in that."""

HOOKS_SHARE: Final = 0.25
"""The part of these that held contexts and lifespans leave to the last hooks."""


@final
@attrs.define(eq=False)
class ShutdownDeadline:
    """The moment by which all of a manager has ended, once its shutdown has begun."""

    at: float = attrs.field(default=inf, init=False)
    """The moment, on Trio's clock; infinite before, and where it is off."""

    on_change: Callable[[float], object] | None = attrs.field(default=None, init=False)
    """Called with the seconds left whenever the moment is set or comes closer."""

    _reserve: float = attrs.field(default=RESERVE, init=False)

    def begin(self, timeout: float) -> None:
        """Set the moment, or bring it closer: a sooner one stays. Not a checkpoint."""
        moment = trio.current_time() + timeout
        if moment < self.at:
            self.at = moment
            self._reserve = min(RESERVE, timeout / 2)
            if self.on_change is not None:
                self.on_change(timeout)

    def grace(self, seconds: float, flush_budget: float) -> float:
        """Return for how many seconds work may go on, of those that it is given."""
        return self._before_reserve(seconds, flush_budget)

    def flush_budget(self, seconds: float) -> float:
        """Return for how many seconds output may be written, of those that it is given."""
        return self._before_reserve(seconds, 0)

    def cleanup_until(self, seconds: float) -> float:
        """Return the moment until which a clean-up that begins now may take, on Trio's clock."""
        return min(trio.current_time() + seconds, self.at - HOOKS_SHARE * self._reserve)

    def hooks_until(self, seconds: float) -> float:
        """Return the moment until which the last hooks may take if they begin now."""
        return min(trio.current_time() + seconds, self.at)

    def _before_reserve(self, seconds: float, leave: float) -> float:
        left = self.at - self._reserve - leave - trio.current_time()
        return max(min(seconds, left), 0.0)
