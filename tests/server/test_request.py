"""Requests from admission to their end: limits, cancellation, clocks, failures, workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from itertools import permutations
from math import inf
from typing import Any, cast, final

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
    Peer,
    brief,
    cancelled,
    connect,
    error,
    errors_of,
    initialize,
    leftovers,
    notification,
    request,
    result,
    serving,
    talking,
)
from trio_mcp_session import (
    CleanupConfig,
    Event,
    EventStream,
    HandlerCrashed,
    McpError,
    PeerViolation,
    RequestContext,
    Router,
    Session,
    SessionKind,
    SessionLimits,
    TerminationReason,
    ToolError,
    current_request,
    current_session,
)
from trio_mcp_session.core.identity import Transport
from trio_mcp_session.server.accept import accept
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.server.dispatch import receive
from trio_mcp_session.server.request_queue import MAX_IDLE

BUSY = -32603


@final
class Desk:
    """An application whose requests wait until the test lets them go."""

    def __init__(self) -> None:
        self.router = Router("desk")
        self.begun: list[object] = []
        self.cancelled: list[object] = []
        self.tasks: list[trio.lowlevel.Task] = []
        self.gates: dict[object, trio.Event] = {}
        self.noted: list[object] = []
        for method in ("wait", "quick", "stubborn", "deaf"):
            self.router.request(method)(getattr(self, method))
        self.router.notification("notifications/note")(self.note)
        self.router.notification("notifications/roots/list_changed")(self.note)

    def gate(self, key: object) -> trio.Event:
        return self.gates.setdefault(key, trio.Event())

    async def wait(self, ctx: RequestContext) -> dict[str, Any]:
        key = ctx.request_id
        self.begun.append(key)
        self.tasks.append(trio.lowlevel.current_task())
        try:
            await self.gate(key).wait()
        except trio.Cancelled:
            self.cancelled.append(key)
            raise
        return {"of": key}

    async def quick(self, ctx: RequestContext) -> dict[str, Any]:
        self.begun.append(ctx.request_id)
        self.tasks.append(trio.lowlevel.current_task())
        await trio.lowlevel.checkpoint()
        return {}

    async def stubborn(self, ctx: RequestContext) -> None:
        """Shields itself from its cancellation for a while."""
        # Not for ever: a test that fails must still come to its end.
        with trio.move_on_after(1000, shield=True):
            await self.wait(ctx)
        await trio.lowlevel.checkpoint()

    async def deaf(self, ctx: RequestContext) -> dict[str, Any]:
        """Swallows its cancellation, and answers all the same."""
        with suppress(trio.Cancelled):  # what handlers should not do, and do
            await self.wait(ctx)
        return {"deaf": True}

    async def note(self, ctx: RequestContext, params: dict[str, Any]) -> None:
        self.noted.append(params)
        await self.gate("note").wait()
        if params.get("fail"):
            raise ValueError(params["fail"])


@pytest.fixture
def desk() -> Desk:
    return Desk()


def in_flight(peer: Peer) -> tuple[int, int]:
    metrics = peer.session.metrics
    return metrics.in_flight, metrics.queued


def assert_at_rest(session: Session) -> None:
    """No request has left anything behind."""
    assert not session.busy
    # It lets its connection go when it ends and nothing is open.
    gate = None if session._connection is None else client_of(session).requests
    if gate is not None:  # Otherwise it has been dropped: see `Resting`.
        assert (gate.running, gate.queued) == (0, 0)
        assert not gate._active
        assert not gate._waiting


# Limits.


async def test_limits_at_their_edges(desk: Desk, autojump_clock: MockClock) -> None:
    async with talking(desk.router) as peer:
        await peer.send(*(request(number, "wait") for number in range(63)))
        assert await peer.waiting() == []
        assert in_flight(peer) == (63, 0)
        await peer.send(request(63, "wait"))
        assert await peer.waiting() == []
        assert in_flight(peer) == (64, 0)
        assert sorted(map(str, desk.begun)) == sorted(map(str, range(64)))
        await peer.send(*(request(number, "wait") for number in range(64, 64 + 255)))
        assert await peer.waiting() == []
        assert in_flight(peer) == (64, 255)
        await peer.send(request(319, "wait"))
        assert await peer.waiting() == []
        assert in_flight(peer) == (64, 256)
        await peer.send(request(320, "wait"), request(321, "wait"))
        busy = await peer.waiting()
        assert [brief(one) for one in busy] == [error(320, BUSY), error(321, BUSY)]
        assert "busy" in busy[0]["error"]["message"]
        assert peer.session.metrics.requests == 320

        # Pings, cancellations and answers pass by the queue.
        asked = []

        async def ask_client() -> None:
            asked.append(await peer.session.ask("ping"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_client)
            (question,) = await peer.waiting()
            await peer.send(
                request("p", "ping"), result(question["id"], {"x": 1}), cancelled(319), cancelled(5)
            )
            assert await peer.waiting() == [result("p")]
        assert asked == [{"x": 1}]
        # One left the queue, one the table: the first in line runs, and there is room for two.
        assert desk.cancelled == [5]
        assert desk.begun[-1] == 64
        assert in_flight(peer) == (64, 254)
        assert peer.session.metrics.cancelled == 2
        await peer.send(*(request(number, "wait") for number in (400, 401, 402)))
        assert [brief(one) for one in await peer.waiting()] == [error(402, BUSY)]
        assert in_flight(peer) == (64, 256)

        admitted = [n for n in range(319) if n != 5] + [400, 401]
        for number in admitted:
            desk.gate(number).set()
        answers = await peer.waiting()
        assert sorted(one["id"] for one in answers) == admitted
        assert all(one["result"] == {"of": one["id"]} for one in answers)
        assert_at_rest(peer.session)


async def test_without_a_queue_requests_above_the_limit_are_refused(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router, limits=SessionLimits(max_in_flight=1, max_queued=0)) as peer:
        await peer.send(request(1, "wait"), request(2, "wait"))
        assert [brief(one) for one in await peer.waiting()] == [error(2, BUSY)]
        desk.gate(1).set()
        assert await peer.waiting() == [result(1, {"of": 1})]
        desk.gate(2).set()
        assert await peer.ask(2, "wait") == result(2, {"of": 2})


async def test_a_queued_request_runs_when_a_worker_ends(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router, limits=SessionLimits(max_in_flight=2)) as peer:
        await peer.send(*(request(number, "wait") for number in range(6)))
        await peer.waiting()
        # Both workers are cancelled in one step: two of those that wait take their places.
        await peer.send(cancelled(0), cancelled(1))
        assert await peer.waiting() == []
        assert in_flight(peer) == (2, 2)
        assert sorted(map(str, desk.begun[2:])) == ["2", "3"]
        # The rest is served in the order in which it came.
        for number in (3, 2):
            desk.gate(number).set()
            assert await peer.waiting() == [result(number, {"of": number})]
        assert desk.begun[4:] == [4, 5]
        for number in (4, 5):
            desk.gate(number).set()
            assert await peer.waiting() == [result(number, {"of": number})]
        assert_at_rest(peer.session)


# Cancellation.


@pytest.mark.parametrize("running", [True, False], ids=["running", "queued"])
@pytest.mark.parametrize(
    "request_id, cancelled_id, hits",
    [
        (1, 1, True),
        (0, 0, True),
        ("", "", True),
        ("1", "1", True),
        (1, 1.0, True),  # how some languages write the number 1
        (1.0, 1, True),
        (1, "1", False),
        ("1", 1, False),
        (1, True, False),
        (0, False, False),
        (1, None, False),
        (1, 1.5, False),
        (1, 2, False),
        (1, [1], False),
        (1, {"id": 1}, False),
    ],
    ids=repr,
)
async def test_which_request_is_cancelled(
    request_id: object,
    cancelled_id: object,
    hits: bool,
    running: bool,
    desk: Desk,
    autojump_clock: MockClock,
) -> None:
    limits = SessionLimits(max_in_flight=1 if running else 2)
    async with talking(desk.router, limits=limits) as peer:
        if not running:
            await peer.send(request("a", "wait"), request("b", "wait"))
        await peer.send(request(request_id, "wait"), cancelled(cancelled_id))
        assert await peer.waiting() == []
        gate = client_of(peer.session).requests
        assert gate is not None
        assert (request_id in gate._active) is not hits
        assert peer.session.metrics.cancelled == hits
        desk.gate("a").set()
        desk.gate("b").set()
        desk.gate(1 if request_id == 1 else request_id).set()
        answers = [one["id"] for one in await peer.waiting()]
        assert (request_id in answers) is not hits
        assert_at_rest(peer.session)


@pytest.mark.parametrize("params", [None, {}, {"reason": "none"}])
async def test_a_cancellation_without_a_request_id_is_ignored(
    params: object, desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router) as peer:
        # Before there was any request, and beside one.
        await peer.send(notification("notifications/cancelled", params), request(1, "wait"))
        await peer.send(notification("notifications/cancelled", params))
        assert await peer.waiting() == []
        assert in_flight(peer) == (1, 0)
        assert peer.session.metrics.cancelled == 0


async def test_finished_and_cancelled_requests_cannot_be_cancelled(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router) as peer:
        await peer.ask(1, "quick")
        await peer.send(cancelled(1))
        assert await peer.waiting() == []
        assert peer.session.metrics.cancelled == 0

        await peer.send(request(2, "stubborn"))
        await peer.waiting()
        await peer.send(cancelled(2), cancelled(2))
        assert await peer.waiting() == []
        await peer.send(cancelled(2))
        assert await peer.waiting() == []
        assert peer.session.metrics.cancelled == 1
        desk.gate(2).set()
        assert await peer.waiting() == []
        assert_at_rest(peer.session)


async def test_a_handler_that_ignores_cancellation_for_a_while(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router, limits=SessionLimits(max_in_flight=2)) as peer:
        await peer.send(request(1, "stubborn"))
        await peer.waiting()
        await peer.send(cancelled(1), request(2, "quick"), request(3, "quick"))
        assert sorted(one["id"] for one in await peer.waiting()) == [2, 3]
        # It still holds its place and its id, and keeps the session from being idle.
        assert in_flight(peer) == (1, 0)
        assert peer.session.busy
        await peer.send(request(1, "quick"))
        assert [brief(one) for one in await peer.waiting()] == [error(1, -32600)]
        desk.gate(1).set()
        assert await peer.waiting() == []
        assert_at_rest(peer.session)
        assert await peer.ask(1, "quick") == result(1)


@pytest.mark.parametrize("waiting", [0, 1, 3])
async def test_a_handler_that_swallows_its_cancellation(
    waiting: int, desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router, limits=SessionLimits(max_in_flight=1)) as peer:
        await peer.send(request("deaf", "deaf"))
        await peer.waiting()
        await peer.send(*(request(number, "quick") for number in range(waiting)))
        assert in_flight(peer)[0] == 1
        await peer.send(cancelled("deaf"))
        # Its answer goes nowhere; those that wait behind it have nothing to do with all that.
        assert await peer.waiting() == [result(number) for number in range(waiting)]
        assert await peer.ask("next", "quick") == result("next")
        assert_at_rest(peer.session)


@pytest.mark.parametrize("warm", [False, True], ids=["new worker", "parked worker"])
async def test_request_and_cancellation_in_one_chunk(
    warm: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router) as peer:
        for number in range(200):
            if warm:
                await peer.ask("warm", "quick")
            await peer.send(request(number, "wait"), cancelled(number))
            assert await peer.waiting() == []
            assert_at_rest(peer.session)
        assert peer.session.metrics.cancelled == 200
        assert len(desk.begun) == 200 * warm
        assert await peer.ask("end", "quick") == result("end")


async def test_many_requests_and_cancellations_in_one_chunk(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router, limits=SessionLimits(max_in_flight=4)) as peer:
        messages = []
        for number in range(200):
            messages += [request(number, "wait"), cancelled(number)]
        await peer.send(*messages, request("kept", "quick"))
        assert await peer.waiting() == [result("kept")]
        assert_at_rest(peer.session)
        assert peer.session.metrics.cancelled == 200


async def test_cancelled_at_the_moment_it_ends(desk: Desk, autojump_clock: MockClock) -> None:
    async with talking(desk.router) as peer:
        await peer.send(request(1, "wait"))
        await peer.waiting()
        desk.gate(1).set()
        await peer.send(cancelled(1))
        # One of both is the first: an answer, or a cancellation without one. Never both.
        assert len(await peer.waiting()) + peer.session.metrics.cancelled == 1
        assert_at_rest(peer.session)


# Ids.


@pytest.mark.parametrize("queued", [False, True])
async def test_a_request_with_an_id_in_use_is_refused(
    queued: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router, limits=SessionLimits(max_in_flight=2)) as peer:
        if queued:
            await peer.send(request("a", "wait"), request("b", "wait"))
        with peer.session.subscribe() as events:
            await peer.send(request(7, "wait"), request(7, "quick"))
            assert [brief(one) for one in await peer.waiting()] == [error(7, -32600)]
            (violation,) = errors_of([events.receive_nowait()])
            assert isinstance(violation, PeerViolation)
        assert peer.session.metrics.bad_input == 1
        # A string is another id, and the first one is unharmed.
        desk.gate("a").set()
        desk.gate("b").set()
        await peer.waiting()
        assert await peer.ask("7", "quick") == result("7")
        desk.gate(7).set()
        assert await peer.waiting() == [result(7, {"of": 7})]
        assert peer.session.metrics.errors == 1


@final
@attrs.define
class Slot(OpenOutlet):
    """A sink that keeps what it is given."""

    frames: list[Any] = attrs.field(factory=list)

    def send_result(self, frame: bytes) -> None:
        self.frames.append(msgspec.json.decode(frame))

    def send_no_result(self) -> None:
        self.frames.append("cancelled")

    def send_message(self, frame: bytes) -> bool:
        raise NotImplementedError  # pragma: no cover  # for answers only

    async def wait_writable(self) -> None: ...


async def test_an_answer_goes_to_the_slot_of_its_request(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router) as peer:
        slots = [Slot() for _ in range(4)]
        for number, slot in enumerate(slots[:3]):
            receive(peer.session, msgspec.json.encode(request(number, "wait")), slot)
        # The one with a used id is answered where it came from.
        receive(peer.session, msgspec.json.encode(request(0, "wait")), slots[3])
        # A cancellation finds its request wherever either came from.
        receive(peer.session, msgspec.json.encode(cancelled(1)), slots[3])
        desk.gate(2).set()
        await wait_all_tasks_blocked()
        desk.gate(0).set()
        await wait_all_tasks_blocked()
        assert slots[0].frames == [result(0, {"of": 0})]
        assert slots[1].frames == ["cancelled"]
        assert slots[2].frames == [result(2, {"of": 2})]
        assert [brief(one) for one in slots[3].frames] == [error(0, -32600)]
        assert await peer.waiting() == []


@asynccontextmanager
async def over_http(
    desk: Desk, **limits: Any
) -> AsyncIterator[tuple[Session, Callable[..., Slot]]]:
    """A session whose requests have responses of their own, and a way to send it messages."""

    @attrs.define
    class Nothing(OpenOutlet):
        async def finish(self) -> None: ...

        def send_no_result(self) -> None: ...

    async with serving(desk.router, limits=SessionLimits(**limits)) as manager:
        session = await accept(
            manager, cast("Any", Nothing()), transport=Transport("test"), kind=SessionKind.HEADER
        )

        def send(message: Any) -> Slot:
            slot = Slot()
            receive(session, msgspec.json.encode(message), slot)
            return slot

        send(initialize())
        await wait_all_tasks_blocked()
        yield session, send
        session.terminate()
        await session.wait_terminated()
        assert leftovers(manager, session) == []


@pytest.mark.parametrize("order", [*permutations(range(3))])
@pytest.mark.parametrize("max_in_flight", [1, 2, 64])
async def test_one_id_several_times(
    order: tuple[int, ...], max_in_flight: int, autojump_clock: MockClock
) -> None:
    """Where each has a response of its own: real clients do that, and each gets its own."""
    desk = Desk()

    @desk.router.request("after")
    async def after(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        await trio.sleep(params["s"])
        return {"after": params["s"]}

    async with over_http(desk, max_in_flight=max_in_flight) as (session, send):
        slots = [send(request(7, "after", {"s": 1 + seconds})) for seconds in order]
        other = send(request("7", "after", {"s": 2}))
        assert session.metrics.in_flight + session.metrics.queued == 4
        await trio.sleep(20)
        assert [slot.frames for slot in slots] == [
            [result(7, {"after": 1 + seconds})] for seconds in order
        ]
        assert other.frames == [result("7", {"after": 2})]
        assert_at_rest(session)
        assert session.metrics.bad_input == 0
        # The id is as good as new.
        again = send(request(7, "quick"))
        await wait_all_tasks_blocked()
        assert again.frames == [result(7)]


@pytest.mark.parametrize("queued", [False, True])
async def test_a_cancellation_that_may_mean_several(
    queued: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    async with over_http(desk, max_in_flight=1 if queued else 64) as (session, send):
        slots = [send(request(7, "wait")) for _ in range(2)]
        text = send(request("7", "wait"))
        await wait_all_tasks_blocked()
        for odd in (7, 7.0, True, None, [7], "8"):
            send(cancelled(odd))
        await wait_all_tasks_blocked()
        assert desk.cancelled == []
        assert session.metrics.cancelled == 0
        # Where one is meant for sure, it is cancelled: the type tells them apart.
        send(cancelled("7"))
        await wait_all_tasks_blocked()
        assert text.frames == ["cancelled"]
        desk.gate(7).set()
        await wait_all_tasks_blocked()
        assert [slot.frames for slot in slots] == [[result(7, {"of": 7})]] * 2
        desk.gates.clear()
        # And as soon as there is but one of them.
        last = send(request(7, "wait"))
        await wait_all_tasks_blocked()
        send(cancelled(7))
        await wait_all_tasks_blocked()
        assert last.frames == ["cancelled"]
        assert session.metrics.cancelled == 2
        assert_at_rest(session)


async def test_the_end_of_several_with_one_id(desk: Desk, autojump_clock: MockClock) -> None:
    async with over_http(desk, max_in_flight=2, max_queued=2) as (session, send):
        slots = [send(request(7, "wait")) for _ in range(5)]
        assert [len(slot.frames) for slot in slots] == [0, 0, 0, 0, 1]
        assert brief(slots[4].frames[0]) == error(7, BUSY)
        await wait_all_tasks_blocked()
        session.terminate()
        await session.wait_terminated()
        for slot in slots:
            assert [brief(one) for one in slot.frames] == [error(7, BUSY)]


async def test_what_the_session_answers_itself_beside_a_request_of_that_id(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with over_http(desk) as (_, send):
        one = send(request(7, "wait"))
        await wait_all_tasks_blocked()
        assert send(request(7, "ping")).frames == [result(7)]
        (refusal,) = send(request(7, "resources/subscribe", {"uri": "a:b"})).frames
        assert brief(refusal) == error(7, -32601)
        desk.gate(7).set()
        await wait_all_tasks_blocked()
        assert one.frames == [result(7, {"of": 7})]


async def test_one_id_in_two_sessions(autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.request("sleep")
    async def sleep(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        await trio.sleep(params["s"])
        return {"slept": params["s"]}

    async with serving(router) as manager:
        peers = [await connect(manager) for _ in range(3)]
        for number, peer in enumerate(peers):
            await peer.establish()
            await peer.send(request(1, "sleep", {"s": 3 - number}))
        # They finish in reverse order. A cancellation in one session reaches no other.
        await peers[0].send(cancelled(2))
        await peers[2].send(cancelled(1))
        assert [await peer.receive() for peer in peers[:2]] == [
            result(1, {"slept": 3}),
            result(1, {"slept": 2}),
        ]
        assert await peers[2].waiting() == []


# Workers.

colour: ContextVar[str] = ContextVar("colour")
shape: ContextVar[str] = ContextVar("shape")


async def test_context_variables_do_not_leak_from_request_to_request(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        shape.set("round")
        yield

    router = Router("r", lifespan=lifespan)
    tasks = []

    @router.request("paint")
    async def paint(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        before = colour.get("none"), shape.get("none")
        assert current_request() is ctx
        assert current_session() is ctx.session
        colour.set(params["colour"])
        shape.set("square")
        await trio.lowlevel.checkpoint()
        assert colour.get() == params["colour"]
        tasks.append(trio.lowlevel.current_task())
        return {"before": before}

    colour.set("of the opener")
    async with talking(router, limits=SessionLimits(max_in_flight=1)) as peer:
        # What was set when the manager was opened, and what the lifespan set.
        untouched = {"before": ["of the opener", "round"]}
        # By a parked worker, and by one that takes the next in line.
        for number in range(5):
            answer = await peer.ask(number, "paint", {"colour": str(number)})
            assert answer == result(number, untouched)
            await wait_all_tasks_blocked()
        await peer.send(*(request(n, "paint", {"colour": str(n)}) for n in range(5)))
        assert await peer.waiting() == [result(n, untouched) for n in range(5)]
        assert len(tasks) == 10
        assert len(set(tasks)) == 1


async def test_workers_are_named_after_what_they_do(desk: Desk, autojump_clock: MockClock) -> None:
    names = []

    @desk.router.request("name")
    async def name(ctx: RequestContext) -> None:
        names.append(trio.lowlevel.current_task().name)

    async with talking(desk.router) as peer:
        await peer.ask(1, "name")
        await wait_all_tasks_blocked()
        await peer.ask(2, "quick")
        await wait_all_tasks_blocked()
        assert desk.tasks[0].name == "quick"
        await peer.ask(3, "name")
        assert names == ["name", "name"]
        nursery = peer.session._nursery
        assert nursery is not None
        assert len(nursery.child_tasks) == 1


async def test_workers_retire_when_the_session_is_idle(
    desk: Desk, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(idle_after=10, cleanup_interval=1)
    async with talking(desk.router, cleanup=cleanup) as peer:
        nursery, gate = peer.session._nursery, client_of(peer.session).requests
        assert nursery is not None
        assert gate is None
        await peer.send(*(request(number, "quick") for number in range(5)))
        await peer.waiting()
        gate = client_of(peer.session).requests
        assert gate is not None
        assert len(gate._idle) == len(nursery.child_tasks) == 5
        await trio.sleep(12)
        assert gate._idle == []
        assert not nursery.child_tasks
        with assert_no_checkpoints():
            gate.retire()
        # And wait for the next request.
        assert await peer.ask("next", "quick") == result("next")


@pytest.mark.parametrize("more", [0, 1, 5])
async def test_idle_workers_above_the_limit_are_not_kept(
    more: int, desk: Desk, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_in_flight=2 * MAX_IDLE)
    async with talking(desk.router, limits=limits) as peer:
        for _ in range(2):
            await peer.send(*(request(number, "quick") for number in range(MAX_IDLE + more)))
            assert len(await peer.waiting()) == MAX_IDLE + more
            gate, nursery = client_of(peer.session).requests, peer.session._nursery
            assert gate is not None
            assert nursery is not None
            assert len(gate._idle) == len(nursery.child_tasks) == MAX_IDLE
            assert_at_rest(peer.session)


async def test_each_finished_request_starts_the_next_queued_one(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router, limits=SessionLimits(max_in_flight=1)) as peer:
        await peer.send(*(request(number, "quick") for number in range(2 * MAX_IDLE)))
        assert len(await peer.waiting()) == 2 * MAX_IDLE
        assert_at_rest(peer.session)


async def test_requests_that_come_while_workers_retire(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router, limits=SessionLimits(max_in_flight=2)) as peer:
        await peer.send(request("a", "quick"), request("b", "quick"))
        await peer.waiting()
        gate = client_of(peer.session).requests
        assert gate is not None
        assert len(gate._idle) == 2
        gate.retire()
        slot = Slot()
        for number in range(5):
            receive(peer.session, msgspec.json.encode(request(number, "wait")), slot)
        await wait_all_tasks_blocked()
        # Those that leave now take no request out of the queue: all places are taken.
        assert in_flight(peer) == (2, 3)
        for number in range(5):
            desk.gate(number).set()
        await wait_all_tasks_blocked()
        assert sorted(one["id"] for one in slot.frames) == list(range(5))


# Time.


async def test_the_clock_of_a_request(desk: Desk, autojump_clock: MockClock) -> None:
    left = []

    @desk.router.request("sleep")
    async def sleep(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        left.append(ctx.time_left)
        await trio.sleep(params["s"])
        left.append(ctx.time_left)
        return {}

    async with talking(desk.router, cleanup=CleanupConfig(request_timeout=10)) as peer:
        start = trio.current_time()
        for _ in range(2):  # The second one begins with all of its time.
            assert await peer.ask(1, "sleep", {"s": 9.5}) == result(1)
            assert left == [10, 0.5]
            left.clear()
        assert trio.current_time() == start + 19
        answer = await peer.ask(2, "sleep", {"s": 10.5})
        assert answer == error(2, -32603, "Request timed out")
        assert trio.current_time() == start + 29
        # A worker that waits has no deadline, and nothing of the old one is left.
        assert await peer.ask(3, "sleep", {"s": 9.5}) == result(3)
        await trio.sleep(100)
        assert await peer.ask(4, "sleep", {"s": 9.5}) == result(4)
        # Failing takes the deadline back too.
        for number in range(2):
            await peer.ask(number, "unknown")
            await trio.sleep(100)
        assert await peer.ask(5, "sleep", {"s": 9.5}) == result(5)
        assert peer.session.metrics.cancelled == 0
        assert_at_rest(peer.session)


async def test_a_worker_outlives_the_clock_of_its_request(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router, cleanup=CleanupConfig(request_timeout=0.2)) as peer:
        for number in range(3):
            await peer.ask(number, "quick")
            await trio.sleep(0.25)  # A worker without a new request ends soon after this.
        assert len(set(desk.tasks)) == 1


async def test_no_clock_by_default(desk: Desk, autojump_clock: MockClock) -> None:
    @desk.router.request("left")
    async def left(ctx: RequestContext) -> dict[str, Any]:
        assert ctx.time_left == inf
        await trio.sleep(100_000 / 2)
        assert ctx.time_left == inf
        return {}

    async with talking(desk.router) as peer:
        await peer.send(request(1, "left"))
        with trio.fail_after(60_000):
            assert msgspec.json.decode(await peer.channel.receive()) == result(1)


async def test_a_handler_that_answers_although_its_time_is_over(
    desk: Desk, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(request_timeout=10)
    async with talking(desk.router, cleanup=cleanup, limits=SessionLimits(max_in_flight=1)) as peer:
        await peer.send(request(1, "deaf"), request(2, "quick"), request(3, "quick"))
        # Late is better than never; and the clock was the first one's only.
        assert await peer.receive() == result(1, {"deaf": True})
        assert await peer.waiting() == [result(2), result(3)]
        assert_at_rest(peer.session)


async def test_a_timed_out_request_may_still_be_cancelled(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router, cleanup=CleanupConfig(request_timeout=10)) as peer:
        await peer.send(request(1, "stubborn"))
        await trio.sleep(11)
        await peer.send(cancelled(1))
        await wait_all_tasks_blocked()
        desk.gate(1).set()
        assert await peer.waiting() == []
        assert peer.session.metrics.cancelled == 1


async def test_the_clock_stands_still_while_the_client_is_asked(
    autojump_clock: MockClock,
) -> None:
    router = Router("r")
    left = []

    @router.request("ask")
    async def ask(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        await trio.sleep(4)
        answer = await ctx.elicit("Well?", {"type": "object"})
        left.append(ctx.time_left)
        await trio.sleep(params["s"])
        return {"action": answer.action}

    async with talking(
        router, capabilities={"elicitation": {}}, cleanup=CleanupConfig(request_timeout=10)
    ) as peer:
        for seconds in (5.5, 6.5):
            start = trio.current_time()
            await peer.send(request(1, "ask", {"s": seconds}))
            question = await peer.receive()
            await trio.sleep(100)
            await peer.send(result(question["id"], {"action": "decline"}))
            answer = await peer.receive()
            if seconds < 6:
                assert answer == result(1, {"action": "decline"})
                assert trio.current_time() == start + 4 + 100 + 5.5
            else:
                assert answer == error(1, -32603, "Request timed out")
                assert trio.current_time() == start + 4 + 100 + 6
        assert left == [6, 6]


# What handlers return and raise.


@attrs.frozen
class Point:
    x: int


class Pair(msgspec.Struct):
    left: str


class Unmappable:
    """Something that JSON knows nothing of."""

    def __repr__(self) -> str:
        return "unmappable"


@pytest.mark.parametrize(
    "returned, expected",
    [
        (None, {}),
        ({}, {}),
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        (Point(1), {"x": 1}),
        (Pair("l"), {"left": "l"}),
        ([], None),
        ([("a", 1)], None),
        ("text", None),
        (0, None),
        (True, None),
        (Unmappable(), None),
        ({"a": Unmappable()}, None),
        ({"a": "\ud800"}, {"a": "\ufffd"}),
        ({1j: 1}, None),
    ],
    ids=repr,
)
async def test_the_value_of_a_handler_becomes_the_result_or_a_crash(
    returned: object, expected: object, autojump_clock: MockClock
) -> None:
    router = Router("r")

    @router.request("get")
    async def get(ctx: RequestContext) -> object:
        return returned

    async with talking(router) as peer:
        with peer.session.subscribe() as events:
            answer = await peer.ask(1, "get")
            if expected is not None:
                assert answer == result(1, expected)
                assert peer.session.metrics.errors == 0
            else:
                assert answer == error(1, -32603, "Internal error")
                (crash,) = errors_of([events.receive_nowait()])
                assert isinstance(crash, HandlerCrashed)
                assert crash.method == "get"
                assert isinstance(crash.__cause__, (TypeError, ValueError))
                assert peer.session.metrics.errors == 1
        assert await peer.ask(2, "ping") == result(2)


def recursive() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize(
    "raised, expected",
    [
        (McpError(7, "seven"), {"code": 7, "message": "seven"}),
        (McpError(7, "s", {"x": [1]}), {"code": 7, "message": "s", "data": {"x": [1]}}),
        (McpError(7, "unmappable", Unmappable()), None),
        (McpError(7, "recursive", recursive()), None),
        (McpError(7, "\ud800"), {"code": 7, "message": "\ufffd"}),
        (ValueError("secret"), None),
        (ToolError("not in a tool"), None),
        (KeyError(), None),
        (RecursionError(), None),
        (ExceptionGroup("both", [ValueError(1), McpError(7, "s")]), None),
        (StopAsyncIteration(), None),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_an_error_of_a_handler_becomes_an_error_answer(
    raised: Exception, expected: object, autojump_clock: MockClock
) -> None:
    router = Router("r")

    @router.request("fail")
    async def fail(ctx: RequestContext) -> None:
        await trio.lowlevel.checkpoint()
        raise raised

    async with talking(router) as peer:
        with peer.session.subscribe() as events:
            answer = await peer.ask(1, "fail")
            if expected is not None:
                assert answer == {"jsonrpc": "2.0", "id": 1, "error": expected}
                with pytest.raises(trio.WouldBlock):
                    events.receive_nowait()
            else:
                assert answer == error(1, -32603, "Internal error")
                (crash,) = errors_of([events.receive_nowait()])
                assert isinstance(crash, HandlerCrashed)
                if not isinstance(raised, McpError):
                    assert crash.__cause__ is raised
        assert peer.session.metrics.errors == 1
        assert await peer.ask(2, "ping") == result(2)
        assert peer.session.error is None


def bursting(router: Router) -> None:
    """A handler with a nursery, one of whose tasks fails while it is being cancelled."""

    @router.request("burst")
    async def burst(ctx: RequestContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_fail_when_cancelled)
            await trio.sleep_forever()


async def _fail_when_cancelled() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("in clean-up")


async def test_a_failure_beside_a_cancellation(autojump_clock: MockClock) -> None:
    router = Router("r")
    bursting(router)
    async with talking(router) as peer:
        with peer.session.subscribe() as events:
            await peer.send(request(1, "burst"))
            await peer.waiting()
            await peer.send(cancelled(1))
            assert await peer.waiting() == []
            (crash,) = errors_of([events.receive_nowait()])
            assert isinstance(crash, HandlerCrashed)
            assert pytest.RaisesGroup(ValueError, flatten_subgroups=True).matches(crash.__cause__)
        assert_at_rest(peer.session)
        assert peer.session.error is None


async def test_cancellations_may_come_in_a_group(autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.request("group")
    async def group(ctx: RequestContext) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancellation:
            made = BaseExceptionGroup("of somebody's making", [cancellation])
            raise made from None  # noqa: ASYNC104  # it is in there

    async with talking(router) as peer:
        with peer.session.subscribe() as events:
            await peer.send(request(1, "group"))
            await peer.waiting()
            await peer.send(cancelled(1))
            assert await peer.waiting() == []
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()
        assert_at_rest(peer.session)


async def test_a_failure_beside_a_timeout(autojump_clock: MockClock) -> None:
    router = Router("r")
    bursting(router)
    async with talking(router, cleanup=CleanupConfig(request_timeout=5)) as peer:
        with peer.session.subscribe() as events:
            assert await peer.ask(1, "burst") == error(1, -32603, "Request timed out")
            assert len(errors_of([events.receive_nowait()])) == 1
        assert_at_rest(peer.session)


def all_of(events: EventStream) -> list[Event]:
    """What a subscription still has to tell, up to its end."""
    told = []
    with pytest.raises(trio.EndOfChannel):
        while True:
            told.append(events.receive_nowait())
    return told


@pytest.mark.parametrize("cancelled_first", [False, True])
async def test_a_failure_beside_the_end_of_the_session(
    cancelled_first: bool, autojump_clock: MockClock
) -> None:
    router = Router("r")
    bursting(router)
    async with serving(router) as manager:
        peer, other = await connect(manager), await connect(manager)
        await peer.establish()
        await other.establish()
        await peer.send(request(1, "burst"), request(2, "burst"))
        await peer.waiting()
        with peer.session.subscribe() as events:
            if cancelled_first:
                # Both cancellations are there before the handler runs.
                receive(peer.session, msgspec.json.encode(cancelled(1)), Slot())
            peer.session.terminate()
            assert await peer.session.wait_terminated() is TerminationReason.REQUESTED
            told = all_of(events)
        crashes = [one for one in errors_of(told) if isinstance(one, HandlerCrashed)]
        assert len(crashes) == 2
        # Each is the failure of a request, and none of the session.
        assert peer.session.error is None
        assert await other.ask(1, "ping") == result(1)


async def test_open_requests_are_answered_at_the_end_of_the_session(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router, limits=SessionLimits(max_in_flight=1)) as peer:
        await peer.send(request(1, "stubborn"), request(2, "wait"), request(3, "wait"))
        await peer.waiting()
        peer.session.terminate(TerminationReason.REVOKED)
        await wait_all_tasks_blocked()
        answers = await peer.waiting()
        assert answers == [
            error(number, -32603, "Session has ended: revoked") for number in (1, 2, 3)
        ]
        # The stubborn one is still there, and counted; nothing more is said for it.
        assert in_flight(peer) == (1, 0)
        desk.gate(1).set()
        await peer.session.wait_terminated()
        assert_at_rest(peer.session)
        assert desk.begun == [1]


# Notifications that the application handles.


async def test_notifications_run_as_requests_do(desk: Desk, autojump_clock: MockClock) -> None:
    async with talking(desk.router, limits=SessionLimits(max_in_flight=2, max_queued=1)) as peer:
        await peer.send(
            notification("notifications/note", {"n": 1}),
            notification("notifications/note", {"fail": "secret"}),
            notification("notifications/note", {"n": 3}),
            notification("notifications/note", {"n": 4}),
            notification("notifications/unknown"),
        )
        assert await peer.waiting() == []
        assert sorted(map(str, desk.noted)) == ["{'fail': 'secret'}", "{'n': 1}"]
        assert in_flight(peer) == (2, 1)
        assert peer.session.metrics.dropped == 1
        with peer.session.subscribe() as events:
            desk.gate("note").set()
            assert await peer.waiting() == []
            (crash,) = errors_of([events.receive_nowait()])
            assert isinstance(crash, HandlerCrashed)
            assert str(crash.__cause__) == "secret"
        assert desk.noted[-1] == {"n": 3}
        assert_at_rest(peer.session)
        assert peer.session.metrics.messages_sent == 1  # the answer to initialize


async def test_the_clock_and_the_end_of_a_notification(
    desk: Desk, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_in_flight=1)
    async with talking(
        desk.router, limits=limits, cleanup=CleanupConfig(request_timeout=5)
    ) as peer:
        await peer.send(notification("notifications/note"), notification("notifications/note"))
        await trio.sleep(6)
        assert desk.noted == [{}, {}]
        assert in_flight(peer) == (1, 0)
        await trio.sleep(6)
        assert_at_rest(peer.session)
        await peer.send(notification("notifications/note"), notification("notifications/note"))
        await wait_all_tasks_blocked()
        peer.session.terminate()
        await peer.session.wait_terminated()
        assert_at_rest(peer.session)
        assert await peer.waiting() == []


async def test_a_notification_has_no_id(autojump_clock: MockClock) -> None:
    router = Router("r")
    seen: list[object] = []

    @router.notification("notifications/note")
    async def note(ctx: RequestContext) -> None:
        seen.extend([ctx.request_id, repr(ctx._request)])
        await ctx.notify("notifications/hello")

    async with talking(router) as peer:
        await peer.send(notification("notifications/note"))
        assert await peer.waiting() == [notification("notifications/hello")]
        assert seen == [None, "<InFlightRequest 'notifications/note' id=UNSET>"]


async def test_asking_is_a_checkpoint_and_admitting_is_none(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router) as peer:
        with assert_no_checkpoints():
            receive(peer.session, msgspec.json.encode(request(1, "wait")), Slot())
            receive(peer.session, msgspec.json.encode(cancelled(1)), Slot())
        with assert_checkpoints():
            outlet = client_of(peer.session).sink
            assert outlet is not None
            await outlet.finish()
