"""What the leak proof found, each in its smallest form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import notification, request
from trio_mcp_session import (
    AdmissionPolicy,
    ClientInfo,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionKind,
    SessionLimitReached,
    SessionLimits,
    SessionVetoed,
    TerminationReason,
    Transport,
    current_session,
    open_session_manager,
)
from trio_mcp_session.server.accept import accept
from trio_mcp_session.testing import (
    ConnectionEnded,
    FaultyContext,
    assert_no_leaks,
    connect_client,
    crash,
    hang,
    refuse_cancellation,
)
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.memory import memory_channel_pair
from trio_mcp_session.transports.writer import ConnectionWriter

from .exchange import HttpPeer
from .modern import world

ANN, BOB = Principal("ann"), Principal("bob")
NARROW = SessionLimits(max_in_flight=1, max_stateless_requests=1)


async def test_a_lifespan_that_cancels_from_within_ends_its_session_only(
    autojump_clock: MockClock,
) -> None:
    # Its nursery takes the session's along, and then there is nothing to run requests in, while
    # the lifespan takes its time to end.
    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        assert session.client is not None
        if session.client.client_id != "unlucky":
            yield
            return
        async with (
            trio.open_nursery() as nursery,
            FaultyContext(leave=partial(refuse_cancellation, 5)),
        ):
            nursery.start_soon(crash, ValueError("in the background"))
            yield

    router = Router("r", lifespan=lifespan)

    @router.tool()
    async def hello() -> str:
        return "hello"

    async with open_session_manager(router) as manager:
        async with connect_client(manager) as neighbour:
            async with connect_client(manager, version=None) as client:
                await client.initialize(name="unlucky")
                session = client.session
                await wait_all_tasks_blocked()
                assert session.termination_reason is TerminationReason.CRASHED
                with pytest.raises(ConnectionEnded):
                    await client.call_tool("hello")
                assert (await neighbour.call_tool("hello")).text == "hello"
                await session.wait_terminated()
                assert trio.current_time() == 5
        assert_no_leaks(manager, live=())


async def test_a_lifespan_that_cancels_from_within_leaves_no_request_unanswered(
    autojump_clock: MockClock,
) -> None:
    # It cancels the handlers in the same moment as their session, which then knows of none.
    crashes = trio.Event()

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_crash_after, crashes)
            yield

    router = Router("r", lifespan=lifespan)
    router.tool()(hang)
    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        peer = HttpPeer(http_app(manager), nursery.start_soon)
        opening = peer.prepare_initialize("unlucky")
        await opening.run()
        assert peer.learn(opening)
        calls = [await peer.start_request("tools/call", {"name": "hang"}) for _ in range(20)]
        await wait_all_tasks_blocked()
        crashes.set()
        await wait_all_tasks_blocked()
        assert all(call.exchange.has_answer for call in calls)
        assert_no_leaks(manager, live=())


async def test_a_lifespan_that_cancels_from_within_is_why_the_session_ends(
    autojump_clock: MockClock,
) -> None:
    # Its client has left, and the last answer reaches no client: those are other reasons.
    crashes: list[trio.Event] = []

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        crashes.append(trio.Event())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_crash_after, crashes[-1])
            yield

    router = Router("r", lifespan=lifespan)
    router.tool()(hang)
    async with open_session_manager(router) as manager:
        for _ in range(20):  # The order of tasks is not the same each time.
            async with connect_client(manager) as client:
                await client.start_request("tools/call", {"name": "hang"})
                await wait_all_tasks_blocked()
                client.drop()
                await wait_all_tasks_blocked()
                crashes[-1].set()
                assert await client.session.wait_terminated() is TerminationReason.CRASHED


async def _crash_after(event: trio.Event) -> None:
    await event.wait()
    raise ValueError("in the background")


async def test_a_client_that_disconnects_is_not_an_error_of_the_server(
    autojump_clock: MockClock,
) -> None:
    router = Router("r")

    @router.tool()
    async def talk(ctx: RequestContext) -> str:
        await ctx.notify("notifications/message", {"level": "info", "data": "hello"})
        return "done"

    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        peer = HttpPeer(http_app(manager), nursery.start_soon)
        opening = peer.prepare_initialize("plain")
        await opening.run()
        assert peer.learn(opening)
        call = await peer.start_request("tools/call", {"name": "talk"})
        await call.exchange.ended.wait()
        finished = call.exchange.last_event_id
        for exchange in (
            peer.prepare_initialize("plain", session_id=None),
            peer.prepare("POST", request("1", "ping")),
            peer.prepare("POST", request("2", "tools/call", {"name": "talk"})),
            peer.prepare("POST", notification("notifications/initialized")),
            peer.prepare("POST", {}),
            peer.prepare("GET"),
            peer.prepare("GET", last_event_id=finished),
            peer.prepare("GET", last_event_id="nonsense"),
            peer.prepare("DELETE"),
            peer.prepare("DELETE"),
        ):
            exchange.leave()
            await exchange.run()
            assert exchange.status
            assert not exchange.complete
        assert not any(one.running for one in peer.exchanges)
        await wait_all_tasks_blocked()
        assert_no_leaks(manager, live=())


async def test_a_veto_is_a_veto_whatever_else_fails(autojump_clock: MockClock) -> None:
    async def on_created(session: Session) -> None:
        await session.enter_async_context(FaultyContext(leave=partial(crash, OSError())))
        raise ValueError("not you")

    hooks = SessionHooks(on_session_created=on_created)
    async with open_session_manager(hooks=hooks) as manager:
        with pytest.raises(SessionVetoed):
            await manager.create_session()
        assert manager.statistics().refused == {"SessionVetoed": 1}
        assert_no_leaks(manager, live=())


async def test_a_session_that_is_being_evicted_still_counts(autojump_clock: MockClock) -> None:
    # Bob's session makes room for Ann's, but takes its time: meanwhile it is still Bob's.
    limits = SessionLimits(
        max_sessions=2, max_sessions_per_principal=1, admission=AdmissionPolicy.EVICT_IDLE
    )
    async with open_session_manager(config=SessionConfig(limits=limits)) as manager:
        slow = FaultyContext(leave=partial(refuse_cancellation, 1))
        first = await manager.create_session(
            ClientInfo(client_id="bob"), principal=BOB, lifespan=lambda _: slow
        )
        await trio.sleep(0.1)
        await manager.create_session()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(manager.create_session, principal=ANN))
            await wait_all_tasks_blocked()
            assert first.termination_reason is TerminationReason.EVICTED
            with pytest.raises(SessionLimitReached) as caught:
                await manager.create_session(principal=BOB)
            assert caught.value.per_principal
            assert caught.value.kind is SessionKind.HANDLE
            assert manager.store.of_principal(BOB) == [first]
        await manager.drain(grace=0)
        assert_no_leaks(manager, live=())


async def test_the_place_of_an_evicted_session_is_reserved_for_the_new_one(
    autojump_clock: MockClock,
) -> None:
    # A hook of the victim comes between the victim's end and the task that waits for it.
    refused: list[Exception] = []

    async def on_terminated(session: Session, reason: TerminationReason) -> None:
        if reason is TerminationReason.EVICTED:
            try:
                await manager.create_session()
            except SessionLimitReached as error:
                refused.append(error)

    limits = SessionLimits(max_sessions=1, admission=AdmissionPolicy.EVICT_IDLE)
    hooks = SessionHooks(on_session_terminated=on_terminated)
    async with open_session_manager(config=SessionConfig(limits=limits), hooks=hooks) as manager:
        await manager.create_session()
        newcomer = await manager.create_session()
        await wait_all_tasks_blocked()
        assert manager.sessions() == [newcomer]
        assert len(refused) == 1
        newcomer.terminate()


async def test_a_session_can_hold_contexts_before_its_task_has_had_a_turn(
    autojump_clock: MockClock,
) -> None:
    current: list[Session] = []

    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        current.append(current_session())
        yield

    _, there = memory_channel_pair()
    outbox = ConnectionWriter(channel=there, limit=1, timeout=1)
    async with open_session_manager(Router("r")) as manager:
        session = await accept(manager, outbox, transport=Transport("test"))
        assert session._task is None
        await session.enter_async_context(context())
        assert current == [session]
        session.terminate()
        await session.wait_terminated()
        assert_no_leaks(manager, live=())


@pytest.mark.parametrize("how", ["pipe", "http"])
async def test_a_handler_that_asks_again_frees_its_place_for_a_queued_call(
    autojump_clock: MockClock, how: str
) -> None:
    # The second time its handler is no longer a worker of the gate, which would see to that.
    async with world(NARROW) as here:
        asker = await here.come(how, "ann")
        talk = await here.ask(asker, "quiz")
        call = await talk.come_back(asker)
        await here.settle()
        waiting = await asker.call("work", {"key": "open"})
        here.server.gate("open").set()
        assert await here.outcome(waiting) == "nothing"
        here.server.gate(str(talk.arguments["key"])).set()
        assert await here.outcome(call) == "asked"
        assert waiting.outcome == "done"


@pytest.mark.parametrize("hows", [("pipe", "http"), ("http", "pipe"), ("http", "http")])
@pytest.mark.parametrize("ends", [False, True])
async def test_a_retry_on_another_connection_frees_its_place_at_its_end(
    autojump_clock: MockClock, hows: tuple[str, str], *, ends: bool
) -> None:
    # The place was another gate's than the one that its handler began in.
    async with world(NARROW) as here:
        one, other = [await here.come(how, "ann") for how in hows]
        talk = await here.ask(one, "quiz")
        call = await talk.come_back(other)
        await here.settle()
        waiting = await other.call("work", {"key": "open"})
        here.server.gate("open").set()
        assert await here.outcome(waiting) == "nothing"
        if ends:
            here.parked()[0].terminate()
        else:
            call.withdraw()
            await trio.sleep(1)
        assert await here.outcome(waiting) == "done"
