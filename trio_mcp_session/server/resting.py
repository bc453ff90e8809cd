"""What requests leave behind in a connection is freed soon after it has become quiet.

A request queue keeps its workers, which are tasks, for the next requests. A client that makes one
call in an hour should not pay for them all the time: an idle session would take twice the memory.
So queues are looked at a few times per second while they have idle workers, and not otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from ..sessions.endings import BATCH

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager
    from .request_queue import RequestQueue

INTERVAL: Final = 0.3
"""Seconds between two looks. After the first one without a new request the workers end, after the
next one the queue is dropped: less than a second after the last request."""


@final
@attrs.define(eq=False)
class Resting:
    """The queues of a server that have idle workers."""

    _manager: SessionManager
    _seen: dict[RequestQueue, int] = attrs.field(factory=dict["RequestQueue", int], init=False)
    """How many requests each had got when it was looked at last."""
    _running: bool = attrs.field(default=False, init=False)

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, queue: RequestQueue) -> None:
        """Called when a queue gets an idle worker, once until it has been removed.

        Not a checkpoint.
        """
        if self._manager._is_left:
            return  # Its sessions end, and their workers with them.
        self._seen[queue] = queue.taken
        if not self._running:
            self._running = True
            self._manager._start_connection_task(self._run)

    def discard(self, queue: RequestQueue) -> None:
        """Look at a queue no longer. Not a checkpoint."""
        self._seen.pop(queue, None)

    async def _run(self) -> None:
        try:
            while self._seen:
                await trio.sleep(INTERVAL)
                for number, queue in enumerate(list(self._seen), 1):
                    if queue in self._seen:
                        self._look(queue)
                    if number % BATCH == 0:
                        await trio.lowlevel.checkpoint()
        finally:
            self._running = False
            self._seen.clear()  # If it was cancelled, the manager has been left.

    def _look(self, queue: RequestQueue) -> None:
        if queue.taken != self._seen[queue]:
            self._seen[queue] = queue.taken
        elif not queue.retire():
            self.discard(queue)
            queue.left_to_rest()
