"""Transports that raise: the message is lost and reported, and nothing else is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, final

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import (
    OpenOutlet,
    Peer,
    admit_stateless,
    cancelled,
    connect,
    errors_of,
    events_so_far,
    initialize,
    listening,
    modern,
    notification,
    request,
    result,
    serving,
)
from trio_mcp_session import (
    CleanupFailed,
    NoChannel,
    Principal,
    RequestContext,
    RequestFailed,
    Router,
    SendFailed,
    SessionLimits,
    SessionManager,
    Transport,
)
from trio_mcp_session.protocol.envelope import read_envelope
from trio_mcp_session.protocol.jsonrpc import Request
from trio_mcp_session.server.accept import accept
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.server.dispatch import receive
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.request import InFlightRequest
from trio_mcp_session.server.request_queue import RequestQueue

FAILURES = [OSError(28, "disk full"), SystemExit(1)]


@final
@attrs.define(eq=False)
class Broken(OpenOutlet):
    """A way to a client that raises whatever it is given."""

    failure: BaseException = attrs.field(factory=lambda: OSError(28, "disk full"))
    calls: list[str] = attrs.field(factory=list)
    breaks: tuple[str, ...] = ("result", "no result", "message")
    frames: list[Any] = attrs.field(factory=list)

    def take(self, what: str, frame: bytes) -> None:
        self.calls.append(what)
        if what in self.breaks:
            raise self.failure
        self.frames.append(msgspec.json.decode(frame))

    def send_result(self, frame: bytes) -> None:
        self.take("result", frame)

    def send_no_result(self) -> None:
        self.take("no result", b"null")

    def send_message(self, frame: bytes) -> bool:
        self.take("message", frame)
        return True

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()  # pragma: no cover  # there is always room

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()
        if "finish" in self.breaks:
            raise self.failure


@final
class Desk:
    def __init__(self) -> None:
        self.router = Router("desk")
        self.release = trio.Event()
        for method in ("wait", "say", "done", "tools/list"):
            self.router.request(method)(getattr(self, method.partition("/")[0]))

    async def wait(self, ctx: RequestContext) -> None:
        await self.release.wait()

    async def say(self, ctx: RequestContext) -> None:
        for step in range(3):
            await ctx.notify("notifications/step", {"step": step})

    async def done(self, ctx: RequestContext) -> None:
        await trio.lowlevel.checkpoint()

    async def tools(self, ctx: RequestContext) -> None:
        raise NotImplementedError  # pragma: no cover  # it is there for the capability


@pytest.fixture
def desk() -> Desk:
    return Desk()


@asynccontextmanager
async def established(
    manager: SessionManager, *, principal: Principal | None = None
) -> AsyncIterator[Peer]:
    peer = await connect(manager, principal=principal)
    await peer.establish()
    yield peer


def put(peer: Peer, outlet: Any, *messages: Any) -> None:
    for message in messages:
        receive(peer.session, msgspec.json.encode(message), outlet)


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_an_answer_that_cannot_be_sent_is_lost_and_reported_once(
    failure: BaseException, desk: Desk, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(desk.router) as manager, established(manager) as peer:
        broken = Broken(failure)
        with peer.session.subscribe() as events:
            put(peer, broken, request(1, "done"), request(2, "ping"), request(3, "unknown"))
            await wait_all_tasks_blocked()
            reports = errors_of(events_so_far(events))
        assert broken.calls == ["result"] * 3
        assert [type(one) for one in reports] == [SendFailed] * 3
        assert len(caplog.records) == 3
        assert peer.session.metrics.dropped == 3
        assert not peer.session.busy
        assert peer.session.error is None
        assert await peer.ask(4, "done") == result(4)


async def test_messages_to_a_broken_sink_are_dropped_and_the_request_continues(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager, established(manager) as peer:
        broken = Broken(breaks=("message",))
        put(peer, broken, request(1, "say"))
        await wait_all_tasks_blocked()
        assert broken.calls == ["message"] * 3 + ["result"]
        assert broken.frames == [result(1)]
        assert peer.session.metrics.dropped == 3


@pytest.mark.parametrize("queued", [False, True])
async def test_a_cancelled_request_leaves_although_its_transport_fails(
    queued: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_in_flight=1)
    async with serving(desk.router, limits=limits) as manager, established(manager) as peer:
        broken = Broken()
        first = request(1, "wait")
        put(peer, broken, *([first, request(2, "wait")] if queued else [first]))
        put(peer, broken, cancelled(2 if queued else 1))
        await wait_all_tasks_blocked()
        assert broken.calls == ["no result"]
        assert client_of(peer.session).request_queue().running == queued
        desk.release.set()
        await wait_all_tasks_blocked()
        assert await peer.ask(3, "done") == result(3)


async def test_all_are_answered_at_the_end_although_some_transports_fail(
    desk: Desk, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_in_flight=3)
    async with serving(desk.router, limits=limits) as manager, established(manager) as peer:
        outlets = [Broken(breaks=() if number % 2 else ("result",)) for number in range(6)]
        for number, outlet in enumerate(outlets):
            put(peer, outlet, request(number, "wait"))
        subscriptions = [Broken(breaks=()), Broken(breaks=("result",)), Broken(breaks=())]
        for number, outlet in enumerate(subscriptions):
            put(peer, outlet, listening(f"l{number}", toolsListChanged=True))
        await wait_all_tasks_blocked()
        peer.session.terminate()
        await peer.session.wait_terminated()
        assert [outlet.calls for outlet in outlets] == [["result"]] * 6
        assert [len(outlet.frames) for outlet in outlets] == [0, 1] * 3
        assert [outlet.calls for outlet in subscriptions] == [["message", "result"]] * 3
        assert manager.statistics().listens == 0


class _StopsAll(BaseException):
    """An exception that must propagate."""


async def test_the_other_requests_are_answered_before_an_interrupt_is_raised(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager, established(manager) as peer:
        outlets = [Broken(_StopsAll(), breaks=("result",) * (not number)) for number in range(3)]
        for number, outlet in enumerate(outlets):
            put(peer, outlet, request(number, "wait"))
        await wait_all_tasks_blocked()
        with pytest.raises(_StopsAll):
            client_of(peer.session).request_queue().fail_all(-1, "over")
        assert [outlet.calls for outlet in outlets] == [["result"]] * 3
        desk.release.set()


async def test_the_other_requests_are_stopped_before_an_interrupt_is_raised(
    desk: Desk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = InFlightRequest.stop

    def break_one(request: InFlightRequest, reason: str) -> None:
        stop(request, reason)
        if request.id == 0:
            raise _StopsAll

    async with serving(desk.router) as manager, established(manager) as peer:
        outlets = [Broken(breaks=()) for _ in range(3)]
        for number, outlet in enumerate(outlets):
            put(peer, outlet, request(number, "wait"))
        await wait_all_tasks_blocked()
        gate = client_of(peer.session).request_queue()
        monkeypatch.setattr(InFlightRequest, "stop", break_one)
        with pytest.raises(_StopsAll):
            gate.cancel_all()
        await wait_all_tasks_blocked()
        assert gate.running == 0
        assert [outlet.calls for outlet in outlets] == [["result"]] * 3


def post(manager: SessionManager, number: int, method: str, outlet: Any) -> InFlightRequest:
    message = modern(number, method)
    envelope = read_envelope(message["params"])
    return admit_stateless(manager, Request(number, method, message["params"]), outlet, envelope)


def explode(*_: object) -> None:
    raise ZeroDivisionError("a bug of the library")


async def test_a_worker_that_fails_ends_no_other(
    desk: Desk,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its nursery is the manager's: whatever one request does, the others live there."""
    limits = SessionLimits(max_stateless_requests=1)
    async with serving(desk.router, limits=limits) as manager, established(manager) as peer:
        outlets = [Broken(breaks=()) for _ in range(3)]
        monkeypatch.setattr(InFlightRequest, "answer", explode)
        post(manager, 0, "done", outlets[0])
        post(manager, 1, "wait", outlets[1])
        await wait_all_tasks_blocked()
        monkeypatch.undo()
        desk.release.set()
        await wait_all_tasks_blocked()
        # Answered all the same, gone from the tables, and the one in line had its turn.
        assert outlets[0].frames[0]["error"]["code"] == -32603
        assert "result" in outlets[1].frames[0]
        assert server_of(manager).stateless.running == 0
        assert await peer.ask(1, "ping") == result(1)
        assert "a bug of the library" in caplog.text
        monkeypatch.setattr(RequestQueue, "_answer_cancelled", explode)
        desk.release = trio.Event()
        doomed = post(manager, 2, "wait", outlets[2])
        await wait_all_tasks_blocked()
        assert doomed.scope is not None
        doomed.scope.cancel()
        await wait_all_tasks_blocked()
        assert server_of(manager).stateless.running == 0
        assert await peer.ask(2, "ping") == result(2)
        assert len(caplog.records) == 2


