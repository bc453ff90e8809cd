"""Threads of this library, which take no signals and do not keep the process alive."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

PREFIX = "trio_mcp_session "
"""How the names of these threads begin."""


def start_quiet_thread(run: Callable[[], None], name: str) -> threading.Thread:
    """Start a daemon thread in which all signals are blocked; return it. Not a checkpoint.

    The system may give a signal to any thread that does not block it. Python's handlers run in the
    main thread only: if that sleeps in a system call, a signal that another thread took does not
    interrupt it.
    """
    thread = threading.Thread(target=run, name=PREFIX + name, daemon=True)
    # A thread begins with the mask of the thread that starts it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread
