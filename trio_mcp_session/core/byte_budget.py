"""Budgets of bytes: how much memory a peer may make this process hold.

A budget counts bytes at three levels: those of a session, those of its party (a principal, or the
address of a client without authentication), and those of the whole manager. A claim counts at all
levels, or at none. What claims bytes releases them in one place, when it ends. The budget of a
session is closed when the session leaves the table: what the session still counts is released
then, so a forgotten release cannot outlive its session.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final, final

import attrs

FREE: Final = 4096
"""Bytes of one line or one answer that are not counted, so that usual messages cost nothing.

10,000 connections hold 40 MiB of them at most.
"""


@final
@attrs.define(eq=False, repr=False)
class ByteBudget:
    """Counts and limits the bytes that are held at one level. No method is a checkpoint."""

    level: str
    """The level: ``session``, ``principal``, ``address`` or ``manager``."""

    limit: float
    """The most bytes that can be claimed."""

    parent: ByteBudget | None = None
    """The next level, which counts the same bytes, too."""

    on_refused: Callable[[ByteBudget], None] | None = None
    """Called by the outermost level with the level that had no room."""

    held: int = attrs.field(default=0, init=False)
    """Bytes that are held now."""

    def __repr__(self) -> str:
        return f"<ByteBudget of a {self.level}: {self.held} of {self.limit} bytes>"

    def claim(self, count: int) -> bool:
        """Count bytes at all levels if each has room; return whether they were counted."""
        budget: ByteBudget | None = self
        while budget is not None:
            held = budget.held + count
            if held > budget.limit:
                self._refuse(budget, count)
                return False
            budget.held = held
            budget = budget.parent
        return True

    def add(self, count: int) -> None:
        """Count bytes at all levels, also beyond their limits.

        For answers, and other bytes that cannot be refused. New claims fail until they are
        released.
        """
        budget: ByteBudget | None = self
        while budget is not None:
            budget.held += count
            budget = budget.parent

    def release(self, count: int) -> None:
        """Release bytes at all levels."""
        budget: ByteBudget | None = self
        while budget is not None:
            budget.held -= count
            budget = budget.parent

    def can_hold(self, count: int) -> bool:
        """Return whether a claim of this size could succeed if nothing else were held."""
        budget: ByteBudget | None = self
        while budget is not None:
            if count > budget.limit:
                return False
            budget = budget.parent
        return True

    def close(self) -> None:
        """Release all that it counts. Later claims fail, and later releases change nothing."""
        parent, self.parent = self.parent, None
        if parent is not None:
            parent.release(self.held)
        self.held = 0
        self.limit = -inf

    def _refuse(self, full: ByteBudget, count: int) -> None:
        """Take back what was counted below the level without room, and report the refusal."""
        budget = self
        while budget is not full:
            budget.held -= count
            assert budget.parent is not None
            budget = budget.parent
        while budget.parent is not None:
            budget = budget.parent
        if budget.on_refused is not None:
            budget.on_refused(full)
