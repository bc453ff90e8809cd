"""What a client makes the process hold counts in its budget, and is refused beyond it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import (
    LATEST,
    Peer,
    brief,
    cancelled,
    connect,
    error,
    initialize,
    modern,
    notification,
    request,
    result,
    serving,
    talking,
)
from trio_mcp_session import (
    Principal,
    RequestContext,
    Router,
    Session,
    SessionLimits,
    SessionManager,
    TerminationReason,
    serve_stream,
)
from trio_mcp_session.core.identity import Transport
from trio_mcp_session.protocol.jsonrpc import Request, decode, decode_json, encode_json
from trio_mcp_session.server.busy import NO_MEMORY, OVERHEAD
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.server.dispatch import dispatch, receive_frame
from trio_mcp_session.server.listen import TOPIC_SIZE
from trio_mcp_session.sessions.byte_budgets import KEPT_BUDGETS, ByteBudgets
from trio_mcp_session.sessions.seldom_log import EVERY
from trio_mcp_session.transports.writer import ConnectionWriter

BUSY = -32603
KIB = 1024


def text(kib: int) -> dict[str, Any]:
    """Parameters of about so many bytes."""
    return {"text": "x" * (kib * KIB)}


def held(peer: Peer) -> int:
    return peer.session.metrics.bytes_held


def total(peer: Peer) -> int:
    manager = peer.session._manager
    assert isinstance(manager, SessionManager)
    return manager.statistics().bytes_held


class Desk:
    """Handlers that wait until the test lets them go."""

    def __init__(self) -> None:
        self.go = trio.Event()
        self.seen: list[Any] = []
        self.router = Router("desk", resource_subscriptions=True)
        self.router.request("wait")(self.wait)
        self.router.request("resources/list")(self.wait)
        self.router.notification("notifications/note")(self.wait)

    async def wait(self, ctx: RequestContext) -> dict[str, Any]:
        self.seen.append(ctx.params)
        await self.go.wait()
        return {}


# Requests of a session.


async def test_a_request_counts_until_it_is_answered(autojump_clock: MockClock) -> None:
    desk = Desk()
    async with serving(desk.router) as manager:
        peer = await connect(manager)
        await peer.ask(0, "initialize", initialize()["params"])
        await peer.send(notification("notifications/initialized"))
        await wait_all_tasks_blocked()
        assert peer.session._bytes is None  # An idle session has no budget.
        await peer.send(request(1, "wait", text(100)))
        assert await peer.waiting() == []
        assert 100 * KIB < held(peer) < 105 * KIB
        assert total(peer) == held(peer)
        desk.go.set()
        assert await peer.waiting() == [result(1)]
        assert held(peer) == total(peer) == 0


async def test_the_limit_of_bytes_of_a_session_is_exact(autojump_clock: MockClock) -> None:
    desk = Desk()
    limit = 3 * (100 * KIB + OVERHEAD)
    async with talking(desk.router, limits=SessionLimits(max_session_bytes=limit)) as peer:
        await peer.send(*(request(number, "wait", text(99)) for number in range(4)))
        (refusal,) = await peer.waiting()
        assert refusal == error(3, BUSY, NO_MEMORY)
        # It is not stuck: pings are answered, and what is done makes room.
        assert await peer.ask("p", "ping") == result("p")
        desk.go.set()
        assert sorted(one["id"] for one in await peer.waiting()) == [0, 1, 2]
        await peer.send(request(4, "wait", text(99)))
        assert await peer.waiting() == [result(4)]
        manager = peer.session._manager
        assert isinstance(manager, SessionManager)
        assert manager.statistics().bytes_refused == {"session": 1}


async def test_requests_that_wait_hold_their_text_only(autojump_clock: MockClock) -> None:
    desk = Desk()
    values: dict[str, Any] = {"values": [{}] * 20_000}  # 60 kB of text, and 1.4 MB of objects.
    async with talking(desk.router, limits=SessionLimits(max_in_flight=1)) as peer:
        await peer.send(request(0, "wait", values))
        assert await peer.waiting() == []
        one = held(peer)
        assert one > 1_000_000
        await peer.send(*(request(number, "wait", values) for number in range(1, 11)))
        assert await peer.waiting() == []
        assert held(peer) - one < 10 * 65_000
        queue = client_of(peer.session).requests
        assert queue is not None
        assert all(waiting.params == {} for waiting in queue._waiting.values())
        # They are whole when they run.
        desk.go.set()
        assert [answer["id"] for answer in await peer.waiting()] == list(range(11))
        assert desk.seen == [values] * 11
        assert held(peer) == 0


async def test_a_request_that_finds_no_room_when_its_turn_comes_is_refused(
    autojump_clock: MockClock,
) -> None:
    desk = Desk()
    limits = SessionLimits(max_in_flight=1, max_session_bytes=2 * 1024 * KIB)
    async with talking(desk.router, limits=limits) as peer:
        await peer.send(
            request(0, "wait", text(1)),
            request(1, "wait", {"values": [{}] * 40_000}),  # Its objects never fit.
            notification("notifications/note", {"values": [{}] * 40_000}),
            request(2, "wait", text(1)),
        )
        assert await peer.waiting() == []
        desk.go.set()
        assert await peer.waiting() == [result(0), error(1, BUSY, NO_MEMORY), result(2)]
        assert held(peer) == 0
        assert not peer.session.busy


async def test_a_refused_request_without_a_successor_frees_its_worker(
    autojump_clock: MockClock,
) -> None:
    desk = Desk()
    limits = SessionLimits(max_in_flight=1, max_session_bytes=2 * 1024 * KIB)
    async with talking(desk.router, limits=limits) as peer:
        await peer.send(request(0, "wait", text(1)), request(1, "wait", {"values": [{}] * 40_000}))
        assert await peer.waiting() == []
        # The worker of the first ends with it, so another place looks for the next request.
        await peer.send(cancelled(0))
        assert await peer.waiting() == [error(1, BUSY, NO_MEMORY)]
        assert held(peer) == 0


async def test_a_request_that_waits_may_find_no_room_for_its_text(
    autojump_clock: MockClock,
) -> None:
    desk = Desk()
    limits = SessionLimits(max_in_flight=1, max_session_bytes=50 * KIB)
    async with talking(desk.router, limits=limits) as peer:
        await peer.send(request(0, "wait"), request("x" * 30_000, "wait"), request(2, "wait"))
        # The id is kept beside the text.
        (refusal,) = await peer.waiting()
        assert brief(refusal) == error("x" * 30_000, BUSY)
        desk.go.set()
        assert await peer.waiting() == [result(0), result(2)]


@pytest.mark.parametrize("count", [1, 2])
async def test_the_sessions_of_a_principal_share_a_budget(
    count: int, autojump_clock: MockClock
) -> None:
    desk = Desk()
    limits = SessionLimits(max_party_bytes=300 * KIB)
    async with serving(desk.router, limits=limits) as manager:
        ann = [await connect(manager, principal=Principal("ann")) for _ in range(2)]
        bob = await connect(manager, principal=Principal("bob"))
        for peer in (*ann, bob):
            await peer.establish()
        await ann[0].send(request(1, "wait", text(200)))
        assert await ann[0].waiting() == []
        assert await ann[count - 1].ask(2, "wait", text(200)) == error(2, BUSY, NO_MEMORY)
        await bob.send(request(1, "wait", text(200)))
        assert await bob.waiting() == []
        assert manager.statistics().bytes_refused == {"principal": 1}
        # The end of a session releases all that it holds.
        ann[0].session.terminate()
        await ann[0].session.wait_terminated()
        assert manager.statistics().bytes_held == held(bob)
        desk.go.set()


async def test_all_clients_share_the_budget_of_the_manager(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    async with serving(desk.router, limits=SessionLimits(max_bytes=300 * KIB)) as manager:
        first, second = [await connect(manager) for _ in range(2)]
        await first.establish()
        await second.establish()
        await first.send(request(1, "wait", text(200)))
        assert await first.waiting() == []
        for number in range(3):
            answer = await second.ask(number, "wait", text(200))
            assert answer == error(number, BUSY, NO_MEMORY)
        assert manager.statistics().bytes_refused == {"manager": 3}
        # The operator is told once a minute.
        refusals = [one for one in caplog.messages if "was refused" in one]
        assert len(refusals) == 1
        assert refusals[0].endswith("until bytes are released (SessionLimits.max_bytes)")
        await trio.sleep(EVERY)
        await second.ask(9, "wait", text(200))
        refusals = [one for one in caplog.messages if "was refused" in one]
        assert len(refusals) == 2
        assert refusals[1].endswith("(and 2 times since the last record)")
        desk.go.set()


def test_unknown_clients_without_an_address_share_a_budget() -> None:
    budgets = ByteBudgets(SessionLimits())
    for name in ("http", "unix"):
        shared = budgets.of_party(None, Transport(name))
        assert shared is budgets.of_party(None, Transport(name))
        assert (shared.level, shared.parent) == ("address", budgets.manager)
    assert budgets.of_party(None, Transport("stdio")) is budgets.manager
    one = budgets.of_party(None, Transport("tcp", "192.0.2.1:5"))
    assert one is budgets.of_party(None, Transport("http", "192.0.2.1:6"))
    assert one is not budgets.of_party(None, Transport("http", "192.0.2.2:6"))
    assert budgets.of_session(None, Transport("tcp", "192.0.2.1:7")).parent is one


def test_budgets_that_nothing_uses_are_kept_up_to_a_limit() -> None:
    budgets = ByteBudgets(SessionLimits())
    ann = Principal("ann")
    session = budgets.of_session(ann, Transport("http"))
    for number in range(KEPT_BUDGETS - 1):
        budgets.of(str(number), "http")
    assert len(budgets._parties) == KEPT_BUDGETS
    budgets.of("one more", "http")
    assert set(budgets._parties) == {ann, "one more"}  # ann has a session
    assert budgets.of(ann, "http") is session.parent


async def test_a_session_that_has_ended_counts_nothing(autojump_clock: MockClock) -> None:
    desk = Desk()
    async with talking(desk.router) as peer:
        peer.session.terminate()
        assert await peer.session.wait_terminated() is TerminationReason.REQUESTED
        budget = peer.session._byte_budget()
        assert not budget.claim(1)
        budget.add(5)
        assert total(peer) == 0


# ``initialize``.


async def test_initialize_has_a_limit_of_its_own(autojump_clock: MockClock) -> None:
    desk = Desk()
    message = initialize(capabilities={"x": "y" * 65_000})
    async with serving(desk.router) as manager:
        peer = await connect(manager)
        answer = await peer.ask(0, "initialize", {**message["params"], "more": "z" * 1000})
        assert answer == error(0, -32602, "initialize is larger than 65536 bytes")
        # What fits is kept as text, and counts for as long as the session lives.
        await peer.send(message)
        assert (await peer.receive())["result"]["protocolVersion"] == LATEST
        assert 65_000 < held(peer) < 65_536
        assert peer.session.client is not None
        assert peer.session.client.capabilities == {"x": "y" * 65_000}
        peer.session.terminate()
        await peer.session.wait_terminated()
        assert manager.statistics().bytes_held == 0


async def test_a_client_that_describes_itself_too_long_finds_no_room(
    autojump_clock: MockClock,
) -> None:
    desk = Desk()
    async with serving(desk.router, limits=SessionLimits(max_bytes=50_000)) as manager:
        peer = await connect(manager)
        await peer.send(initialize(capabilities={"x": "y" * 60_000}))
        assert await peer.receive() == error(0, BUSY, NO_MEMORY)
        await peer.send(initialize(1))
        assert (await peer.receive())["id"] == 1


async def test_messages_behind_initialize_are_held_as_text(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.go.set()
    values: dict[str, Any] = {"values": [{}] * 20_000}
    limits = SessionLimits(max_session_bytes=256_000)
    async with serving(desk.router, limits=limits) as manager:
        peer = await connect(manager)
        # 60 kB of text each; one of them decoded is too much.
        await peer.send(
            initialize(),
            *(request(number, "wait", values) for number in range(1, 6)),
            request(6, "wait", {"small": 1}),
            notification("notifications/note", {"of": "interest"}),
        )
        answers = {one["id"]: one for one in await peer.waiting()}
        assert answers[5]["error"]["message"] == "Server is busy: opening"
        assert [answers[n]["error"]["message"] for n in (1, 2, 3, 4)] == [NO_MEMORY] * 4
        assert answers[6] == result(6)
        assert {"small": 1} in desk.seen
        assert {"of": "interest"} in desk.seen
        assert held(peer) == 0


async def test_messages_behind_an_initialize_that_fails_are_released(
    autojump_clock: MockClock,
) -> None:
    never = trio.Event()

    @asynccontextmanager
    async def slow(_: Session) -> AsyncIterator[None]:
        await never.wait()
        yield  # pragma: no cover  # it never comes so far

    router = Router("slow", lifespan=slow)
    async with serving(router) as manager:
        peer = await connect(manager)
        await peer.send(initialize(), request(1, "wait", text(50)))
        await wait_all_tasks_blocked()
        assert 50 * KIB < held(peer) < 55 * KIB
        peer.session.terminate()
        await peer.session.wait_terminated()
        assert manager.statistics().bytes_held == 0


# What is kept besides requests.


async def test_subscribed_resources_count_in_the_budget(autojump_clock: MockClock) -> None:
    desk = Desk()
    limits = SessionLimits(max_session_bytes=30_000)
    async with talking(desk.router, limits=limits) as peer:
        uris = [f"file://{number}/{'x' * 10_000}" for number in range(3)]
        for number, uri in enumerate(uris[:2]):
            assert await peer.ask(number, "resources/subscribe", {"uri": uri}) == result(number)
        assert 20_000 < held(peer) < 21_000
        again = await peer.ask(5, "resources/subscribe", {"uri": uris[0]})
        assert again == result(5)
        answer = await peer.ask(6, "resources/subscribe", {"uri": uris[2]})
        assert answer == error(6, BUSY, NO_MEMORY)
        for number in (7, 8):
            await peer.ask(number, "resources/unsubscribe", {"uri": uris[0]})
        assert await peer.ask(9, "resources/subscribe", {"uri": uris[2]}) == result(9)
        assert peer.session.subscribed_resources == {uris[1], uris[2]}


async def test_answers_that_are_not_read_count(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.go.set()
    async with serving(desk.router) as manager:
        # The pipe has room for one frame: the rest waits in the buffer of the connection.
        peer = await connect(manager, capacity=1)
        await peer.establish()
        for number in range(5):
            await peer.send(request(number, "wait"))
        await wait_all_tasks_blocked()
        waiting = client_of(peer.session).sink
        assert isinstance(waiting, ConnectionWriter)
        assert held(peer) == waiting._waiting > 0
        assert [await peer.receive() for _ in range(5)] == [result(n) for n in range(5)]
        await wait_all_tasks_blocked()
        assert held(peer) == 0


async def test_messages_that_were_not_made_from_frames_are_kept_as_they_are(
    autojump_clock: MockClock,
) -> None:
    desk = Desk()
    async with serving(desk.router, limits=SessionLimits(max_in_flight=1)) as manager:
        peer = await connect(manager)
        client = client_of(peer.session)
        receive_frame(client, encode_json(initialize()), client.sink)
        for number in range(3):
            dispatch(client, Request(number, "wait", {"n": number}), client.sink)
        assert client.pending is not None
        desk.go.set()
        assert sorted(one["id"] for one in await peer.waiting()) == [0, 0, 1, 2]
        assert desk.seen == [{"n": number} for number in range(3)]
        assert held(peer) == 0


async def test_a_subscription_counts_until_it_ends(autojump_clock: MockClock) -> None:
    desk = Desk()
    async with talking(desk.router, limits=SessionLimits(max_session_bytes=60_000)) as peer:
        filter_ = {"resourceSubscriptions": ["file://" + "x" * 40_000]}
        await peer.send(modern(1, "subscriptions/listen", {"notifications": filter_}))
        await peer.waiting()
        assert 40_000 < held(peer) < 45_000
        answer = await peer.ask(2, *modern_call(filter_))
        assert answer == error(2, BUSY, NO_MEMORY)
        await peer.send(cancelled(1))
        await peer.waiting()
        assert held(peer) == 0


async def test_a_subscription_counts_for_its_topics_too(autojump_clock: MockClock) -> None:
    desk = Desk()
    async with talking(desk.router) as peer:
        uris = [f"file://{number}" for number in range(1000)]
        filter_ = {"resourceSubscriptions": uris}
        message = modern(1, "subscriptions/listen", {"notifications": filter_})
        await peer.send(message)
        await peer.waiting()
        decoded = decode(encode_json(message))
        assert isinstance(decoded, Request)
        assert held(peer) == decoded.cost + OVERHEAD + TOPIC_SIZE * len(uris)


def modern_call(filter_: object) -> tuple[str, Any]:
    message = modern(0, "subscriptions/listen", {"notifications": filter_})
    return message["method"], message["params"]


async def test_a_line_without_room_is_refused_and_the_next_one_is_served(
    autojump_clock: MockClock,
) -> None:
    desk = Desk()
    near, far = memory_stream_pair()
    async with (
        serving(desk.router, limits=SessionLimits(max_session_bytes=100_000)) as manager,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(serve_stream, manager, far)
        await near.send_all(encode_json(initialize()) + b"\n")
        assert b"protocolVersion" in await near.receive_some()
        await near.send_all(b'{"params":{"x":"' + b"x" * 200_000)
        await wait_all_tasks_blocked()
        assert manager.statistics().bytes_held == 0
        # It is answered at its end, where its id is.
        await near.send_all(b'"},"jsonrpc":"2.0","method":"ping","id":7}\n')
        assert decode_json(await near.receive_some()) == error(7, BUSY, NO_MEMORY)
        await near.send_all(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        assert await near.receive_some() == b'{"jsonrpc":"2.0","id":1,"result":{}}\n'
        await near.aclose()


async def test_a_session_that_has_ended_holds_nothing(autojump_clock: MockClock) -> None:
    async with serving(Router("x")) as manager:
        session = await manager.create_session()
        session.terminate()
        await session.wait_terminated()
        # A task that it does not own may still release or claim something.
        assert not session._byte_budget().claim(1)
        session._byte_budget().release(5)
        assert manager.statistics().bytes_held == 0
