"""What has arrived counts: readers run before clocks expire, if the loop was away."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints

from trio_mcp_session import CleanupConfig, SessionConfig, open_session_manager
from trio_mcp_session.sessions.arrivals import AWAY, TURNS, let_arrive


async def turns_of(due: float) -> int:
    """How many turns other tasks get."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        turns = 0
        await let_arrive(due)
        nursery.cancel_scope.cancel()
    return turns


@pytest.mark.parametrize("late, turns", [(-1.0, 0), (0.0, 0), (AWAY, TURNS), (3600.0, TURNS)])
async def test_a_loop_that_was_away_gives_others_their_turns(
    late: float, turns: int, mock_clock: MockClock
) -> None:
    assert abs(await turns_of(trio.current_time() - late) - turns) <= 1


async def test_waiting_for_what_has_arrived_is_a_checkpoint_only_if_it_waits(
    mock_clock: MockClock,
) -> None:
    with assert_no_checkpoints():
        await let_arrive(trio.current_time())
    with assert_checkpoints():
        await let_arrive(trio.current_time() - 1)


async def test_a_session_that_is_used_in_these_turns_lives_on(mock_clock: MockClock) -> None:
    clocks = CleanupConfig(max_idle_time=60, cleanup_interval=0)
    async with open_session_manager(config=SessionConfig(cleanup=clocks)) as manager:
        used, unused = await manager.create_session(), await manager.create_session()
        mock_clock.jump(3600)

        async def use() -> None:
            for _ in range(TURNS // 2):
                await trio.lowlevel.checkpoint()
            used.touch()

        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own
            nursery.start_soon(use)
        await unused.wait_terminated()
        assert used.termination_reason is None
