"""Requests that belong to the manager alone: admitted, withdrawn, drained, reported."""

from __future__ import annotations

import logging
from contextlib import suppress
from contextvars import ContextVar
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
    admit_stateless,
    at_every_step,
    cancelled_at_step,
    connect,
    error,
    leftovers,
    modern,
    modern_result,
    serving,
    told,
)
from trio_mcp_session import (
    CacheHint,
    CleanupConfig,
    HandlerCrashed,
    McpError,
    NoChannel,
    NoSession,
    PeerViolation,
    RequestContext,
    RequestFailed,
    Router,
    SessionConfig,
    SessionLimits,
    SessionManager,
    current_session,
    open_session_manager,
)
from trio_mcp_session.protocol.envelope import read_envelope
from trio_mcp_session.protocol.jsonrpc import Request
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.request import InFlightRequest
from trio_mcp_session.server.request_queue import MAX_IDLE

MARK: ContextVar[object] = ContextVar("mark", default=None)


@attrs.define(eq=False)
class Response(OpenOutlet):
    """Where the answer of one request goes, as a response over HTTP is."""

    room: int = 1_000
    answers: list[Any] = attrs.field(factory=list)
    messages: list[Any] = attrs.field(factory=list)
    answered: trio.Event = attrs.field(factory=trio.Event)
    unanswered: int = 0

    def send_result(self, frame: bytes) -> None:
        self.answers.append(told(msgspec.json.decode(frame)))
        self.answered.set()

    def send_no_result(self) -> None:
        self.unanswered += 1

    def send_message(self, frame: bytes) -> bool:
        if len(self.messages) >= self.room:
            return False
        self.messages.append(msgspec.json.decode(frame))
        return True

    async def wait_writable(self) -> None:
        await trio.sleep(1)
        self.room += 1


@final
class Desk:
    """An application whose requests wait until the test lets them go."""

    def __init__(self, **settings: Any) -> None:
        self.router = Router("desk", **settings)
        self.release = trio.Event()
        self.begun: list[object] = []
        self.cancelled: list[object] = []
        self.marks: list[object] = []
        self.tasks: list[trio.lowlevel.Task] = []
        for method in ("wait", "stubborn", "mark", "fail", "progress", "tools/list"):
            self.router.request(method)(getattr(self, method.partition("/")[0]))

    async def wait(self, ctx: RequestContext) -> None:
        self.begun.append(ctx.request_id)
        self.tasks.append(trio.lowlevel.current_task())
        try:
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled.append(ctx.request_id)
            raise

    async def stubborn(self, ctx: RequestContext) -> None:
        with trio.CancelScope(shield=True):
            await self.release.wait()

    async def mark(self, ctx: RequestContext) -> None:
        self.marks.append(MARK.get())
        MARK.set(ctx.request_id)
        self.tasks.append(trio.lowlevel.current_task())
        with pytest.raises(NoSession):
            _ = ctx.session
        with pytest.raises(LookupError):
            current_session()
        await trio.lowlevel.checkpoint()
        assert MARK.get() == ctx.request_id

    async def fail(self, ctx: RequestContext) -> None:
        if ctx.params.get("interrupt"):
            raise KeyboardInterrupt
        raise ValueError("secret")

    async def progress(self, ctx: RequestContext) -> None:
        for step in range(3):
            await ctx.notify("notifications/step", {"step": step})

    async def tools(self, ctx: RequestContext) -> dict[str, Any]:
        return {"tools": []}


@pytest.fixture
def desk() -> Desk:
    return Desk()


def post(
    manager: SessionManager,
    request_id: Any,
    method: str,
    response: Response | None = None,
    **params: object,
) -> tuple[InFlightRequest, Response]:
    """Hand a request over, as a transport does."""
    response = response or Response()
    message = modern(request_id, method, params)
    envelope = read_envelope(message["params"])
    read = Request(request_id, method, message["params"])
    with assert_no_checkpoints():
        request = admit_stateless(manager, read, response, envelope)
    return request, response


async def test_the_owner_of_stateless_requests_has_no_client() -> None:
    async with open_session_manager(Router("r")) as manager:
        owner = server_of(manager).stateless
        assert owner.session is None
        assert owner.revision is None
        assert owner.log_severity is None
        assert owner.termination_reason is None
        with assert_checkpoints(), pytest.raises(NoChannel):
            await owner.ask_client(cast("Any", None), "ping", None, 1)


