"""The threads of this library, which must not take the signals of a program."""

from __future__ import annotations

import signal

from trio_mcp_session.sessions.quiet_thread import PREFIX, start_quiet_thread


def blocked() -> set[int]:
    """The signals that this thread blocks."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def test_it_blocks_all_signals_that_can_be_blocked() -> None:
    seen: list[set[int]] = []
    before = blocked()
    thread = start_quiet_thread(lambda: seen.append(blocked()), "test")
    thread.join(20)
    assert seen[0] >= signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    assert blocked() == before


def test_the_end_of_the_process_does_not_wait_for_it() -> None:
    thread = start_quiet_thread(lambda: None, "test")
    assert (thread.daemon, thread.name) == (True, f"{PREFIX}test")
    thread.join(20)
