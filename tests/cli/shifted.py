"""Runs a program on a clock that a signal turns: half a day later with every SIGUSR1.

``python shifted.py PROGRAM`` says *ready* on standard error when it is, and *later* when the time
has passed and all that was due has happened.
"""

from __future__ import annotations

import runpy
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

HALF_A_DAY = 43_200.0
CUSHION = 0.05


class ShiftedClock(trio.abc.Clock):
    """Real time, and what was added to it."""

    def __init__(self) -> None:
        self.shift = 0.0

    def start_clock(self) -> None:
        """It runs always."""

    def current_time(self) -> float:
        return time.monotonic() + self.shift

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def shift(clock: ShiftedClock) -> None:
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        say("ready")
        async for _ in signals:
            clock.shift += HALF_A_DAY
            await wait_all_tasks_blocked(CUSHION)
            say("later")


def run_shifted(
    run: Callable[..., Any], async_fn: Callable[..., Awaitable[Any]], *args: object
) -> Any:
    clock = ShiftedClock()

    async def main() -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shift, clock)
            value = await async_fn(*args)
            nursery.cancel_scope.cancel()
        return value

    return run(main, clock=clock)


if __name__ == "__main__":
    trio.run = partial(run_shifted, trio.run)  # type: ignore[assignment]  # the same, but for the clock
    sys.path.insert(0, "")
    runpy.run_path(sys.argv[1], run_name="__main__")
