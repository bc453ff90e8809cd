from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session.transports.http1.deadlines import Sweeper
from trio_mcp_session.transports.http1.limits import HttpServerLimits
from trio_mcp_session.transports.http1.wire import Wire

from .serving import pass_time


@pytest.fixture
def wires() -> Iterator[list[Wire]]:
    pairs = [socket.socketpair() for _ in range(2)]
    for ours, _ in pairs:
        ours.settimeout(0)
    yield [Wire(ours, HttpServerLimits()) for ours, _ in pairs]
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


async def test_a_read_past_its_deadline_ends_at_most_a_second_late(
    wires: list[Wire], mock_clock: MockClock
) -> None:
    sweeper = Sweeper(set(wires))
    ended: list[tuple[int, float]] = []

    async def wait(number: int, deadline: float) -> None:
        with pytest.raises(trio.TooSlowError):
            await wires[number].read(deadline)
        ended.append((number, trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        nursery.start_soon(wait, 0, 2.5)
        nursery.start_soon(wait, 1, 7.0)
        await wait_all_tasks_blocked()
        for _ in range(90):
            await pass_time(mock_clock, 0.1)
        nursery.cancel_scope.cancel()
    (first, at_first), (second, at_second) = ended
    assert (first, second) == (0, 1)
    assert 2.5 <= at_first <= 3.6
    assert 7.0 <= at_second <= 8.1


async def test_the_deadline_sweeper_sleeps_without_connections(
    wires: list[Wire], mock_clock: MockClock
) -> None:
    members: set[Wire] = set()
    sweeper = Sweeper(members)
    async with trio.open_nursery() as nursery:
        sweeper.start()
        nursery.start_soon(sweeper.run)
        await wait_all_tasks_blocked()
        # Nothing is to be done, ever.
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline > 1e6
        for _ in range(2):
            members.add(wires[0])
            sweeper.start()
            await wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline == 1
            members.clear()
            await pass_time(mock_clock, 1)
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline > 1e6
        nursery.cancel_scope.cancel()
