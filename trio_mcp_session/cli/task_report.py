"""SIGUSR1 writes the tree of tasks: from the event loop, or from a thread if that is blocked."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self, final

import trio

from ..sessions.error_log import logger, write_log
from ..sessions.quiet_thread import start_quiet_thread
from ..sessions.task_tree import TaskAges, TaskTree
from .last_output import write_error
from .text import indented

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager

ANSWER_TIME: Final = 1.0
"""Seconds that the event loop has to write the tree; after that a thread writes it."""


@final
class TaskReport:
    """Writes the tree of tasks at every SIGUSR1. A context manager, for the main thread.

    `ages` is an instrument for the Trio run.
    """

    def __init__(self) -> None:
        self.ages: Final = TaskAges()
        # A signal handler can interrupt any line: only this queue is safe to use in it.
        self._asked: Final[SimpleQueue[bool]] = SimpleQueue()
        self._before: Any = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._tree: TaskTree | None = None

    def __enter__(self) -> Self:
        """Handle the signal, and start the thread."""
        self._before = signal.signal(signal.SIGUSR1, self._on_signal)
        start_quiet_thread(self._run, "task report")
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the signal handler, and let the thread end."""
        signal.signal(signal.SIGUSR1, self._before)
        self._asked.put(False)  # noqa: FBT003  # the end

    def attach(self, manager: SessionManager) -> None:
        """Describe the tasks of the running event loop, and a manager's. Not a checkpoint."""
        manager._use_task_ages(self.ages)
        self._tree = manager._task_tree()
        self._token = trio.lowlevel.current_trio_token()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked.put(True)  # noqa: FBT003

    # This runs in the thread.

    def _run(self) -> None:
        while self._asked.get():
            tree, token = self._tree, self._token
            if tree is None or token is None:
                write_error("trio_mcp_session: SIGUSR1: the event loop has not started yet\n")
                continue
            answer = _Answer(tree.describe)
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(answer.log)
            if not answer.written.wait(ANSWER_TIME) and answer.take():
                write_error(
                    "trio_mcp_session: SIGUSR1: the event loop did not answer within "
                    f"{ANSWER_TIME:g} s; all tasks:\n{indented(tree.describe())}\n"
                )


@final
class _Answer:
    """One report, which either the event loop or the thread writes."""

    def __init__(self, describe: Callable[[], str]) -> None:
        self.written: Final = threading.Event()
        self._describe: Final = describe
        self._free: Final = threading.Lock()

    def take(self) -> bool:
        """Return whether the caller is the first, and has to write the report."""
        return self._free.acquire(blocking=False)

    def log(self) -> None:
        """Write the report, in the event loop."""
        if self.take():
            tree = self._describe()
            if logger.isEnabledFor(logging.WARNING):
                write_log(logging.WARNING, "SIGUSR1: all tasks:", stack=tree)
            else:  # It was asked for.
                write_error(f"trio_mcp_session: SIGUSR1: all tasks:\n{indented(tree)}\n")
            self.written.set()
