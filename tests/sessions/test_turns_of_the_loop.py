"""One turn of the event loop does not take longer where there are more sessions.

What is counted is calls, so the tests say the same on every machine. `FEW` and `MANY` sessions go
through the same; with a cost for each session in one turn, the second would take four times as
many calls.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from tests.turns_of_the_loop import most_calls
from trio_mcp_session import (
    CleanupConfig,
    Principal,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionLimits,
    SessionManager,
    SessionState,
    TerminationReason,
    open_session_manager,
)
from trio_mcp_session.sessions.endings import BATCH

FEW = 4 * BATCH
MANY = 4 * FEW
ANN = Principal("ann")

Work = Callable[[SessionManager, list[Session]], Awaitable[None]]


def config_for(count: int) -> SessionConfig:
    limits = SessionLimits(max_sessions=count, max_sessions_per_principal=count)
    cleanup = CleanupConfig(idle_after=20, max_idle_time=100, cleanup_interval=1)
    return SessionConfig(limits=limits, cleanup=cleanup)


async def ended(sessions: list[Session]) -> None:
    for session in sessions:
        await session.wait_terminated()


async def drain(manager: SessionManager, sessions: list[Session]) -> None:
    report = await manager.drain()
    assert len(report.completed) == len(sessions)


async def retire(manager: SessionManager, sessions: list[Session]) -> None:
    await manager.retire(0)


async def expire(manager: SessionManager, sessions: list[Session]) -> None:
    await trio.sleep(50)
    assert manager.statistics().states == {SessionState.IDLE: len(sessions)}
    await trio.sleep(60)
    assert not manager.sessions()


async def count(manager: SessionManager, sessions: list[Session]) -> None:
    assert manager.statistics().active


async def calls_in(work: Work, number: int) -> int:
    """Return the most calls in one turn while so many sessions go through this."""
    async with open_session_manager(Router("test"), config=config_for(number)) as manager:
        sessions = [await manager.create_session() for _ in range(number)]
        with most_calls() as counter:
            await trio.lowlevel.checkpoint()
            await work(manager, sessions)
            await trio.lowlevel.checkpoint()
    return counter.most


@pytest.mark.parametrize("work", [drain, retire, expire, count])
async def test_no_turn_takes_longer_with_more_sessions(
    work: Work, autojump_clock: MockClock
) -> None:
    few, many = await calls_in(work, FEW), await calls_in(work, MANY)
    assert many < 1.1 * few


async def test_leaving_the_manager_takes_no_longer_turn_with_more_sessions(
    autojump_clock: MockClock,
) -> None:
    async def calls(number: int) -> int:
        async with open_session_manager(Router("test"), config=config_for(number)) as manager:
            for _ in range(number):
                await manager.create_session()
            block = most_calls()
            counter = block.__enter__()
        block.__exit__(None, None, None)
        return counter.most

    few, many = await calls(FEW), await calls(MANY)
    assert many < 1.1 * few


async def turns_of_endings(
    end: Callable[[SessionManager, list[Session]], None],
    number: int,
    hooks: SessionHooks | tuple[()] = (),
) -> list[int]:
    """End sessions by one call; return how many leave the table between two steps of this task.

    Trio runs the tasks of one turn in any order, so these may belong to two turns.
    """
    left: list[int] = []
    async with open_session_manager(
        Router("test"), config=config_for(number), hooks=hooks
    ) as manager:
        sessions = [await manager.create_session(principal=ANN) for _ in range(number)]
        await trio.testing.wait_all_tasks_blocked()
        end(manager, sessions)
        while manager.statistics().active:
            there = sum(manager.statistics().active.values())
            await trio.lowlevel.checkpoint()
            left.append(there - sum(manager.statistics().active.values()))
    assert sum(left) == number
    return left


def revoke(manager: SessionManager, sessions: list[Session]) -> None:
    assert manager.revoke(ANN) == len(sessions)


def terminate_all(manager: SessionManager, sessions: list[Session]) -> None:
    for session in sessions:
        session.terminate()
    assert all(session.state is SessionState.TERMINATING for session in sessions)


@pytest.mark.parametrize("end", [revoke, terminate_all])
async def test_sessions_that_one_call_ends_end_in_batches(
    end: Callable[[SessionManager, list[Session]], None], autojump_clock: MockClock
) -> None:
    assert max(await turns_of_endings(end, FEW)) <= 2 * BATCH


async def test_sessions_with_hooks_end_in_batches(autojump_clock: MockClock) -> None:
    states: list[SessionState] = []

    async def changed(session: Session, old: SessionState, new: SessionState) -> None:
        states.append(new)

    hooks = SessionHooks(on_state_changed=changed)
    assert max(await turns_of_endings(revoke, FEW, hooks)) <= 2 * BATCH
    assert states.count(SessionState.TERMINATED) == FEW


async def test_a_session_that_waits_for_its_end_ends_when_something_else_wakes_it(
    autojump_clock: MockClock,
) -> None:
    """Its body is cancelled then, too."""
    async with open_session_manager(Router("test"), config=config_for(FEW)) as manager:
        others = [await manager.create_session() for _ in range(FEW - 1)]
        with pytest.raises(Exception, match="requested"):
            async with manager.open_session() as session:
                for other in others:
                    other.terminate()
                session.terminate()
                assert session in list(manager._endings)
                assert session._asleep
                session._wake()
                await trio.sleep_forever()
        assert session.termination_reason is TerminationReason.REQUESTED
        await ended(others)
        assert list(manager._endings) == []
