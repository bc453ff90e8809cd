from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from trio_mcp_session.cli.shutdown import HANGUP, SIGNALS


@pytest.fixture(autouse=True)
def signal_handlers_of_the_test_run() -> Iterator[None]:
    """Give the handlers back: a program that a signal has ended leaves the system's own."""
    before = [(number, signal.getsignal(number)) for number in (*SIGNALS, HANGUP)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
