"""Modern requests on a connection: they need no handshake, and see no session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, cast, final

import msgspec
import pytest
import trio
from hypothesis import example, given, settings, strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.helpers import (
    LATEST,
    MODERN,
    Peer,
    at_every_step,
    brief,
    cancelled,
    cancelled_at_step,
    connect,
    error,
    errors_of,
    initialize,
    leftovers,
    manager_of,
    modern,
    modern_result,
    notification,
    request,
    result,
    serving,
    talking,
    told,
)
from trio_mcp_session import (
    CapabilityMissing,
    CleanupConfig,
    HandlerCrashed,
    McpError,
    NoSession,
    RequestContext,
    Router,
    Session,
    SessionLimits,
    SessionManager,
    SessionState,
    TerminationReason,
    connect_memory,
    current_session,
    open_session_manager,
)
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.server.dispatch import receive

MARK: ContextVar[object] = ContextVar("mark", default=None)


@final
class Desk:
    """An application that tells what it sees, and whose requests wait for the test."""

    def __init__(self, **settings: Any) -> None:
        self.router = Router("desk", **settings)
        self.begun: list[object] = []
        self.cancelled: list[object] = []
        self.tasks: list[trio.lowlevel.Task] = []
        self.gates: dict[object, trio.Event] = {}
        for method in ("wait", "stubborn", "tell", "log", "mark", "fail", "ask"):
            self.router.request(method)(getattr(self, method))

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
            # A request that was cancelled gets no answer.
            with trio.CancelScope(shield=True):
                await ctx.progress(1)
                await ctx.notify("notifications/late")
            raise
        return {"of": key}

    async def stubborn(self, ctx: RequestContext) -> dict[str, Any]:
        # Not for ever: a test that fails must still come to its end.
        with trio.move_on_after(1000, shield=True):
            await self.wait(ctx)
        await trio.lowlevel.checkpoint()
        raise AssertionError("it is cancelled in all of these tests")  # pragma: no cover

    async def tell(self, ctx: RequestContext) -> dict[str, Any]:
        assert ctx.client is not None
        try:
            session: object = ctx.session is current_session()
        except NoSession:
            with pytest.raises(LookupError):
                current_session()
            session = None
        return {
            "version": ctx.protocol_version,
            "client": ctx.client.client_id,
            "capabilities": ctx.client.capabilities,
            "session": session,
        }

    async def log(self, ctx: RequestContext) -> None:
        for level in ("debug", "info", "error"):
            await ctx.log(level, level)

    async def mark(self, ctx: RequestContext) -> dict[str, Any]:
        before = MARK.get()
        MARK.set(ctx.request_id)
        self.tasks.append(trio.lowlevel.current_task())
        await trio.lowlevel.checkpoint()
        assert MARK.get() == ctx.request_id
        return {"before": before}

    async def ask(self, ctx: RequestContext) -> dict[str, Any]:
        return {"roots": await ctx.list_roots()}

    async def fail(self, ctx: RequestContext) -> None:
        match ctx.params["how"]:
            case "crash":
                raise ValueError("secret")
            case "interrupt":
                raise KeyboardInterrupt
            case "capability":
                raise CapabilityMissing("sampling")
            case code:
                raise McpError(code, "failed", {"x": 1})


@pytest.fixture
def desk() -> Desk:
    return Desk()


@asynccontextmanager
async def alone(
    desk: Desk, *, limits: SessionLimits | None = None, cleanup: CleanupConfig | None = None
) -> AsyncIterator[Peer]:
    """A client that has not said anything."""
    async with serving(desk.router, limits=limits, cleanup=cleanup) as manager:
        peer = await connect(manager)
        yield peer
        await peer.channel.aclose()
        await peer.session.wait_terminated()
        assert leftovers(manager, peer.session) == []


async def heard(peer: Peer) -> list[Any]:
    return [told(one) for one in await peer.waiting()]


def said_by(name: str) -> dict[str, str]:
    return {"name": name, "version": "1"}


# They are stateless.


@pytest.mark.parametrize("handshake", [False, True])
async def test_nothing_is_remembered_of_the_client(
    handshake: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    async with alone(desk) as peer:
        if handshake:
            await peer.establish(capabilities={"roots": {}})
        session = {"version": LATEST, "client": "tester", "capabilities": {"roots": {}}}
        clients: list[tuple[str, dict[str, Any]]] = [
            ("ann", {"sampling": {}}),
            ("", {}),
            ("bob", {"elicitation": {}}),
            ("", {}),
        ]
        for number, (name, capabilities) in enumerate(clients):
            known = {"clientInfo": said_by(name)} if name else {}
            await peer.send(modern(number, "tell", capabilities=capabilities, **known))
            expected = {"version": MODERN, "client": name, "capabilities": capabilities}
            assert await heard(peer) == [modern_result(number, expected | {"session": None})]
            await peer.send(request("legacy", "tell"))
            answers = await heard(peer)
            if handshake:
                assert answers == [result("legacy", session | {"session": True})]
            else:
                assert answers == [error("legacy", -32602)]
                assert peer.session.protocol_version is None
                assert peer.session.client is None


async def test_nothing_is_remembered_of_the_log_level(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router) as peer:

        async def levels(message: object) -> list[str]:
            await peer.send(message)
            return [one["params"]["level"] for one in await peer.waiting() if "params" in one]

        assert await levels(modern(1, "log")) == []
        assert await levels(modern(1, "log", logLevel="info")) == ["info", "error"]
        assert await levels(modern(1, "log")) == []
        assert await levels(request(1, "log")) == ["info", "error"]  # The session's default.
        await peer.ask(1, "logging/setLevel", {"level": "debug"})
        assert await levels(modern(1, "log")) == []
        assert await levels(modern(1, "log", logLevel="error")) == ["error"]
        assert await levels(request(1, "log")) == ["debug", "info", "error"]


async def test_capabilities_come_from_the_request(desk: Desk, autojump_clock: MockClock) -> None:
    async with talking(desk.router, capabilities={"roots": {}}) as peer:
        await peer.send(modern(1, "ask"))
        (answer,) = await peer.waiting()
        assert brief(answer) == error(1, -32021)
        assert answer["error"]["data"] == {"requiredCapabilities": {"roots": {}}}
        # It cannot be asked: this revision does not have the message.
        await peer.send(modern(1, "ask", capabilities={"roots": {}}))
        assert await heard(peer) == [error(1, -32603)]
        # What it said for one request is forgotten with it.
        await peer.send(modern(1, "ask"))
        assert await heard(peer) == [error(1, -32021)]


async def test_context_variables_do_not_leak_from_request_to_request(
    desk: Desk, autojump_clock: MockClock
) -> None:
    MARK.set("the manager's")
    async with serving(desk.router, limits=SessionLimits(max_in_flight=1)) as manager:
        MARK.set("the opener's")
        peer = await connect(manager)
        for number in range(3):
            await peer.send(modern(number, "mark"))
            expected = modern_result(number, {"before": "the manager's"})
            assert await heard(peer) == [expected]
        assert len(set(desk.tasks)) == 1, "or this proves nothing"
        # Nor to those that waited behind one, nor to the session's.
        await peer.establish()
        await peer.send(modern(3, "mark"), modern(4, "mark"), request(5, "mark"))
        before = {"before": "the manager's"}
        assert sorted(await heard(peer), key=str) == [
            modern_result(3, before),
            modern_result(4, before),
            result(5, before),
        ]


async def test_they_open_no_session(autojump_clock: MockClock) -> None:
    entered: list[Session] = []

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        entered.append(session)
        yield

    desk = Desk(lifespan=lifespan)
    async with alone(desk) as peer:
        await peer.send(modern(1, "tell"), modern(2, "server/discover"))
        assert len(await peer.waiting()) == 2
        assert entered == []
        # The same pipe may still have one.
        await peer.establish()
        assert entered == [peer.session]
        assert peer.session.protocol_version == LATEST


async def test_discovery_takes_no_task(desk: Desk, autojump_clock: MockClock) -> None:
    async with alone(desk) as peer:
        await peer.send(modern(1, "server/discover"))
        assert len(await peer.waiting()) == 1
        assert client_of(peer.session).stateless_requests is None
        assert peer.session.metrics.requests == 1
        assert peer.session.state is SessionState.ACTIVE


async def test_failures_are_the_requests_own(desk: Desk, autojump_clock: MockClock) -> None:
    async with alone(desk) as peer:
        with peer.session.subscribe() as events:
            for how, code in (
                (-32002, -32602),  # what it is in this revision
                (-32602, -32602),
                (1, 1),
                ("capability", -32021),
            ):
                await peer.send(modern(1, "fail", {"how": how}))
                assert await heard(peer) == [error(1, code)]
            await peer.send(modern(1, "fail", {"how": "crash"}))
            (answer,) = await peer.waiting()
            assert answer["error"] == {"code": -32603, "message": "Internal error"}
            happened = [events.receive_nowait() for _ in range(2)]
        (crash,) = errors_of(happened)
        assert isinstance(crash, HandlerCrashed)
        assert isinstance(crash.__cause__, ValueError)
        assert peer.session.state is SessionState.ACTIVE
        assert peer.session.error is None


async def test_an_interrupt_comes_out_of_the_manager(desk: Desk, autojump_clock: MockClock) -> None:
    with pytest.raises(KeyboardInterrupt):
        async with open_session_manager(desk.router) as manager:
            peer = await connect(manager)
            await peer.send(modern(1, "wait"), modern(2, "fail", {"how": "interrupt"}))
            await trio.sleep_forever()
    assert desk.cancelled == [1]
    assert leftovers(manager, peer.session) == []


# Limits, clocks, cancellations.


async def test_limits_at_their_edges(desk: Desk, autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_in_flight=2, max_queued=1)
    async with alone(desk, limits=limits) as peer:
        await peer.send(*(modern(number, "wait") for number in range(4)))
        assert await heard(peer) == [error(3, -32603)]
        metrics = peer.session.metrics
        assert (metrics.in_flight, metrics.queued) == (2, 1)
        assert manager_of(peer.session).statistics().in_flight == 2
        # The session's own have room of their own.
        await peer.establish()
        await peer.send(request(10, "wait"))
        assert await heard(peer) == []
        assert peer.session.metrics.in_flight == 3
        for number in (0, 1, 2, 10):
            desk.gate(number).set()
        answers = sorted(await heard(peer), key=lambda one: int(one["id"]))
        assert answers == [
            *(modern_result(number, {"of": number}) for number in range(3)),
            result(10, {"of": 10}),
        ]
        assert not peer.session.busy


@pytest.mark.parametrize("queued", [False, True])
async def test_a_stateless_request_on_a_pipe_is_cancelled_by_its_id(
    queued: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    async with alone(desk, limits=SessionLimits(max_in_flight=1 + (not queued))) as peer:
        await peer.send(modern("first", "wait"), modern(1, "wait", {"_meta": {}}))
        assert await heard(peer) == []
        await peer.send(cancelled("1"), cancelled(True), cancelled(2), cancelled({}))
        assert await heard(peer) == []
        assert peer.session.metrics.cancelled == 0
        await peer.send(cancelled(1), cancelled(1))
        # No answer, no progress, nothing.
        assert await heard(peer) == []
        assert peer.session.metrics.cancelled == 1
        assert desk.cancelled == ([] if queued else [1])
        desk.gate(1).set()
        desk.gate("first").set()
        assert await heard(peer) == [modern_result("first", {"of": "first"})]
        # Its id is free again.
        await peer.send(modern(1, "wait"))
        assert await heard(peer) == [modern_result(1, {"of": 1})]
        assert not peer.session.busy


async def test_cancelled_in_the_chunk_that_it_came_in(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with alone(desk) as peer:
        # The room is not open yet.
        await peer.send(modern(1, "wait"), cancelled(1), modern(2, "tell"))
        assert [one["id"] for one in await peer.waiting()] == [2]
        assert desk.begun == []
        await peer.send(modern(1, "wait"), cancelled(1))
        assert await peer.waiting() == []
        assert peer.session.metrics.cancelled == 2


async def test_progress_goes_with_the_request(autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.request("work")
    async def work(ctx: RequestContext) -> None:
        await ctx.progress(1, message="half")

    async with serving(router) as manager:
        peer = await connect(manager)
        message = modern(1, "work")
        message["params"]["_meta"]["progressToken"] = "t"
        await peer.send(message)
        assert await heard(peer) == [
            notification(
                "notifications/progress", {"progressToken": "t", "progress": 1, "message": "half"}
            ),
            modern_result(1),
        ]


async def test_the_clock_of_a_request(desk: Desk, autojump_clock: MockClock) -> None:
    async with alone(desk, cleanup=CleanupConfig(request_timeout=10)) as peer:
        await peer.send(modern(1, "wait"), modern(2, "wait"))
        desk.gate(2).set()
        assert await heard(peer) == [modern_result(2, {"of": 2})]
        answer = None
        while answer is None or "error" not in answer:
            answer = await peer.receive()  # Its handler may still notify.
        assert trio.current_time() == 10
        assert answer["error"] == {"code": -32603, "message": "Request timed out"}
        assert desk.cancelled == [1]


async def test_workers_are_kept_and_retire(desk: Desk, autojump_clock: MockClock) -> None:
    async with alone(desk, cleanup=CleanupConfig(idle_after=10)) as peer:
        for number in range(3):
            await peer.send(modern(number, "mark"))
            await peer.waiting()
        assert len(set(desk.tasks)) == 1
        gate = client_of(peer.session).stateless_requests
        assert gate is not None
        assert gate.tasks == set(desk.tasks)
        await trio.sleep(20)
        assert peer.session.state is SessionState.IDLE
        assert not gate.tasks
        await peer.send(modern(3, "mark"))
        assert len(await peer.waiting()) == 1
        assert peer.session.state is SessionState.ACTIVE  # type: ignore[comparison-overlap]  # it moved


# They end with the connection.


@pytest.mark.parametrize("handshake", [False, True])
async def test_answered_and_cancelled_when_the_session_ends(
    handshake: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router, limits=SessionLimits(max_in_flight=1)) as manager:
        peer = await connect(manager)
        if handshake:
            await peer.establish()
        await peer.send(modern(1, "wait"), modern(2, "wait"))
        assert await heard(peer) == []
        peer.session.terminate()
        # New ones are refused from this moment on.
        receive(peer.session, msgspec.json.encode(modern(3, "tell")), client_of(peer.session).sink)
        with assert_checkpoints():
            await peer.session.wait_terminated()
        answers = await peer.waiting()
        assert sorted(one["id"] for one in answers) == [1, 2, 3]
        texts = {one["id"]: one["error"]["message"] for one in answers}
        assert texts[1] == texts[2] == "Session has ended: requested"
        assert texts[3] == "server is shutting down"
        assert desk.cancelled == desk.begun == [1]
        assert leftovers(manager, peer.session) == []


async def test_ended_before_its_task_has_run(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager:
        peer = await connect(manager)
        session = peer.session
        receive(session, msgspec.json.encode(modern(1, "wait")), client_of(session).sink)
        assert session._running_tasks() == ("session",)
        session.terminate()
        await session.wait_terminated()
        assert await heard(peer) == [error(1, -32603)]
        assert leftovers(manager, session) == []


@pytest.mark.parametrize("in_time", [True, False])
async def test_the_clients_end_leaves_them_the_grace(
    in_time: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router, cleanup=CleanupConfig(eof_grace=10)) as manager:
        peer = await connect(manager)
        await peer.send(modern(1, "wait"))
        await peer.channel.send_eof()
        await trio.sleep(9)
        assert peer.session.state is SessionState.ACTIVE
        if in_time:
            desk.gate(1).set()
        expected = modern_result(1, {"of": 1}) if in_time else error(1, -32603)
        assert told(await peer.receive()) == expected
        with pytest.raises(trio.EndOfChannel):
            await peer.channel.receive()
        assert await peer.session.wait_terminated() is TerminationReason.CLIENT_CLOSED
        assert trio.current_time() == (9 if in_time else 10)
        assert leftovers(manager, peer.session) == []


async def test_stubborn_code_holds_the_session(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager:
        peer = await connect(manager)
        await peer.send(modern(1, "stubborn"))
        await wait_all_tasks_blocked()
        peer.session.terminate()
        await trio.sleep(100)
        assert peer.session.state is SessionState.TERMINATING
        assert peer.session._running_tasks() == ("stubborn",)
        desk.gate(1).set()
        await peer.session.wait_terminated()
        assert trio.current_time() == 100
        assert leftovers(manager, peer.session) == []


async def test_a_lifespan_that_cancels_its_session_does_not_reach_them(
    autojump_clock: MockClock,
) -> None:
    inner: list[trio.CancelScope] = []
    desks: list[Desk] = []

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        with trio.CancelScope() as scope:
            inner.append(scope)
            await trio.lowlevel.checkpoint()
            yield
        # They were told to end with the rest.
        await wait_all_tasks_blocked()
        assert sorted(map(str, desks[0].cancelled)) == ["1", "2"]

    desk = Desk(lifespan=lifespan)
    desks.append(desk)
    async with serving(desk.router) as manager:
        peer = await connect(manager)
        await peer.establish()
        await peer.send(modern(1, "wait"), request(2, "wait"))
        await peer.waiting()
        inner[0].cancel()
        await peer.session.wait_terminated()
        answers = {one["id"]: one["error"]["message"] for one in await peer.waiting()}
        assert answers == dict.fromkeys((1, 2), "Session has ended: crashed")
        assert sorted(map(str, desk.cancelled)) == ["1", "2"]
        assert leftovers(manager, peer.session) == []


async def test_a_manager_cancelled_at_any_step_leaves_no_requests_of_either_era(
    autojump_clock: MockClock,
) -> None:
    """With requests of both kinds that run, wait, and have run."""

    async def attempt(step: int) -> bool:
        desk = Desk()
        manager: SessionManager
        sessions: list[Session] = []
        with cancelled_at_step(step) as scope:
            async with open_session_manager(desk.router) as manager:
                channel = await connect_memory(manager)
                peer = Peer(channel, cast("Session", None))
                await peer.send(modern(1, "wait"), modern(2, "tell"), initialize())
                await peer.send(modern(3, "wait"), request(4, "wait"), request(5, "tell"))
                await trio.sleep(1)
                sessions = manager.sessions()
                await peer.send(modern(6, "tell"), cancelled(1), cancelled(4), modern(1, "tell"))
                desk.gate(3).set()
                await trio.sleep(1)
        assert leftovers(manager, *sessions) == []
        return not scope.cancelled_caught

    assert await at_every_step(attempt) > 30


# Both eras at once.


@final
class Model:
    """Knows what each message is answered with, and says it beforehand."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.established = False
        self.opening: int | None = None
        """The id of an ``initialize`` that is being answered."""
        self.is_modern: dict[int, bool] = {}
        """What is in flight, or held behind ``initialize``."""
        self.dying: dict[int, bool] = {}
        """What has been cancelled a moment ago, and holds its id still."""
        self.expected: list[Any] = []

    def send(self, action: str, number: int) -> object:
        """Return the message of an action, and note what it is answered with."""
        taken = {**self.dying, **self.is_modern}
        match action:
            case "modern" | "discover":
                return self._modern(number, taken, method=action)
            case "legacy" | "initialize":
                return self._legacy(number, taken, method=action)
            case "cancel":
                self._cancel(number)
                return cancelled(number)
            case "ping":
                self.expected.append(result(number))
                return request(number, "ping")
            case _:
                self.expected.append(error(number, -32022))
                return modern(number, "wait", version=LATEST)

    def _modern(self, number: int, taken: dict[int, bool], *, method: str) -> object:
        if number in taken or number == self.opening:
            self.expected.append(error(number, -32600))
        elif method == "discover":
            self.expected.append(modern_result(number))
        else:
            self._begin(number, is_modern=True)
        return modern(number, "wait" if method == "modern" else "server/discover")

    def _legacy(self, number: int, taken: dict[int, bool], *, method: str) -> object:
        if taken.get(number, False):
            self.expected.append(error(number, -32600))
        elif method == "legacy" and not self.established:
            self.expected.append(error(number, -32602))
        elif self.established and (number in taken or method == "initialize"):
            self.expected.append(error(number, -32600))
        elif method == "legacy":
            self._begin(number, is_modern=False)
        else:
            self.expected.append(result(number, "of initialize"))
            self.established = True
            self.opening = number
        return request(number, "wait") if method == "legacy" else initialize(number)

    def _cancel(self, number: int) -> None:
        if number in self.is_modern:
            is_modern = self.is_modern.pop(number)
            if is_modern or self.opening is None:  # What is held is gone at once.
                self.dying[number] = is_modern

    def _begin(self, number: int, *, is_modern: bool) -> None:
        self.is_modern[number] = is_modern
        self.desk.gates[number] = trio.Event()

    def settle(self) -> None:
        self.opening = None
        self.dying.clear()

    def release(self, number: int) -> None:
        if number in self.is_modern:
            answer = modern_result if self.is_modern.pop(number) else result
            self.expected.append(answer(number, {"of": number}))
            self.desk.gates[number].set()


