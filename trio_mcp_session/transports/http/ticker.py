"""One timer for all HTTP responses that take longer than a moment.

A timer for each would cost more than the request. This one checks all of them at intervals, and
runs only while there are any.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol, final

import attrs
import trio

from ...sessions.arrivals import let_arrive
from ...sessions.error_log import write_log

if TYPE_CHECKING:
    from ...sessions.manager import SessionManager

LONGEST_INTERVAL: Final = 1.0
"""Longest time between two checks, in seconds: no clock of a response is later than that."""


BATCH: Final = 64
"""How many responses are looked at before other tasks may run. Each may write a comment then."""

GOLDEN: Final = 0.618034
"""Multiples of it, without their integer parts, are spread evenly, however many there are."""


class Ticking(Protocol):
    """A response that is being waited for, or written."""

    def tick(self, now: float) -> None:
        """Look at the clock. Not a checkpoint."""
        ...


@final
@attrs.define(eq=False)
class Ticker:
    """Calls `Ticking.tick` of everything that it was given, at intervals.

    Args:
        manager: Where its task runs.
        shortest: The shortest time in seconds that any of them has to notice.
    """

    _manager: SessionManager
    _shortest: float
    _members: dict[Ticking, None] = attrs.field(factory=dict[Ticking, None], init=False)
    _given: int = attrs.field(default=0, init=False)
    _running: bool = attrs.field(default=False, init=False)

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Ticking) -> None:
        """Begin to call this one. Not a checkpoint."""
        self._members[member] = None
        # What is left to be written when the manager has gone is its server's business.
        if not self._running and not self._manager._is_left:
            self._running = True
            self._manager._start_connection_task(self._run)

    def share(self) -> float:
        """Return how much of a time to wait for, from a half to all of it. Not a checkpoint.

        It is another share for each response, so that responses which began together, or were all
        sent one message, are not due together.
        """
        self._given += 1
        return 1 - (self._given - 1) * GOLDEN % 1 / 2

    def discard(self, member: Ticking) -> None:
        """Stop calling this one. Not a checkpoint."""
        self._members.pop(member, None)

    async def _run(self) -> None:
        interval = min(LONGEST_INTERVAL, self._shortest / 2)
        while self._members:
            due = trio.current_time() + interval
            await trio.sleep(interval)
            await let_arrive(due)
            now = trio.current_time()
            for number, member in enumerate(list(self._members), 1):
                if member in self._members:
                    self._tick(member, now)
                if number % BATCH == 0:
                    await trio.lowlevel.checkpoint()
        self._running = False

    def _tick(self, member: Ticking, now: float) -> None:
        try:
            member.tick(now)
        except Exception as error:  # noqa: BLE001  # it is logged
            # One failure must not stop the clocks of other responses.
            text = "the clock of an HTTP response failed; it is not checked again"
            write_log(logging.ERROR, text, error=error)
            self._members.pop(member, None)
