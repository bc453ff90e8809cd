"""The shutdown of a process that only serves: signals are counted, and time is limited.

Python's signal handler counts the signals, so they also count while the event loop is blocked.
A thread, the watchdog, ends the process with `os._exit` at the third signal and at the deadline of
the shutdown, even if tasks or threads do not end. A second thread ends the process if its last
output is not read. Both threads start with the first signal, or with the shutdown: after the main
thread has ended, Python 3.12 starts no thread.

Only native code that does not release the interpreter's lock can prevent this.
"""

from __future__ import annotations

import _thread
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self, final

import trio

from ..core.ids import beginning_of
from ..server.mcp_server import server_of
from ..sessions.quiet_thread import PREFIX, signals_blocked
from ..sessions.running_task import place_of
from ..transports.bounded_stderr import WRITING_TIME
from .last_output import flush_output, write_error
from .text import indented

if TYPE_CHECKING:
    from ..core.config import CleanupConfig
    from ..sessions.manager import SessionManager
    from ..sessions.task_tree import TaskTree

logger: Final = logging.getLogger("trio_mcp_session")

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""Signals that are counted: the first drains, the second cancels, the third ends the process."""

HANGUP: Final = signal.SIGHUP
"""Drains if it is the first signal. A terminal that closes sends it several times."""

CANCELLING: Final = 2
"""The number of the signal that cancels the remaining work. The next one ends the process."""

CLIENT_LEFT_TIMEOUT: Final = 1.5
"""Seconds from a signal to the end, if the client of standard input has already left.

The official clients close standard input, send SIGTERM after 2 seconds, and SIGKILL after 2 more.
"""

MOST_NAMES: Final = 5
"""Most names of one kind in the last line, which must fit into one write to a pipe."""

MOST_LETTERS: Final = 100
"""Most characters of one name in the last line."""

_LONGEST_WAIT: Final = 3600.0
_IDLE_THREAD: Final = re.compile(rf"Trio thread \d+|{PREFIX}.+")
"""Names of threads that do not keep the process alive: Trio's idle threads, and this library's."""


@final
class Shutdown:
    """The shutdown of one process. A context manager around `trio.run`, for the main thread.

    If no signal came, the signal handlers are restored after the block. If one came, the process
    is to end: a further signal then ends it at once, by the default action of the system.

    Args:
        clocks: The retire grace and the deadline.
        ends_process: Whether the process ends with the block. Then the deadline holds until it
            has ended, and after the block a signal ends it at once.
        last_words: What to write before the line that says what did not end.
    """

    def __init__(
        self, clocks: CleanupConfig, *, ends_process: bool = False, last_words: str = ""
    ) -> None:
        self.client_left: bool = False
        """Whether the client of standard input and output has left or is leaving."""
        self._clocks: Final = clocks
        timeout = clocks.shutdown_timeout
        self._timeout: Final = inf if timeout is None else timeout
        self._ends_process: Final = ends_process
        self._last_words: Final = last_words
        self._received: Final[list[int]] = []
        self._before: Final[dict[int, Any]] = {}
        # A signal handler can interrupt any line: only this queue is safe to use in it.
        self._moments: Final[SimpleQueue[float | None]] = SimpleQueue()
        self._statuses: Final[SimpleQueue[int | None]] = SimpleQueue()
        self._watched: bool = False
        self._notify: Callable[[], None] | None = None
        self._arrived: trio.Event | None = None
        self._manager: SessionManager | None = None
        self._tree: TaskTree | None = None

    def __enter__(self) -> Self:
        """Install the signal handlers."""
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._on_signal)
        # `nohup` ignores it, and the program may have a handler that reads its settings again.
        if signal.getsignal(HANGUP) is signal.SIG_DFL:
            self._before[HANGUP] = signal.signal(HANGUP, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the signal handlers, and the deadline if the process continues."""
        told_to_end = self._ends_process or bool(self._received)
        for number, before in self._before.items():
            # A terminal that closes may send SIGHUP again while the process ends.
            default = signal.SIG_IGN if number == HANGUP else signal.SIG_DFL
            signal.signal(number, default if told_to_end else before)
        if not self._ends_process:
            self._moments.put(None)
            self._statuses.put(None)

    def attach_to_loop(self) -> None:
        """Let signals wake the event loop from now on. Not a checkpoint."""
        token = trio.lowlevel.current_trio_token()
        self._arrived = trio.Event()
        self._notify = lambda: token.run_sync_soon(self._wake)

    @contextmanager
    def attached_to(self, manager: SessionManager) -> Iterator[None]:
        """Let the manager start the deadline. Not a checkpoint.

        The shutdown begins at the end of the block at the latest.
        """
        self._manager = manager
        self._tree = manager._task_tree()
        manager._shutdown.on_change = self.end_within
        try:
            yield
        finally:
            manager._begin_shutdown()

    async def wait_for_signals(self, number: int) -> signal.Signals:
        """Wait until ``number`` signals have come in all; return the last. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while len(self._received) < number:
            assert self._arrived is not None
            await self._arrived.wait()
        return signal.Signals(self._received[number - 1])

    def client_leaves(self) -> None:
        """Begin the shutdown: the client of standard input leaves, or its session ends.

        Not a checkpoint. Further calls have no effect.
        """
        assert self._manager is not None
        if not self.client_left:
            logger.debug("standard input: the client has left, or its session ends")
        self.client_left = True
        self._manager._begin_shutdown()

    def end_within(self, seconds: float) -> None:
        """Set the deadline, or an earlier one. Not a checkpoint; safe in signal handlers."""
        if seconds < inf:
            self._moments.put(time.monotonic() + seconds)
            if not self._watched:
                self._watched = True
                # `threading.Thread` takes locks and waits for the thread to start.
                with signals_blocked():
                    _thread.start_new_thread(self._watch, ())
                    _thread.start_new_thread(self._limit_last_output, ())

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Count a signal. Another signal can interrupt this, so it takes no locks."""
        if number == HANGUP and self._received:
            return
        self._received.append(number)
        clocks = self._clocks
        match len(self._received):
            case 1 if self.client_left:
                self.end_within(CLIENT_LEFT_TIMEOUT)
            case 1:
                # The event loop sets an earlier deadline, unless it is blocked.
                self.end_within(clocks.retire_grace + self._timeout)
            case 2:
                self.end_within(self._timeout)
            case _:
                self.end_within(0)
        if self._notify is not None:
            with suppress(trio.RunFinishedError):
                self._notify()

    def _wake(self) -> None:
        assert self._arrived is not None
        self._arrived.set()
        self._arrived = trio.Event()

    # These run in threads.

    def _watch(self) -> None:
        """Wait until the earliest deadline, then end the process."""
        deadline = inf
        while (left := deadline - time.monotonic()) > 0:
            with suppress(Empty):
                moment = self._moments.get(timeout=min(left, _LONGEST_WAIT))
                if moment is None:
                    return
                deadline = min(deadline, moment)
        self._end_process()

    def _limit_last_output(self) -> None:
        """End the process if its last output takes too long."""
        status = self._statuses.get()
        if status is not None:
            time.sleep(WRITING_TIME)
            os._exit(status)

    def _end_process(self) -> None:
        status = 128 + self._received[-1] if self._received else 1
        self._statuses.put(status)
        try:
            line = f"trio_mcp_session: {self._why()}; did not end: {self._what()}\n"
            write_error(self._last_words + line)
            if not self._is_third:
                # After the line, which must arrive even if there is little room for both.
                write_error(self._all_tasks())
            # Last: it waits if a blocked thread holds the lock of a stream.
            flush_output()
        finally:
            os._exit(status)

    @property
    def _is_third(self) -> bool:
        return len(self._received) > CANCELLING

    def _all_tasks(self) -> str:
        """Return the tree of all tasks: at a deadline nothing else shows what hangs."""
        with suppress(Exception):  # The tasks change while they are read.
            if self._tree is not None:
                return f"trio_mcp_session: all tasks:\n{indented(self._tree.describe())}\n"
        return ""

    def _why(self) -> str:
        if self._is_third:
            return f"process ended by {signal.Signals(self._received[-1]).name} (third signal)"
        return "process ended by the deadline of its shutdown"

    def _what(self) -> str:
        """Name what is still running. The event loop can change it at the same time."""
        found: list[str] = []
        for describe in (_sessions, _stateless_requests, _lifespans, _threads, _event_loop):
            with suppress(Exception):  # A table changed while it was read.
                found += describe(self._manager)
        return ", ".join(found) or "unknown"