def shortened(message: Any) -> Any:
    """What the model says of an answer: what is in long ones is told elsewhere."""
    message = told(message)
    value = message.get("result", {})
    if "protocolVersion" in value:
        return {**message, "result": "of initialize"}
    if "supportedVersions" in value.get("modern", ()):
        return modern_result(message["id"])
    return message


SENT = ["modern", "legacy", "discover", "initialize", "ping", "cancel", "stray"]
NUMBERS = (1, 2, 3)


@settings(deadline=None)
@given(
    plan=st.lists(
        st.tuples(st.sampled_from([*SENT, "release", "settle"]), st.sampled_from(NUMBERS)),
        max_size=25,
    )
)
@example([("legacy", 1), ("modern", 1), ("modern", 1), ("discover", 2), ("initialize", 1)])
@example([("initialize", 1), ("modern", 1), ("legacy", 1), ("legacy", 2), ("cancel", 2)])
@example([("initialize", 1), ("legacy", 2), ("legacy", 2), ("initialize", 3)])
@example([("modern", 1), ("cancel", 1), ("modern", 1), ("cancel", 1), ("settle", 1)])
@example([("initialize", 3), ("settle", 1), ("legacy", 1), ("cancel", 1), ("legacy", 1)])
@example([("modern", 1), ("release", 1), ("release", 1), ("ping", 1), ("stray", 1)])
def test_both_eras_in_any_order(plan: list[tuple[str, int]]) -> None:
    async def main() -> None:
        model = Model()
        sent: list[object] = []
        got: list[Any] = []
        async with alone(model.desk) as peer:

            async def settle() -> None:
                await peer.send(*sent)
                sent.clear()
                got.extend([shortened(one) for one in await peer.waiting()])
                model.settle()

            for action, number in plan:
                if action in ("release", "settle"):
                    await settle()
                    model.release(number if action == "release" else 0)
                    continue
                if action == "legacy" and model.opening and number in model.is_modern:
                    await settle()  # Which of two that are held is cancelled would be a guess.
                sent.append(model.send(action, number))
            await settle()
            for number in NUMBERS:
                model.release(number)
            await settle()
            assert sorted(got, key=str) == sorted(model.expected, key=str)
            assert not peer.session.busy
            assert peer.session.protocol_version == (LATEST if model.established else None)

    trio.run(main, clock=MockClock(autojump_threshold=0))
