"""A session that made a call takes as little as before, within a second of quiet."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import Peer, connect, request, result, serving, talking
from trio_mcp_session import RequestContext, Router, open_session_manager
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.resting import Resting
from trio_mcp_session.sessions.endings import BATCH


def router() -> Router:
    router = Router("r")

    @router.request("echo")
    async def echo(ctx: RequestContext) -> dict[str, int]:
        return {}

    @router.request("wait")
    async def wait(ctx: RequestContext) -> dict[str, int]:
        await trio.sleep(100)
        return {}

    return router


def workers(peer: Peer) -> list[trio.lowlevel.Task]:
    """The tasks of its requests, which run or wait for the next one."""
    queue = client_of(peer.session).requests
    return [] if queue is None else [worker.task for worker in queue._workers]


async def test_nothing_of_a_call_is_left_within_a_second(autojump_clock: MockClock) -> None:
    async with talking(router()) as peer:
        await peer.ask(1, "echo")
        await wait_all_tasks_blocked()
        assert len(workers(peer)) == 1
        await trio.sleep(1)
        assert client_of(peer.session).requests is None
        assert peer.session._nursery is not None
        assert not peer.session._nursery.child_tasks
        assert (await peer.ask(2, "echo"))["id"] == 2


async def test_a_client_that_calls_again_keeps_its_worker(autojump_clock: MockClock) -> None:
    async with talking(router()) as peer:
        await peer.ask(1, "echo")
        await wait_all_tasks_blocked()
        first = workers(peer)
        for number in range(2, 20):
            await trio.sleep(0.25)
            await peer.ask(number, "echo")
            await wait_all_tasks_blocked()
            assert workers(peer) == first


async def test_a_request_that_runs_keeps_its_worker_only(autojump_clock: MockClock) -> None:
    async with serving(router()) as manager:
        peer = await connect(manager)
        await peer.establish()
        await peer.send(request(1, "wait"))
        await peer.ask(2, "echo")
        await wait_all_tasks_blocked()
        assert len(workers(peer)) == 2
        await trio.sleep(1)
        assert len(workers(peer)) == 1
        assert not len(server_of(manager).resting)
        assert await peer.receive() == result(1, {})
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        assert client_of(peer.session).requests is None


@pytest.mark.parametrize("count", [1, BATCH + 1])
async def test_what_looks_ends_when_all_are_quiet(count: int, autojump_clock: MockClock) -> None:
    async with serving(router()) as manager:
        resting = server_of(manager).resting
        peers = [await connect(manager) for _ in range(count)]
        for peer in peers:
            await peer.establish()
            await peer.ask(1, "echo")
        await wait_all_tasks_blocked()
        assert (len(resting), resting._running) == (count, True)
        await trio.sleep(1)
        assert (len(resting), resting._running) == (0, False)
        await peers[0].ask(2, "echo")
        await wait_all_tasks_blocked()
        assert (len(resting), resting._running) == (1, True)


class Queue:
    """A queue that is gone, with all others, as soon as it is looked at."""

    taken = 0

    def __init__(self, resting: Resting, others: list[Queue]) -> None:
        self.looks = 0
        self.resting, self.others = resting, others
        others.append(self)
        resting.add(cast("Any", self))

    def retire(self) -> bool:
        self.looks += 1
        for one in self.others:
            self.resting.discard(cast("Any", one))
        return True


async def test_a_queue_that_goes_during_a_look_is_not_looked_at(
    autojump_clock: MockClock,
) -> None:
    async with serving(router()) as manager:
        resting, queues = server_of(manager).resting, list[Queue]()
        for _ in range(3):
            Queue(resting, queues)
        await trio.sleep(1)
        assert [queue.looks for queue in queues] == [1, 0, 0]
        assert not resting._running


async def test_a_session_that_ends_leaves_no_queue_behind(autojump_clock: MockClock) -> None:
    async with serving(router()) as manager:
        peer = await connect(manager)
        await peer.establish()
        await peer.ask(1, "echo")
        await peer.channel.aclose()
        await peer.session.wait_terminated()
        await trio.sleep(1)
        assert not len(server_of(manager).resting)


async def test_the_end_of_a_manager_does_not_wait_for_it(autojump_clock: MockClock) -> None:
    async with serving(router()) as manager:
        peer = await connect(manager)
        await peer.establish()
        await peer.ask(1, "echo")
        await wait_all_tasks_blocked()
        began = trio.current_time()
    assert trio.current_time() == began


async def test_when_the_manager_has_been_left_no_queue_is_looked_at() -> None:
    async with open_session_manager(Router("quiet")) as manager:
        resting = server_of(manager).resting
    queue: Any = object()
    resting.add(queue)
    assert len(resting) == 0