def _sessions(manager: SessionManager | None) -> Iterable[str]:
    sessions = [] if manager is None else list(manager._store)
    return _some(
        f"session {beginning_of(session.session_id)}… ({', '.join(tasks)})"
        for session in sessions
        for tasks in [_some(session._running_tasks())]
    )


def _stateless_requests(manager: SessionManager | None) -> Iterable[str]:
    queue = None if manager is None else server_of(manager).stateless.queue
    return [] if queue is None else _some(f"request {task.name}" for task in queue.tasks)


def _lifespans(manager: SessionManager | None) -> Iterable[str]:
    return [] if manager is None else _some(manager._lifespans.being_left)


def _threads(_: SessionManager | None) -> Iterable[str]:
    main = threading.main_thread()
    return _some(
        f"thread {thread.name!r}"
        for thread in threading.enumerate()
        if thread is not main and not _IDLE_THREAD.fullmatch(thread.name)
    )


def _event_loop(_: SessionManager | None) -> Iterable[str]:
    """Return where the main thread is, unless it is in Trio's own code."""
    frame = _interrupted(sys._current_frames()[threading.main_thread().ident or 0])
    if frame.f_globals.get("__name__", "").startswith("trio."):
        return []
    return _some([f"event loop in {place_of(frame)}"])


def _interrupted(frame: FrameType) -> FrameType:
    """Return the frame of a thread; during the signal handler, the frame that it interrupted."""
    one: FrameType | None = frame
    while one is not None:
        if one.f_code is Shutdown._on_signal.__code__ and one.f_back is not None:
            frame = one.f_back
        one = one.f_back
    return frame


def _some(names: Iterable[str]) -> list[str]:
    """Return the first names, each on one line and cut, and the number of further ones."""
    all_names = list(names)
    some = ["".join(c if c.isprintable() else "?" for c in n) for n in all_names[:MOST_NAMES]]
    left = len(all_names) - len(some)
    return [n[:MOST_LETTERS] for n in some] + ([f"{left} more"] if left else [])
