"""Reports user code that blocks the event loop: from a thread, while it does.

The thread asks the loop for a sign of life once in each interval (`run_sync_soon`), and reads what
the loop runs if none comes. So the loop itself does nothing between two signs, and no task, no
clock of Trio and no instrument is involved.

Time in which the process did not run, because it was stopped or the machine slept, does not count.
Native code that holds the interpreter's lock stops this thread, too; it is reported when it
releases the lock, while the line that called it still runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Final, final

import trio

from ..core.events import EventLoopBlocked
from .current import running_in
from .error_log import write_log
from .quiet_thread import start_quiet_thread
from .running_task import find_running

if TYPE_CHECKING:
    from .session import Session

PIECES: Final = 4
"""How many times the thread looks at the clocks while it waits for one sign."""


@final
class LoopWatch:
    """Watches the event loop that it is made in.

    Args:
        limit: Seconds without a sign of life after which the loop counts as blocked.
        on_back: Called in the event loop when it runs again; it must not raise.
    """

    def __init__(self, limit: float, on_back: Callable[[EventLoopBlocked], None]) -> None:
        self._limit: Final = limit
        self._on_back: Final = on_back
        self._token: Final = trio.lowlevel.current_trio_token()
        self._root: Final = trio.lowlevel.current_root_task()
        self._loop_thread: Final = threading.get_ident()
        self._alive: Final = threading.Event()
        self._stopped: Final = threading.Event()

    def start(self) -> None:
        """Start the thread. Not a checkpoint."""
        start_quiet_thread(self._run, "loop watch")

    def stop(self) -> None:
        """Let the thread end soon. Not a checkpoint; it does not wait."""
        self._stopped.set()
        self._alive.set()

    # These run in the thread.

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._alive.clear()
                self._token.run_sync_soon(self._alive.set)
                blocked = self._wait_for_sign()
                if blocked is not None:
                    self._report(blocked)
                self._stopped.wait(self._limit)
        except trio.RunFinishedError:
            return

    def _wait_for_sign(self) -> float | None:
        """Wait for a sign of life; return for how long there was none, None if one came."""
        missing = 0.0
        while missing < self._limit:
            missed = self._wait_a_little()
            if missed is None:
                return None
            missing += missed
        return missing

    def _wait_a_little(self) -> float | None:
        """Wait for a sign of life; return the seconds in which this process ran without one."""
        piece = self._limit / PIECES
        began, worked = time.monotonic(), time.process_time()
        if self._alive.wait(piece) or self._stopped.is_set():
            return None
        return min(time.monotonic() - began, piece + time.process_time() - worked)

    def _report(self, seconds: float) -> None:
        """Report that the loop is blocked; wait until it runs again, and let it say so."""
        running = find_running(self._root, self._loop_thread)
        task = running.task
        name = "" if task is None else task.name
        # A copy of the task's context: filters add its session and its request to the record.
        context = Context() if task is None else task.context.copy()
        session = context.get(running_in)
        context.run(
            write_log,
            logging.WARNING,
            "the event loop has been blocked for %.1f s by %s in %s; nothing else runs until it "
            "returns: call blocking code with trio.to_thread.run_sync",
            seconds,
            f"task {name!r}" if name else "a callback",
            running.where,
            stack=running.stack,
        )
        where = running.where
        del running, task  # They refer to frames of the blocked code.
        while (missed := self._wait_a_little()) is not None:
            seconds += missed
        if not self._stopped.is_set():
            self._token.run_sync_soon(
                lambda: context.run(self._back, seconds, name, where, session)
            )

    # This runs in the event loop.

    def _back(self, seconds: float, task: str, where: str, session: Session | None) -> None:
        write_log(
            logging.WARNING,
            "the event loop runs again; it was blocked for %.1f s by %s in %s",
            seconds,
            f"task {task!r}" if task else "a callback",
            where,
        )
        self._on_back(
            EventLoopBlocked(
                time=trio.current_time(),
                seconds=seconds,
                task=task,
                where=where,
                session_id=None if session is None else session.session_id,
            )
        )