async def test_an_interrupt_beside_a_bug_is_raised_and_the_bug_reported(
    desk: Desk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise BaseExceptionGroup("both", [_StopsAll(), ZeroDivisionError("a bug")])

    async def run() -> None:
        async with serving(desk.router) as manager:
            monkeypatch.setattr(InFlightRequest, "answer", interrupt)
            with manager.subscribe() as events:
                try:
                    post(manager, 0, "done", Broken(breaks=()))
                    await trio.sleep_forever()
                finally:
                    told = [one for one in events_so_far(events) if isinstance(one, RequestFailed)]
                    reported.extend(one.error for one in told)

    reported: list[Exception] = []
    with pytest.RaisesGroup(_StopsAll, flatten_subgroups=True):
        await run()
    assert len(reported) == 1


# Subscriptions and broadcasts.


async def test_a_subscription_ends_when_its_transport_fails(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """Its client could not know what it missed; the others receive the change."""
    async with serving(desk.router) as manager, established(manager) as peer:
        outlets = [Broken(breaks=()) for _ in range(3)]
        for number, outlet in enumerate(outlets):
            put(peer, outlet, listening(number, toolsListChanged=True))
        outlets[1].breaks = ("message", "no result")
        manager.notify_list_changed("tools")
        assert [len(outlet.frames) for outlet in outlets] == [2, 1, 2]
        assert outlets[1].calls == ["message", "message", "no result"]
        assert manager.statistics().listens == 2
        manager.revoke(peer.session._default_principal)
        assert manager.statistics().listens == 0
        assert [outlet.calls.count("result") for outlet in outlets] == [1, 0, 1]


async def test_a_subscription_that_cannot_be_acknowledged_is_gone(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager, established(manager) as peer:
        put(peer, Broken(), listening(1, toolsListChanged=True))
        assert manager.statistics().listens == 0
        assert await peer.ask(1, "ping") == result(1)


async def test_all_subscriptions_end_although_one_fails(
    desk: Desk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(desk.router) as manager, established(manager) as peer:
        outlets = [Broken(breaks=()) for _ in range(3)]
        for number, outlet in enumerate(outlets):
            put(peer, outlet, listening(number, toolsListChanged=True))
        listens = list(server_of(manager).subscriptions._table.values())
        strike_out = server_of(manager).subscriptions._remove

        def break_one(self: Any, listen: Any) -> None:
            strike_out(listen)
            if listen is listens[0]:
                raise ZeroDivisionError("a bug")

        monkeypatch.setattr(type(server_of(manager).subscriptions), "_remove", break_one)
        await server_of(manager).subscriptions.end()
        assert [outlet.calls.count("result") for outlet in outlets] == [0, 1, 1]
        assert manager.statistics().listens == 0


async def test_a_broadcast_reaches_the_others(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager, established(manager) as peer:
        broken = Broken(breaks=())
        session = await accept(manager, broken, transport=Transport("broken"))
        receive(session, msgspec.json.encode(initialize(0)), broken)
        receive(session, msgspec.json.encode(notification("notifications/initialized")), broken)
        await wait_all_tasks_blocked()
        broken.breaks = ("message",)
        report = manager.broadcast("notifications/x")
        assert (report.sent, report.dropped) == (1, 1)
        assert (await peer.receive())["method"] == "notifications/x"
        # What is sent to this client alone says so.
        with pytest.raises(NoChannel):
            await session.notify("notifications/x")
        with pytest.raises(NoChannel):
            await session.ask("ping")
        assert session.error is None
        session.terminate()
        await session.wait_terminated()


# While a session is being opened.


async def test_what_waits_for_an_opening_session_has_its_end(
    desk: Desk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(desk.router) as manager:
        broken = Broken(breaks=("no result",))
        session = await accept(manager, broken, transport=Transport("broken"))
        for message in (initialize(0), request(1, "done"), request(2, "done"), cancelled(1)):
            receive(session, msgspec.json.encode(message), broken)
        await wait_all_tasks_blocked()
        assert [one["id"] for one in broken.frames] == [0, 2]
        assert broken.calls[0] == "no result"
        assert not session.busy
        session.terminate()
        await session.wait_terminated()


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_last_messages_that_cannot_be_written_are_reported_as_that(
    failure: BaseException, desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        outlet = Broken(failure, breaks=("finish",))
        session = await accept(manager, outlet, transport=Transport("broken"))
        session.terminate()
        await session.wait_terminated()
        assert isinstance(session.error, CleanupFailed)
        assert session.error.what == "writing the last messages"
