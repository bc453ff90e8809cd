"""How much is done in one turn of the event loop: calls of functions, which no machine changes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import trio


class MostCalls(trio.abc.Instrument):
    """Counts the calls, also of built-in functions, in the turn that has the most of them."""

    def __init__(self) -> None:
        self.most = 0
        self._calls = 0

    def _count(self, frame: FrameType, event: str, argument: object) -> None:
        # A profile function is not seen by the measurement of coverage.
        if event in {"call", "c_call"}:  # pragma: no cover
            self._calls += 1

    def after_io_wait(self, timeout: float) -> None:
        self._calls = 0

    def before_io_wait(self, timeout: float) -> None:
        self.most = max(self.most, self._calls)


@contextmanager
def most_calls() -> Iterator[MostCalls]:
    """Count the calls in the turns of the loop that begin or end within the block."""
    counter = MostCalls()
    trio.lowlevel.add_instrument(counter)
    former = sys.getprofile()
    sys.setprofile(counter._count)
    try:
        yield counter
    finally:
        sys.setprofile(former)
        counter.before_io_wait(0)
        trio.lowlevel.remove_instrument(counter)
