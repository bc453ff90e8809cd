"""Threads of this library, which take no signals and do not keep the process alive."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PREFIX = "trio_mcp_session "
"""How the names of these threads begin."""


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block all signals in this thread: threads that it starts in the block begin so and stay so.

    The system may give a signal to any thread that does not block it. Python's handlers run in the
    main thread only: if that sleeps in a system call, a signal that another thread took does not
    interrupt it. Not a checkpoint; takes no locks, so that signal handlers can use it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_quiet_thread(run: Callable[[], None], name: str) -> threading.Thread:
    """Start a daemon thread in which all signals are blocked; return it. Not a checkpoint."""
    thread = threading.Thread(target=run, name=PREFIX + name, daemon=True)
    with signals_blocked():
        thread.start()
    return thread
