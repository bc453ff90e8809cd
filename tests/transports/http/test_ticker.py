"""The one timer: it runs while there is something to look at, and as often as it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints

from trio_mcp_session import SessionManager, open_session_manager
from trio_mcp_session.transports.http.ticker import LONGEST_INTERVAL, Ticker


@final
@attrs.define(eq=False)
class Member:
    """Something that notes when it was looked at."""

    times: list[float] = attrs.field(factory=list[float])
    then: Callable[[], None] = lambda: None

    def tick(self, now: float) -> None:
        assert now == trio.current_time()
        self.times.append(now)
        self.then()


def running(manager: SessionManager) -> int:
    return sum("Ticker" in task.name for task in manager._sessions_nursery.child_tasks)


async def test_a_ticker_runs_its_task_only_while_it_has_members(autojump_clock: MockClock) -> None:
    async with open_session_manager() as manager:
        ticker = Ticker(manager, 10)
        one, other = Member(), Member()
        assert (len(ticker), running(manager)) == (0, 0)
        for round_ in range(2):
            start = trio.current_time()
            with assert_no_checkpoints():
                ticker.add(one)
            assert (len(ticker), running(manager)) == (1, 1)
            await trio.sleep(1.5)
            with assert_no_checkpoints():
                ticker.add(other)
                ticker.add(other)
            assert (len(ticker), running(manager)) == (2, 1)
            await trio.sleep(1)
            with assert_no_checkpoints():
                ticker.discard(one)
                ticker.discard(one)
            await trio.sleep(1)
            ticker.discard(other)
            await trio.sleep(2)
            assert (len(ticker), running(manager)) == (0, 0), round_
            assert one.times == [start + 1, start + 2]
            assert other.times == [start + 2, start + 3]
            one.times.clear()
            other.times.clear()


@pytest.mark.parametrize("shortest, interval", [(0.5, 0.25), (2, 1), (1000, LONGEST_INTERVAL)])
async def test_it_looks_often_enough(
    shortest: float, interval: float, autojump_clock: MockClock
) -> None:
    async with open_session_manager() as manager:
        ticker, member = Ticker(manager, shortest), Member()
        ticker.add(member)
        await trio.sleep(interval * 3.5)
        ticker.discard(member)
    assert member.times == [interval, 2 * interval, 3 * interval]


async def test_members_come_and_go_while_it_looks(autojump_clock: MockClock) -> None:
    async with open_session_manager() as manager:
        ticker, late = Ticker(manager, 10), Member()
        leaver, host = Member(), Member()
        leaver.then = lambda: ticker.discard(leaver)
        host.then = lambda: ticker.add(late)
        ticker.add(leaver)
        ticker.add(host)
        await trio.sleep(2.5)
        assert len(leaver.times) == 1
        assert host.times == [1, 2]
        assert late.times == [2]
        ticker.discard(host)
        ticker.discard(late)


async def test_a_member_that_has_gone_in_the_same_look_is_not_looked_at(
    autojump_clock: MockClock,
) -> None:
    async with open_session_manager() as manager:
        ticker, gone, first = Ticker(manager, 10), Member(), Member()
        first.then = lambda: ticker.discard(gone)
        ticker.add(first)
        ticker.add(gone)
        await trio.sleep(1.5)
        assert (first.times, gone.times) == ([1], [])
        ticker.discard(first)


async def test_a_ticker_ends_with_its_manager(autojump_clock: MockClock) -> None:
    async with open_session_manager() as manager:
        ticker = Ticker(manager, 10)
        ticker.add(Member())
    assert not manager._sessions_nursery.child_tasks


async def test_a_failing_member_of_a_ticker_does_not_stop_the_others(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("the store is gone")

    async with open_session_manager() as manager:
        ticker = Ticker(manager, 10)
        bad, good = Member(then=fail), Member()
        ticker.add(bad)
        ticker.add(good)
        await trio.sleep(3.5)
        assert len(bad.times) == 1
        assert len(good.times) == 3
        ticker.discard(good)
        await trio.sleep(1)
        assert (len(ticker), running(manager)) == (0, 0)
    assert [record.message for record in caplog.records] == [
        "the clock of an HTTP response failed; it is not checked again"
    ]
