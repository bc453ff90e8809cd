"""Batches, which only 2025-03-26 has: one array of answers for one array of requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import msgspec
import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import (
    OpenOutlet,
    brief,
    cancelled,
    connect,
    error,
    initialize,
    notification,
    request,
    result,
    serving,
    talking,
)
from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    Router,
    Session,
    SessionLimits,
    TerminationReason,
)
from trio_mcp_session.core.byte_budget import ByteBudget
from trio_mcp_session.protocol.jsonrpc import Batch, Invalid, Notification, Request, Response
from trio_mcp_session.server.batch import BatchSink
from trio_mcp_session.server.client_connection import client_of

BATCHES = "2025-03-26"


class Waiter:
    """An application whose requests wait for the test."""

    def __init__(self) -> None:
        self.router = Router("waiter")
        self.gates: dict[object, trio.Event] = {}
        self.noted = 0
        self.router.request("wait")(self.wait)
        self.router.request("progress")(self.progress)
        self.router.request("ask")(self.ask)
        self.router.notification("notifications/note")(self.note)

    def release(self, request_id: object) -> None:
        self.gates.setdefault(request_id, trio.Event()).set()

    async def wait(self, ctx: RequestContext) -> dict[str, Any]:
        await self.gates.setdefault(ctx.request_id, trio.Event()).wait()
        return {"of": ctx.request_id}

    async def progress(self, ctx: RequestContext) -> dict[str, Any]:
        await ctx.progress(1)
        return {}

    async def ask(self, ctx: RequestContext) -> dict[str, Any]:
        return {"roots": await ctx.list_roots()}

    async def note(self, ctx: RequestContext) -> None:
        self.noted += 1


@pytest.fixture
def waiter() -> Waiter:
    return Waiter()


def brief_all(messages: list[Any]) -> list[Any]:
    return [[brief(one) for one in message] for message in messages]


async def test_a_mixed_batch_is_answered_with_one_array(
    waiter: Waiter, autojump_clock: MockClock
) -> None:
    async with talking(waiter.router, version=BATCHES) as peer:
        batch = [
            request(1, "wait"),
            notification("notifications/note"),
            request("1", "ping"),
            request(2, "unknown"),
            5,
            {"jsonrpc": "2.0", "id": 3},
            {"jsonrpc": "2.0", "method": 1},
            result(99),
            request(1, "ping"),
            request(1, "wait"),
            request(4, "logging/setLevel", {"level": "info"}),
        ]
        await peer.send(batch)
        # The slow one holds up the array, and nothing else.
        assert await peer.waiting() == []
        assert waiter.noted == 1
        assert await peer.ask("p", "ping") == result("p")
        waiter.release(1)
        (answers,) = brief_all(await peer.waiting())
        expected = [
            result("1"),
            error(None, -32600),
            error(3, -32600),
            result(1),
            error(1, -32600),
            result(4),
            error(2, -32601),
            result(1, {"of": 1}),
        ]
        # As they came: JSON-RPC leaves the order open.
        assert answers == expected
        assert peer.session.metrics.bad_input == 5
        # One line, but as many messages as were in it.
        assert peer.session.metrics.messages_sent == 1 + 1 + len(expected)
        assert (open_ := client_of(peer.session).requests) is not None
        assert not open_._active


async def test_requests_of_a_batch_run_concurrently_and_are_answered_together(
    waiter: Waiter, autojump_clock: MockClock
) -> None:
    async with talking(
        waiter.router, version=BATCHES, limits=SessionLimits(max_in_flight=2, max_queued=1)
    ) as peer:
        await peer.send([request(number, "wait") for number in range(4)])
        assert await peer.waiting() == []
        for number in (1, 2, 0):
            assert await peer.waiting() == []
            waiter.release(number)
        (answers,) = brief_all(await peer.waiting())
        assert answers[0] == error(3, -32603)
        assert sorted(one["id"] for one in answers) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "batch",
    [
        [notification("notifications/note")] * 3,
        [result(99), notification("notifications/unknown")],
        [{"jsonrpc": "2.0", "method": 1}],
        [cancelled(5)],
    ],
    ids=["notifications", "an answer", "invalid notification", "cancellation"],
)
async def test_nothing_is_answered_where_nothing_was_asked(
    batch: list[Any], waiter: Waiter, autojump_clock: MockClock
) -> None:
    async with talking(waiter.router, version=BATCHES) as peer:
        await peer.send(batch)
        assert await peer.waiting() == []
        assert await peer.ask("p", "ping") == result("p")


async def test_a_batch_above_its_limit_is_refused(
    waiter: Waiter, autojump_clock: MockClock
) -> None:
    async with talking(waiter.router, version=BATCHES, limits=SessionLimits(max_batch=3)) as peer:
        await peer.send([request(number, "ping") for number in range(3)])
        assert await peer.waiting() == [[result(number) for number in range(3)]]
        await peer.send([request(number, "ping") for number in range(4)])
        (refusal,) = await peer.waiting()
        assert refusal == error(None, -32600, "batch holds more than 3 messages")
        assert peer.session.metrics.bad_input == 1


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_initialize_inside_refuses_all(
    place: int, waiter: Waiter, autojump_clock: MockClock
) -> None:
    async with talking(waiter.router, version=BATCHES) as peer:
        batch = [notification("notifications/note"), request(1, "wait")]
        batch.insert(place, initialize(5))
        await peer.send(batch)
        (refusal,) = await peer.waiting()
        assert refusal == error(None, -32600, "initialize must not be part of a batch")
        assert waiter.noted == 0
        assert peer.session.metrics.requests == 0


async def test_cancelled_elements_are_not_waited_for(
    waiter: Waiter, autojump_clock: MockClock
) -> None:
    async with talking(
        waiter.router, version=BATCHES, limits=SessionLimits(max_in_flight=2)
    ) as peer:
        # One that runs, one that is queued, and one that is cancelled by its own batch.
        await peer.send([request(1, "wait"), request(2, "wait"), request(3, "wait"), cancelled(2)])
        await peer.waiting()
        await peer.send(cancelled(3))
        assert await peer.waiting() == []
        waiter.release(1)
        assert await peer.waiting() == [[result(1, {"of": 1})]]

        # The last one to end is cancelled: the others' answers go out then.
        await peer.send([request(4, "wait"), request(5, "ping")])
        assert await peer.waiting() == []
        await peer.send(cancelled(4))
        assert await peer.waiting() == [[result(5)]]

        # All of them: there is nothing to say.
        await peer.send([request(6, "wait"), request(7, "wait")])
        await peer.waiting()
        await peer.send(cancelled(6), cancelled(7))
        assert await peer.waiting() == []
        assert peer.session.metrics.cancelled == 5


async def test_progress_and_questions_are_not_in_the_array_of_a_batch(
    waiter: Waiter, autojump_clock: MockClock
) -> None:
    async with talking(waiter.router, version=BATCHES, capabilities={"roots": {}}) as peer:
        await peer.send(
            [
                request(1, "progress", {"_meta": {"progressToken": "t"}}),
                request(2, "ask"),
            ]
        )
        messages = await peer.waiting()
        assert sorted(one["method"] for one in messages) == ["notifications/progress", "roots/list"]
        # The client may answer in a batch, too.
        await peer.send([result(1, {"roots": []}), request(3, "ping")])
        assert await peer.waiting() == [
            [result(3)],
            [result(1), result(2, {"roots": []})],
        ]


async def test_timeouts_are_answered_in_the_array(
    waiter: Waiter, autojump_clock: MockClock
) -> None:
    async with talking(
        waiter.router, version=BATCHES, cleanup=CleanupConfig(request_timeout=5)
    ) as peer:
        await peer.send([request(1, "wait"), request(2, "ping")])
        assert await peer.receive() == [result(2), error(1, -32603, "Request timed out")]


async def test_the_end_of_the_session_completes_the_array(
    waiter: Waiter, autojump_clock: MockClock
) -> None:
    async with talking(
        waiter.router, version=BATCHES, limits=SessionLimits(max_in_flight=1)
    ) as peer:
        await peer.send([request(1, "wait"), request(2, "wait"), request(3, "ping")])
        assert await peer.waiting() == []
        peer.session.terminate(TerminationReason.REVOKED)
        ended = "Session has ended: revoked"
        assert await peer.receive() == [
            result(3),
            error(1, -32603, ended),
            error(2, -32603, ended),
        ]


async def test_a_batch_behind_initialize_is_held(waiter: Waiter, autojump_clock: MockClock) -> None:
    async with serving(waiter.router) as manager:
        peer = await connect(manager)
        await peer.send(
            initialize("hello", BATCHES),
            [request(1, "ping"), notification("notifications/note"), request(2, "wait")],
        )
        waiter.release(2)
        hello, answers = await peer.waiting()
        assert hello["id"] == "hello"
        assert answers == [result(1), result(2, {"of": 2})]
        assert waiter.noted == 1


async def test_a_held_element_may_be_cancelled(autojump_clock: MockClock) -> None:
    may_open = trio.Event()

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        await may_open.wait()
        yield

    router = Router("r", lifespan=lifespan)

    @router.request("echo")
    async def echo(ctx: RequestContext) -> dict[str, Any]:
        return ctx.params

    async with serving(router) as manager:
        peer = await connect(manager)
        await peer.send(
            initialize("hello", BATCHES),
            [request(1, "echo"), request(2, "echo")],
            [request(3, "echo")],
            cancelled(1),
            cancelled(3),
        )
        assert await peer.waiting() == []
        may_open.set()
        _, answers = await peer.waiting()
        assert answers == [result(2)]
        assert peer.session.metrics.cancelled == 2


@attrs.define
class Sink(OpenOutlet):
    results: list[bytes] = attrs.field(factory=list)
    messages: list[bytes] = attrs.field(factory=list)
    without: int = 0
    waited: int = 0
    closed: list[float | None] = attrs.field(factory=list)

    def send_result(self, frame: bytes) -> None:
        self.results.append(frame)

    def send_no_result(self) -> None:
        self.without += 1

    def send_message(self, frame: bytes) -> bool:
        self.messages.append(frame)
        return len(self.messages) < 2

    async def wait_writable(self) -> None:
        self.waited += 1
        await trio.lowlevel.checkpoint()

    def close_stream(self, retry: float | None) -> bool:
        self.closed.append(retry)
        return True


async def test_the_sink_of_a_batch_collects_its_answers() -> None:
    sink = Sink()
    batch = Batch(
        [
            Request(1, "a", {}),
            Notification("b", {}),
            Response(2, {}),
            Invalid("no"),
            Invalid("no", answer=False),
            Request(3, "c", {}),
        ]
    )
    budget = ByteBudget("session", 100)
    outlet = BatchSink.of(batch, sink, budget)
    with assert_no_checkpoints():
        outlet.send_result(b"1")
        assert budget.held == 1
        outlet.send_no_result()
        assert outlet.send_message(b"first")
        assert not outlet.send_message(b"second")
    assert sink.messages == [b"first", b"second"]
    assert sink.results == []
    outlet.send_result(b"3")
    assert sink.results == [b"[1,3]"]
    assert budget.held == 0
    assert sink.without == 0
    with assert_checkpoints():
        await outlet.wait_writable()
    assert sink.waited == 1
    # The rest is left to the other sink.
    assert (outlet.connected, outlet.reachable) == (True, True)
    sink.connected = False
    assert (outlet.connected, outlet.reachable) == (False, True)
    sink.reachable = False
    assert (outlet.connected, outlet.reachable) == (False, False)
    assert outlet.close_stream(1.5)
    assert sink.closed == [1.5]


async def test_the_sink_of_a_batch_without_results_sends_nothing() -> None:
    sink = Sink()
    outlet = BatchSink.of(
        Batch([Request(1, "a", {}), Request(2, "a", {})]), sink, ByteBudget("session", 100)
    )
    outlet.send_no_result()
    assert sink.without == 0
    outlet.send_no_result()
    assert (sink.without, sink.results) == (1, [])


async def test_every_frame_is_json(waiter: Waiter, autojump_clock: MockClock) -> None:
    async with talking(waiter.router, version=BATCHES) as peer:
        await peer.send([request("é\n", "ping"), request(2, "ping")])
        await wait_all_tasks_blocked()
        frame = await peer.channel.receive()
        assert b"\n" not in frame
        assert msgspec.json.decode(frame) == [result("é\n"), result(2)]
