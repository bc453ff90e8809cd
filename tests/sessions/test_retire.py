"""Retiring: nothing new is admitted, and nothing that exists is lost before the time is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import Peer, connect, initialize, request, result
from tests.rounds import SCHEMA, Call, Town, Way, accept, town
from tests.transports.http.asgi_client import Client
from trio_mcp_session import (
    AdmissionPolicy,
    CleanupConfig,
    HandleKind,
    RequestContext,
    Router,
    SessionConfig,
    SessionKind,
    SessionLimits,
    SessionManager,
    ShuttingDown,
    TerminationReason,
    connect_memory,
    open_session_manager,
)

R = TerminationReason
REFUSED = (-32603, "server is shutting down")


@asynccontextmanager
async def manager_of(
    limits: SessionLimits | None = None, **clocks: float
) -> AsyncIterator[SessionManager]:
    settings = {"max_idle_time": inf, "drain_grace": 0, **clocks}
    config = SessionConfig(
        limits=limits or SessionLimits(),
        cleanup=CleanupConfig(**settings),  # type: ignore[arg-type]  # clocks are numbers
    )
    with trio.fail_after(10_000):
        async with open_session_manager(config=config) as manager:
            yield manager


async def test_it_is_not_ready_from_its_beginning_on(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        with assert_no_checkpoints():
            assert manager.ready
        with assert_checkpoints():
            await manager.retire()
        assert (manager.ready, manager.statistics().draining) == (False, False)
        for kind in (SessionKind.HANDLE, SessionKind.CONNECTION, SessionKind.HEADER):
            with pytest.raises(ShuttingDown):
                await manager.create_session(kind=kind)
        assert manager.statistics().refused == {"ShuttingDown": 3}
        # What waits for its client continues a call that exists.
        await manager.create_session(kind=SessionKind.PARKED)


async def test_a_drain_is_not_ready_either(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        await manager.drain()
        assert not manager.ready
        with pytest.raises(ShuttingDown):
            await manager.create_session(kind=SessionKind.PARKED)
        # There is nothing left to wait for.
        await manager.retire(inf)
        assert trio.current_time() == 0


@pytest.mark.parametrize("grace, configured", [(None, 0), (None, 30), (30, 0), (0, 30)])
async def test_it_waits_until_its_time_is_over(
    grace: float | None, configured: float, autojump_clock: MockClock
) -> None:
    async with manager_of(retire_grace=configured) as manager:
        session = await manager.create_session()
        await manager.retire(grace)
        assert trio.current_time() == (configured if grace is None else grace)
        assert session.state.value == "active"
        session.start_soon(trio.sleep, 1)
        # Asked again, it waits again.
        await manager.retire(5)
        assert trio.current_time() == (configured if grace is None else grace) + 5


async def test_retire_returns_early_when_the_last_session_ends(autojump_clock: MockClock) -> None:
    async with manager_of() as manager, trio.open_nursery() as nursery:
        sessions = [await manager.create_session() for _ in range(3)]
        for _ in range(2):
            nursery.start_soon(manager.retire, inf)
        for number, session in enumerate(sessions, 1):
            await trio.sleep(1)
            assert len(nursery.child_tasks) == 2, number
            session.terminate()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert trio.current_time() == 3


async def test_a_parked_handler_that_comes_meanwhile_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with manager_of() as manager, trio.open_nursery() as nursery:
        first = await manager.create_session()
        nursery.start_soon(manager.retire, inf)
        await wait_all_tasks_blocked()
        second = await manager.create_session(kind=SessionKind.PARKED)
        first.terminate()
        await trio.sleep(5)
        assert len(nursery.child_tasks) == 1
        second.terminate()


async def test_cancelled_it_stays_retired(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        with trio.move_on_after(3) as scope:
            await manager.retire(inf)
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await manager.retire()
        assert scope.cancelled_caught
        assert not manager.ready
        assert session.state.value == "active"


async def test_a_session_cannot_wait_for_its_own_end(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()

        async def inside() -> None:
            with pytest.raises(RuntimeError, match="cannot wait"):
                await manager.retire()

        session.start_soon(inside)
        await wait_all_tasks_blocked()
        assert manager.ready
        assert session.error is None


async def test_retire_refuses_a_session_that_waits_for_its_place(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def slow(_: object) -> AsyncIterator[None]:
        yield
        await trio.sleep(2)

    limits = SessionLimits(max_sessions=1, admission=AdmissionPolicy.EVICT_IDLE)
    async with manager_of(limits) as manager, trio.open_nursery() as nursery:
        await manager.create_session(lifespan=slow)

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(ShuttingDown):
                await manager.create_session()

        await wait_all_tasks_blocked()
        # It counts as something that exists, until it knows.
        await manager.retire(inf)
        assert trio.current_time() == 2


async def test_a_drain_after_retire_uses_its_own_grace(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        await manager.retire(10)
        session.start_soon(trio.sleep, 4)
        report = await manager.drain(grace=20)
        assert trio.current_time() == 14
        assert report.completed == (session.session_id,)


async def test_a_drain_sets_the_moment_by_which_all_must_be_over(
    autojump_clock: MockClock,
) -> None:
    """Once; only a sooner one takes its place."""
    async with manager_of(shutdown_timeout=20) as manager:
        assert manager._shutdown.at == inf
        await manager.retire(5)
        assert manager._shutdown.at == inf
        await trio.sleep(1)
        await manager.drain()
        assert manager._shutdown.at == 21
        await trio.sleep(1)
        await manager.drain()
        assert manager._shutdown.at == 21
        manager._begin_shutdown(1.5)
        assert manager._shutdown.at == 3.5


async def test_a_retired_manager_refuses_new_connections_and_serves_old_ones(
    autojump_clock: MockClock,
) -> None:
    async with open_session_manager(Router("r")) as manager:
        old = await connect(manager)
        await old.establish()
        await manager.retire()
        channel = await connect_memory(manager)
        await channel.send(msgspec.json.encode(initialize(1)))
        answer = await channel.receive()
        assert b"server is shutting down" in answer
        assert await old.ask(2, "ping") == result(2)


async def test_retire_waits_for_stateless_requests_over_http(
    autojump_clock: MockClock,
) -> None:
    router = Router("r")

    @router.tool()
    async def work(ctx: RequestContext) -> str:
        await trio.sleep(7)
        return "done"

    async with town(router) as here:
        call = await here.http().call("work")
        with assert_checkpoints():
            await here.manager.retire(inf)
        assert trio.current_time() == 7
        await wait_all_tasks_blocked()
        assert call.text == "done"
        # They cannot be told from those that use what exists.
        assert (await here.http().call("work", request_id=2)).answer is None
        await trio.sleep(7)


# All that there is, of both eras.


class House:
    """A server with something of every kind to keep."""

    def __init__(self) -> None:
        self.router = Router("house")
        self.kind = HandleKind[list[str]]("box", self.opened)
        self.router.tool()(self.open)
        self.router.tool()(self.put)
        self.router.tool()(self.ask)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[list[str]]:
        box = ["it"]
        yield box
        box.append("closed")

    async def open(self, ctx: RequestContext) -> str:
        return await ctx.open_handle(self.kind)

    async def put(self, ctx: RequestContext, box: str, what: str) -> str:
        async with ctx.use_handle(self.kind, box) as found:
            found.append(what)
            return " ".join(found)

    async def ask(self, ctx: RequestContext) -> str:
        answer = await ctx.elicit("Who?", SCHEMA, key="name")
        assert answer.content is not None
        return str(answer.content["name"])


def call(number: int, tool: str, **arguments: Any) -> dict[str, Any]:
    return request(number, "tools/call", {"name": tool, "arguments": arguments})


async def answer_to(peer: Peer) -> Any:
    """Receive the next message that is not a notification."""
    while "id" not in (message := await peer.receive()):
        assert message["method"] == "notifications/tools/list_changed"
    return message


def text_of(answer: Any) -> str:
    text: str = answer["result"]["content"][0]["text"]
    return text


async def listen(way: Way) -> Call:
    """Subscribe to changes of the tools."""
    return await way.begin("subscriptions/listen", {"notifications": {"toolsListChanged": True}})


async def assert_nothing_new(here: Town, way: Way) -> None:
    """Check that neither sessions nor handles nor subscriptions are admitted."""
    response = await Client(here.app).request("POST", initialize(1))
    assert (response.status, "retry-after" in response.headers) == (503, True)
    with pytest.raises(ShuttingDown):
        await here.manager.create_session()
    refused = await way.call("open")
    assert "server is shutting down" in str(refused.answer)
    assert (await listen(way)).error == REFUSED


@pytest.mark.parametrize("by", ["http", "pipe"])
async def test_nothing_that_exists_is_lost_while_it_retires(
    by: str, autojump_clock: MockClock
) -> None:
    async with town(House().router, cleanup=CleanupConfig(retire_grace=60)) as here:
        manager = here.manager
        # 2026-07-28: a handle, a subscription, a question that waits for its client.
        modern = await here.way(by, "ann")
        box = (await modern.call("open")).text
        subscription = await listen(modern)
        parked = await modern.call("ask")
        assert parked.keys == {"name"}
        # 2025-11-25: sessions on a pipe and over HTTP, a handle, a question that is open.
        peer = await connect(manager)
        await peer.establish(capabilities={"elicitation": {}})
        await peer.send(call(1, "open"))
        other_box = text_of(await answer_to(peer))
        await peer.send(call(2, "ask"))
        question = await peer.receive()
        assert question["method"] == "elicitation/create"
        header = await Client(here.app, {"x-user": "ben"}).initialize()

        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.retire)
            await wait_all_tasks_blocked()
            for again in range(2):
                await assert_nothing_new(here, modern)
                assert (await modern.call("put", {"box": box, "what": "more"})).text.endswith(
                    "more" if again else "it more"
                )
                await peer.send(call(3 + again, "put", box=other_box, what="x"))
                assert text_of(await answer_to(peer)).startswith("it x")
                assert "result" in await header.post(request(5, "tools/list"))
                assert manager.notify_list_changed("tools").listeners == 1
                # Just before the end it is as it was at the beginning.
                await trio.sleep(start + 59 - trio.current_time())
            # The questions of both eras are still there, and the calls end as they should.
            resumed = await modern.retry(parked, {"name": accept(name="Ada")})
            assert resumed.text == "Ada"
            await peer.send(result(question["id"], accept(name="Bea")))
            assert text_of(await answer_to(peer)) == "Bea"
            # Also one that is asked only now: it continues, it is nothing that lives on.
            late = await modern.call("ask")
            assert late.keys == {"name"}
            assert (await modern.retry(late, {"name": accept(name="Eve")})).text == "Eve"
            assert all(one.termination_reason is None for one in manager.sessions())
        assert trio.current_time() == start + 60
        report = await manager.drain()
        assert not report.cancelled
        assert not report.failed
        assert {one.termination_reason for one in here.seen} <= {R.SHUTDOWN, None}
        await wait_all_tasks_blocked()
        assert subscription.answer is not None
        # Its own connection is closed: it finds out over another one.
        refused = await here.http("ann").call("put", {"box": box, "what": "too late"})
        assert refused.error == REFUSED
