"""Sleeping and waking, over and over."""

from __future__ import annotations

import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from trio_mcp_session.transports.http.wakeup import Wakeup


async def test_it_sleeps_until_it_is_woken_each_time(autojump_clock: MockClock) -> None:
    sleeper, woken = Wakeup(), []

    async def sleep() -> None:
        for _ in range(3):
            with assert_checkpoints():
                await sleeper.sleep()
            woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)
        for _ in range(3):
            await trio.sleep(1)
            with assert_no_checkpoints():
                sleeper.wake()
                sleeper.wake()  # Once is enough.
    assert woken == [1, 2, 3]


async def test_a_wake_without_a_sleeping_task_is_forgotten() -> None:
    sleeper = Wakeup()
    sleeper.wake()
    # No task slept: one that sleeps later is not woken by it.
    with trio.move_on_after(0) as scope:
        await sleeper.sleep()
    assert scope.cancelled_caught


async def test_sleep_can_be_cancelled_and_waking_comes_too_late(autojump_clock: MockClock) -> None:
    sleeper = Wakeup()
    with trio.move_on_after(1) as scope:
        await sleeper.sleep()
    assert scope.cancelled_caught
    sleeper.wake()
    await wait_all_tasks_blocked()


async def test_woken_and_cancelled_in_the_same_moment(autojump_clock: MockClock) -> None:
    for woken_first in (True, False):
        sleeper, scope = Wakeup(), trio.CancelScope()
        slept: list[bool] = []

        async def sleep(
            sleeper: Wakeup = sleeper,
            scope: trio.CancelScope = scope,
            slept: list[bool] = slept,
        ) -> None:
            with scope:
                await sleeper.sleep()
                slept.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
            await wait_all_tasks_blocked()
            for act in (
                (sleeper.wake, scope.cancel) if woken_first else (scope.cancel, sleeper.wake)
            ):
                act()
        # Whichever was first has its way, and nothing is rescheduled twice.
        assert slept == [True] * woken_first
