"""The deadline of a shutdown: it limits the budgets of all stages together.

::

    begin                                                                        deadline
      │ work may finish │ flush │ held contexts and lifespans        │ last hooks │
                        └ flush └───────────── reserve ──────────────────────────┘
                          budget

If the server has a lifespan, a part at the end of the reserve is for leaving it.

Work and output leave a reserve for the clean-up, so that what sessions hold is closed properly.
Without a deadline, all budgets are as configured.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final, final

import attrs
import trio

RESERVE: Final = 2.0
"""Seconds that work and output leave for the clean-up: enough to close a browser."""

HOOKS_SHARE: Final = 0.25
"""The part of the reserve that held contexts and lifespans leave for the last hooks."""

LIFESPANS_SHARE: Final = 0.3
"""The part of the reserve that all sessions leave for the server's lifespans, if there are any."""

END_SHARE: Final = 0.05
"""The part of the reserve that the server's lifespans leave for the end of the program."""


@final
@attrs.define(eq=False)
class ShutdownDeadline:
    """The time by which everything of a manager has ended, once its shutdown has begun."""

    at: float = attrs.field(default=inf, init=False)
    """The deadline, on Trio's clock; infinite before the shutdown, and if it is off."""

    on_change: Callable[[float], object] | None = attrs.field(default=None, init=False)
    """Called with the seconds left whenever the deadline is set or moved closer."""

    _reserve: float = attrs.field(default=RESERVE, init=False)
    _lifespans_share: float = attrs.field(default=0.0, init=False)

    def leave_time_for_lifespans(self) -> None:
        """End sessions earlier, so that the server's lifespans can be left. Not a checkpoint."""
        self._lifespans_share = LIFESPANS_SHARE

    def begin(self, timeout: float) -> None:
        """Set the deadline; an earlier one stays. Not a checkpoint."""
        moment = trio.current_time() + timeout
        if moment < self.at:
            self.at = moment
            self._reserve = min(RESERVE, timeout / 2)
            if self.on_change is not None:
                self.on_change(timeout)

    def grace(self, seconds: float, flush_budget: float) -> float:
        """Return how many of these seconds work may continue within the deadline."""
        return self._before_reserve(seconds, flush_budget)

    def flush_budget(self, seconds: float) -> float:
        """Return how many of these seconds output may be written within the deadline."""
        return self._before_reserve(seconds, 0)

    def cleanup_until(self, seconds: float) -> float:
        """Return the deadline of a clean-up that begins now, on Trio's clock."""
        left_for_later = (HOOKS_SHARE + self._lifespans_share) * self._reserve
        return min(trio.current_time() + seconds, self.at - left_for_later)

    def hooks_until(self, seconds: float) -> float:
        """Return the deadline of the last hooks if they begin now, on Trio's clock."""
        left_for_later = self._lifespans_share * self._reserve
        return min(trio.current_time() + seconds, self.at - left_for_later)

    def lifespans_until(self, seconds: float) -> float:
        """Return the deadline of leaving the server's lifespans from now on, on Trio's clock."""
        return min(trio.current_time() + seconds, self.at - END_SHARE * self._reserve)

    def _before_reserve(self, seconds: float, leave: float) -> float:
        left = self.at - self._reserve - leave - trio.current_time()
        return max(min(seconds, left), 0.0)
