"""A Trio run that stands still between the rules of a hypothesis state machine.

Trio runs in guest mode: a rule posts a function, and the test pumps Trio's loop until
that has returned. Between two rules nothing runs. Time is a `MockClock` that jumps only when a
rule says so: one that jumps by itself would do it between the rules, too.
"""

from __future__ import annotations

import queue
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import outcome
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

T = TypeVar("T")


class Guest:
    """One run of Trio, from construction to `close`."""

    def __init__(self) -> None:
        self.clock = MockClock()
        self._turns: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._finished: outcome.Outcome[Any] | None = None
        self._stop = trio.Event()
        self.nursery: trio.Nursery | None = None
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._turns.put,
            done_callback=self._done,
            host_uses_signal_set_wakeup_fd=True,
            clock=self.clock,
        )
        self._pump(lambda: self.nursery is not None)

    def run(self, async_fn: Callable[..., Awaitable[T]], *args: object) -> T:
        """Call ``async_fn(*args)`` in the run, let the dust settle, and return its result."""
        results: list[outcome.Outcome[T]] = []

        async def call() -> None:
            result: outcome.Outcome[T] = await outcome.acapture(async_fn, *args)
            await wait_all_tasks_blocked()
            results.append(result)

        self._token.run_sync_soon(self._spawn, call)
        self._pump(lambda: bool(results))
        return results[0].unwrap()

    def close(self) -> None:
        """End the run, and whatever still runs in it."""
        if self._finished is None:
            self._token.run_sync_soon(self._stop.set)
            self._token.run_sync_soon(self._let_time_pass)
            self._pump(lambda: False)

    def _let_time_pass(self) -> None:
        """Let nothing hold up the end that takes its time, shielded."""
        trio.lowlevel.spawn_system_task(self._jump_on)

    async def _jump_on(self) -> None:
        while True:
            await wait_all_tasks_blocked()
            self.clock.jump(1)

    def _spawn(self, async_fn: Callable[[], Awaitable[None]]) -> None:
        assert self.nursery is not None
        self.nursery.start_soon(async_fn)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def _done(self, result: outcome.Outcome[Any]) -> None:
        self._finished = result

    def _pump(self, until: Callable[[], bool]) -> None:
        while self._finished is None and not until():
            self._turns.get(timeout=4)()
        if self._finished is not None:
            self._finished.unwrap()