def at_rest(manager: SessionManager) -> bool:
    owner = server_of(manager).stateless
    assert owner.queue is not None
    assert not owner.queue._waiting
    return not (owner._busy or owner.running or owner.queue._active)


# Admission.


async def test_an_answer_of_a_stateless_request_has_its_cache_hints_and_is_counted(
    autojump_clock: MockClock,
) -> None:
    desk = Desk(title="The Desk", cache_hints={"tools/list": CacheHint(max_age=5, scope="public")})
    async with serving(desk.router) as manager:
        assert server_of(manager).stateless.running == 0
        _, response = post(manager, 1, "tools/list")
        await wait_all_tasks_blocked()
        hint = {"ttlMs": 5000, "cacheScope": "public"}
        assert response.answers == [modern_result(1, {"tools": [], **hint})]
        counters = server_of(manager).stateless.counters
        assert (counters.requests, counters.messages_sent, counters.errors) == (1, 1, 0)
        assert counters.bytes_sent > 100
        assert at_rest(manager)


@pytest.mark.parametrize("request_id", [1, "1", "", 0], ids=repr)
async def test_ids_of_different_clients_are_unrelated(
    request_id: object, desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        posted = [post(manager, request_id, "wait") for _ in range(3)]
        await wait_all_tasks_blocked()
        assert server_of(manager).stateless.running == 3
        assert "3 in flight" in repr(server_of(manager).stateless)
        # Each can be told from the others: one is withdrawn, and it is this one.
        server_of(manager).cancel(posted[1][0])
        desk.release.set()
        await wait_all_tasks_blocked()
        expected = [[modern_result(request_id)], [], [modern_result(request_id)]]
        assert [response.answers for _, response in posted] == expected
        assert at_rest(manager)


async def test_the_limit_at_its_edge(desk: Desk, autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_stateless_requests=2, max_queued=1, max_in_flight=1)
    async with serving(desk.router, limits=limits) as manager:
        posted = [post(manager, number, "wait")[1] for number in range(4)]
        await wait_all_tasks_blocked()
        assert sorted(map(str, desk.begun)) == ["0", "1"]
        picture = manager.statistics()
        assert (picture.in_flight, picture.active) == (2, {})
        assert posted[3].answers == [error(3, -32603)]
        # Sessions have limits of their own.
        peer = await connect(manager)
        await peer.send(modern("pipe", "wait"))
        await wait_all_tasks_blocked()
        assert manager.statistics().in_flight == 3
        desk.release.set()
        await wait_all_tasks_blocked()
        assert [response.answers for response in posted[:3]] == [
            [modern_result(number)] for number in range(3)
        ]
        assert manager.statistics().in_flight == 0
        assert at_rest(manager)


async def test_by_default_a_thousand_run(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager:
        posted = [post(manager, number, "wait")[1] for number in range(1_000 + 256 + 1)]
        await wait_all_tasks_blocked()
        assert server_of(manager).stateless.running == len(desk.begun) == 1_000
        assert [response.answers for response in posted] == [
            *([] for _ in range(1_256)),
            [error(1_256, -32603)],
        ]
        desk.release.set()
        await wait_all_tasks_blocked()
        assert all(response.answers for response in posted)
        # Not all of the workers stay for the next requests.
        gate = server_of(manager).stateless.queue
        assert gate is not None
        assert len(gate._idle) == MAX_IDLE
        assert at_rest(manager)


async def test_workers_keep_no_context_variables(desk: Desk, autojump_clock: MockClock) -> None:
    MARK.set("the manager's")
    async with serving(desk.router) as manager:
        MARK.set("the poster's")
        for number in range(3):
            post(manager, number, "mark")
            await wait_all_tasks_blocked()
        assert desk.marks == ["the manager's"] * 3
        assert len(set(desk.tasks)) == 1, "or this proves nothing"


async def test_the_clock_of_a_request(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router, cleanup=CleanupConfig(request_timeout=10)) as manager:
        _, response = post(manager, 1, "wait")
        await response.answered.wait()
        assert trio.current_time() == 10
        assert response.answers == [error(1, -32603)]
        assert response.unanswered == 0


async def test_messages_wait_for_room(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager:
        _, response = post(manager, 1, "progress", Response(room=1))
        await response.answered.wait()
        assert trio.current_time() == 2
        assert [one["params"]["step"] for one in response.messages] == [0, 1, 2]
        assert server_of(manager).stateless.counters.messages_sent == 4


# Clients that leave.


@pytest.mark.parametrize("queued", [False, True])
async def test_a_cancelled_stateless_request_gets_no_answer(
    queued: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_stateless_requests=1 if queued else 2)
    async with serving(desk.router, limits=limits) as manager:
        _, other = post(manager, 1, "wait")
        request, response = post(manager, 1, "wait")
        await wait_all_tasks_blocked()
        with assert_no_checkpoints():
            server_of(manager).cancel(request)
            server_of(manager).cancel(request)
        assert request.answered
        await wait_all_tasks_blocked()
        assert desk.cancelled == ([] if queued else [1])
        assert (response.answers, response.unanswered) == ([], 1)
        assert server_of(manager).stateless.counters.cancelled == 1
        desk.release.set()
        await wait_all_tasks_blocked()
        assert other.answers == [modern_result(1)]
        assert at_rest(manager)


async def test_withdrawn_before_it_began_or_when_it_was_answered(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        request, response = post(manager, 1, "wait")
        server_of(manager).cancel(request)
        await wait_all_tasks_blocked()
        assert (desk.begun, response.answers) == ([], [])
        request, response = post(manager, 2, "mark")
        await wait_all_tasks_blocked()
        server_of(manager).cancel(request)
        assert (response.answers, response.unanswered) == ([modern_result(2)], 0)
        assert server_of(manager).stateless.counters.cancelled == 1


async def test_withdrawing_what_was_never_admitted(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager:
        manager._draining = True
        await server_of(manager).stateless.end()
        request, response = post(manager, 1, "wait")
        server_of(manager).cancel(request)
        assert (len(response.answers), response.unanswered) == (1, 0)
        assert server_of(manager).stateless.counters.cancelled == 0


# What goes wrong.


async def test_a_crash_of_a_stateless_handler_is_logged_and_reported_as_an_event(
    desk: Desk, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(desk.router) as manager:
        _, response = post(manager, 1, "fail")  # There is no subscriber, and it is logged.
        await wait_all_tasks_blocked()
        assert [one.levelname for one in caplog.records] == ["ERROR"]
        assert "handler of 'fail' crashed" in caplog.text
        assert "secret" in caplog.text
        assert "secret" not in str(response.answers)
        assert response.answers == [error(1, -32603)]
        with manager.subscribe() as events:
            await trio.sleep(7)
            post(manager, 2, "fail")
            await wait_all_tasks_blocked()
            event = events.receive_nowait()
        assert isinstance(event, RequestFailed)
        assert event.time == 7
        assert isinstance(event.error, HandlerCrashed)
        assert isinstance(event.error.__cause__, ValueError)
        assert server_of(manager).stateless.counters.errors == 2


async def test_a_violation_fills_no_disk(
    desk: Desk, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(desk.router) as manager:
        with manager.subscribe() as events:
            server_of(manager).stateless.violation("nonsense")
            event = events.receive_nowait()
        assert isinstance(event, RequestFailed)
        assert isinstance(event.error, PeerViolation)
        assert caplog.records == []
        with caplog.at_level(logging.DEBUG, "trio_mcp_session"):
            server_of(manager).stateless.violation("nonsense")
        assert [one.levelname for one in caplog.records] == ["DEBUG"]
        assert server_of(manager).stateless.counters.bad_input == 2


async def test_an_interrupt_comes_out_of_the_manager(desk: Desk, autojump_clock: MockClock) -> None:
    with pytest.raises(KeyboardInterrupt):
        async with open_session_manager(desk.router) as manager:
            _, response = post(manager, 1, "wait")
            await wait_all_tasks_blocked()
            post(manager, 2, "fail", interrupt=True)
            await trio.sleep_forever()
    assert response.answers == [error(1, -32603)]
    assert at_rest(manager)
    assert leftovers(manager) == []


# Draining.


async def test_a_drain_waits_and_answers_the_rest(desk: Desk, autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(drain_grace=10)
    async with serving(desk.router, cleanup=cleanup) as manager:
        posted = [post(manager, number, "wait") for number in range(2)]
        server_of(manager).cancel(posted[0][0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.drain)
            await trio.sleep(9)
            # Nothing new begins, and it says why.
            _, late = post(manager, 3, "mark")
            assert late.answers == [error(3, -32603)]
            assert posted[1][1].answers == []
        assert trio.current_time() == 10
        assert posted[1][1].answers == [error(1, -32603)]
        assert posted[0][1].answers == []
        assert desk.cancelled == [1]
        assert at_rest(manager)
        assert (open_ := server_of(manager).stateless.queue) is not None
        assert open_._idle == []


async def test_a_drain_ends_when_the_last_stateless_request_is_answered(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with serving(desk.router) as manager:
        _, response = post(manager, 1, "wait")
        peer = await connect(manager)
        await peer.send(modern(1, "wait"))
        await wait_all_tasks_blocked()
        reports = []
        async with trio.open_nursery() as nursery:

            async def drain(grace: float) -> None:
                reports.append((await manager.drain(grace=grace), trio.current_time()))

            # Several at the same time: each waits for the same.
            for grace in (50, 30, 40):
                nursery.start_soon(drain, grace)
            await trio.sleep(5)
            assert manager.statistics().draining
            desk.release.set()
        assert [time for _, time in reports] == [5, 5, 5]
        assert {report.completed for report, _ in reports} == {(peer.session.session_id,)}
        assert response.answers == [modern_result(1)]
        assert [told(one) for one in await peer.waiting()] == [modern_result(1)]


async def test_stubborn_code_is_answered_and_keeps_no_drain(
    desk: Desk, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(drain_grace=10, flush_budget=3)
    async with serving(desk.router, cleanup=cleanup) as manager:
        _, response = post(manager, 1, "stubborn")
        await wait_all_tasks_blocked()
        with assert_checkpoints():
            await manager.drain()
        assert trio.current_time() == 13
        assert response.answers == [error(1, -32603)]
        desk.release.set()
        await wait_all_tasks_blocked()
        assert at_rest(manager)


async def test_the_block_waits_for_stubborn_code(desk: Desk, autojump_clock: MockClock) -> None:
    left = []

    async def serve() -> None:
        async with open_session_manager(desk.router) as manager:
            post(manager, 1, "stubborn")
            await wait_all_tasks_blocked()
        left.append(leftovers(manager))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.sleep(100)
        assert left == []
        desk.release.set()
    assert left == [[]]


async def test_waiting_for_stateless_requests_returns_at_once_without_any(
    autojump_clock: MockClock,
) -> None:
    async with serving(Router("r")) as manager:
        with assert_checkpoints():
            await server_of(manager).stateless.wait_done()
        assert trio.current_time() == 0


@pytest.mark.parametrize("how", ["by an error", "cancelled"])
async def test_a_manager_that_is_left_answers_at_once(
    how: str, desk: Desk, autojump_clock: MockClock
) -> None:
    async def serve() -> None:
        async with open_session_manager(desk.router) as manager:
            there.append((manager, post(manager, 1, "wait")[1]))
            await wait_all_tasks_blocked()
            await leave()

    async def leave() -> None:
        if how == "by an error":
            raise McpError(1, "")
        scope.cancel()
        await trio.sleep_forever()

    there: list[tuple[SessionManager, Response]] = []
    with trio.CancelScope() as scope, suppress(McpError):
        await serve()
    ((manager, response),) = there
    assert trio.current_time() == 0
    assert response.answers == [error(1, -32603)]
    assert desk.cancelled == [1]
    _, late = post(manager, 2, "wait")
    assert late.answers == [error(2, -32603)]
    assert leftovers(manager) == []


async def test_a_body_that_refuses_to_end_keeps_no_request(
    desk: Desk, autojump_clock: MockClock
) -> None:
    with trio.CancelScope() as scope:
        async with open_session_manager(desk.router) as manager:
            _, response = post(manager, 1, "wait")
            await wait_all_tasks_blocked()
            with trio.CancelScope(shield=True):
                scope.cancel()
                await trio.sleep(1)
                assert response.answers == [error(1, -32603)]
                assert at_rest(manager)
    assert scope.cancelled_caught


async def test_a_manager_cancelled_at_any_step_leaves_no_stateless_requests(
    autojump_clock: MockClock,
) -> None:
    async def attempt(step: int) -> bool:
        desk = Desk()
        manager: SessionManager
        posted: list[tuple[InFlightRequest, Response]] = []
        config = SessionConfig(limits=SessionLimits(max_stateless_requests=3))
        with cancelled_at_step(step) as scope:
            async with open_session_manager(desk.router, config=config) as manager:
                posted += [post(manager, 1, method) for method in ("wait", "mark", "wait", "mark")]
                await trio.sleep(1)
                server_of(manager).cancel(posted[0][0])
                await trio.sleep(1)
                desk.release.set()
        assert leftovers(manager) == []
        ends = [len(response.answers) + response.unanswered for _, response in posted]
        assert ends == [1] * len(posted)
        return not scope.cancelled_caught

    assert await at_every_step(attempt) > 10
