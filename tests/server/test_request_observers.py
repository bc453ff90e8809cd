"""What observers see of handlers, retries, tasks, questions and notifications."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import Peer, connect, initialize, modern
from tests.tasking import WITH_TASKS
from tests.transports.http.asgi_client import Client
from trio_mcp_session import (
    CleanupConfig,
    HttpOptions,
    Instrumentation,
    ManagerStatistics,
    McpError,
    QuestionDetails,
    QuestionOutcome,
    QuestionTimeout,
    RequestContext,
    RequestDetails,
    RequestObserver,
    RequestOutcome,
    Router,
    Session,
    SessionConfig,
    SessionManager,
    TaskDetails,
    TaskObserver,
    TaskOutcome,
    TaskStatus,
    ToolError,
    http_app,
    open_session_manager,
)
from trio_mcp_session.sessions.instruments import Instruments

ASKED: Mapping[str, Any] = {"elicitation": {"form": {}}}
ANSWER = {"action": "accept", "content": {}}
working_for: ContextVar[object] = ContextVar("working_for", default=None)


@attrs.define(eq=False)
class OneTask(TaskObserver):
    watch: Watch
    details: TaskDetails

    def enter_handler(self) -> None:
        working_for.set("task")

    def waits_for_input(self) -> None:
        self.watch.told.append("waits")

    def finished(self, outcome: TaskOutcome) -> None:
        self.watch.tasks.append(outcome)


@attrs.define(eq=False)
class One(RequestObserver):
    watch: Watch
    details: RequestDetails

    def enter_handler(self) -> None:
        working_for.set(self.details.request_id)

    def continues(self, first: RequestObserver) -> None:
        assert isinstance(first, One)
        self.watch.told.append((self.details.request_id, first.details.request_id))

    def task_begun(self, details: TaskDetails) -> TaskObserver | None:
        return OneTask(self.watch, details)

    def finished(self, outcome: RequestOutcome) -> None:
        self.watch.outcomes.append((self.details.method, outcome))


@attrs.define(eq=False)
class Watch(Instrumentation):
    requests: list[RequestDetails] = attrs.field(factory=list)
    outcomes: list[tuple[str, RequestOutcome]] = attrs.field(factory=list)
    tasks: list[TaskOutcome] = attrs.field(factory=list)
    questions: list[QuestionDetails] = attrs.field(factory=list)
    asked: list[QuestionOutcome] = attrs.field(factory=list)
    told: list[Any] = attrs.field(factory=list)

    def request_begun(self, details: RequestDetails) -> RequestObserver:
        self.requests.append(details)
        return One(self, details)

    def question_begun(
        self, details: QuestionDetails, meta: dict[str, Any]
    ) -> Callable[[QuestionOutcome], object]:
        meta["traceparent"] = f"of {working_for.get()}"
        self.questions.append(details)
        return self.asked.append

    def notification_sent(self, method: str, meta: dict[str, Any]) -> None:
        meta["traceparent"] = f"of {working_for.get()}"


class Bystander(RequestObserver):
    """Overrides nothing."""


class Bystanders(Instrumentation):
    def request_begun(self, details: RequestDetails) -> RequestObserver:
        return Bystander()


seen: list[object] = []
router = Router("r")


@router.tool()
async def work(ctx: RequestContext) -> str:
    async def child() -> None:
        await trio.lowlevel.checkpoint()
        seen.append(working_for.get())

    async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own
        nursery.start_soon(child)
    return "done"


@router.tool()
async def ask(ctx: RequestContext, times: int = 1) -> str:
    for number in range(times):
        await ctx.elicit("Who?", {"type": "object", "properties": {}}, key=f"who{number}")
        seen.append(working_for.get())
    return "done"


@router.tool()
async def tell(ctx: RequestContext) -> str:
    await ctx.notify("notifications/custom", {"_meta": {"traceparent": "own", "x": 1}})
    await ctx.notify("notifications/odd", {"_meta": "text"})
    await ctx.progress(1)
    return "told"


@router.tool(task="required")
async def at_once(ctx: RequestContext, how: str = "well") -> str:
    seen.append(working_for.get())
    if how == "ask":
        await ctx.elicit("Who?", {"type": "object", "properties": {}}, key="who")
    if how == "fail":
        raise ToolError("no")
    if how == "error":
        raise McpError(-32000, "own error")
    await trio.sleep(10)
    return "done"


@router.tool(task="optional", promote_after=1)
async def later(ctx: RequestContext) -> str:
    await trio.sleep(2)
    seen.append(working_for.get())
    return "done"


@router.prompt()
async def greeting(ctx: RequestContext) -> str:
    return "hello"


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


@asynccontextmanager
async def watched(
    served: Any = router, cleanup: CleanupConfig | None = None
) -> AsyncIterator[tuple[SessionManager, Watch]]:
    watch = Watch()
    config = SessionConfig(cleanup=cleanup or CleanupConfig())
    instruments = [Bystanders(), watch, Instrumentation()]
    async with open_session_manager(served, config=config, instrumentation=instruments) as manager:
        yield manager, watch
    assert len(watch.requests) == len(watch.outcomes)
    assert len(watch.questions) == len(watch.asked)


async def established(manager: SessionManager) -> Peer:
    peer = await connect(manager)
    await peer.establish(capabilities=ASKED)
    return peer


def call(request_id: int, tool: str, arguments: Any = None, **more: object) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments or {}, **more}
    return modern(request_id, "tools/call", params, capabilities={**WITH_TASKS, **ASKED})


async def test_a_handler_and_its_tasks_run_in_the_context_of_the_observer(
    autojump_clock: MockClock,
) -> None:
    async with watched() as (manager, _):
        peer = await established(manager)
        await peer.ask(1, "tools/call", {"name": "work"})
        await peer.ask(2, "tools/call", {"name": "work"})
        await peer.send(call(3, "work"))
        await peer.receive()
    assert seen == [1, 2, 3]
    assert working_for.get() is None


async def test_a_retry_continues_the_first_request_and_gives_the_handler_its_context(
    autojump_clock: MockClock,
) -> None:
    async with watched() as (manager, watch):
        peer = await connect(manager)
        await peer.send(call(1, "ask", {"times": 2}))
        for number in (2, 3):
            state = (await peer.receive())["result"]["requestState"]
            answers = {f"who{number - 2}": ANSWER}
            more = {"requestState": state, "inputResponses": answers}
            await peer.send(call(number, "ask", {"times": 2}, **more))
        await peer.receive()
    assert seen == [2, 3]
    assert watch.told == [(2, 1), (3, 1)]
    assert [outcome.needs_input for _, outcome in watch.outcomes] == [True, True, False]


@pytest.mark.parametrize(
    "how, outcome",
    [
        ("well", TaskOutcome(status=TaskStatus.COMPLETED)),
        ("fail", TaskOutcome(status=TaskStatus.COMPLETED, is_tool_error=True)),
        ("error", TaskOutcome(status=TaskStatus.FAILED, error_code=-32000)),
    ],
)
async def test_a_task_is_observed_from_the_answer_to_its_outcome(
    how: str, outcome: TaskOutcome, autojump_clock: MockClock
) -> None:
    async with watched() as (manager, watch):
        peer = await connect(manager)
        await peer.send(call(1, "at_once", {"how": how}))
        assert (await peer.receive())["result"]["resultType"] == "task"
        assert watch.outcomes == [("tools/call", RequestOutcome())]
        await trio.sleep(11)
        assert watch.tasks == [outcome]
    assert seen == ["task"]
    assert watch.tasks[0].error_message == ("own error" if how == "error" else None)


async def test_a_task_that_waits_for_its_client_and_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    async with watched() as (manager, watch):
        peer = await connect(manager)
        await peer.send(call(1, "at_once", {"how": "ask"}))
        task_id = (await peer.receive())["result"]["taskId"]
        await wait_all_tasks_blocked()
        assert watch.told == ["waits"]
        assert manager.cancel_task(task_id)
        await wait_all_tasks_blocked()
        assert watch.tasks == [TaskOutcome(status=TaskStatus.CANCELLED)]


async def test_a_task_that_the_end_of_the_server_fails(autojump_clock: MockClock) -> None:
    async with watched() as (manager, watch):
        peer = await connect(manager)
        await peer.send(call(1, "at_once", {"how": "ask"}))
        await peer.receive()
        await wait_all_tasks_blocked()
    assert watch.tasks == [TaskOutcome(status=TaskStatus.FAILED, error_code=-32603)]


async def test_a_handler_that_runs_gets_the_context_of_its_task(
    autojump_clock: MockClock,
) -> None:
    async with watched() as (manager, watch):
        peer = await connect(manager)
        await peer.send(call(1, "later"))
        assert (await peer.receive())["result"]["resultType"] == "task"
        await trio.sleep(3)
        assert watch.tasks == [TaskOutcome(status=TaskStatus.COMPLETED)]
    assert seen == ["task"]


async def test_a_task_without_an_observer(autojump_clock: MockClock) -> None:
    async with open_session_manager(router, instrumentation=Bystanders()) as manager:
        peer = await connect(manager)
        await peer.send(call(1, "at_once"))
        assert (await peer.receive())["result"]["resultType"] == "task"
        await trio.sleep(11)
    assert seen == [None]


async def answer(peer: Peer, message: Any, **more: Any) -> None:
    await peer.send({"jsonrpc": "2.0", "id": message["id"], **more})


async def test_questions_are_observed_with_context_in_their_meta(
    autojump_clock: MockClock,
) -> None:
    async with watched() as (manager, watch):
        peer = await established(manager)
        await peer.send(call_of_session(1, "ask"))
        question = await peer.receive()
        assert question["params"]["_meta"] == {"traceparent": "of 1"}
        assert watch.questions == [
            QuestionDetails(
                method="elicitation/create",
                request_id=question["id"],
                protocol_version="2025-11-25",
                session_id=peer.session.session_id,
                transport=peer.session.transport,
                principal=None,
            )
        ]
        await answer(peer, question, result=ANSWER)
        await peer.receive()
        assert watch.asked == [QuestionOutcome()]


def call_of_session(request_id: int, tool: str) -> dict[str, Any]:
    params = {"name": tool, "arguments": {}, "_meta": {"progressToken": "p"}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


async def test_how_questions_end(autojump_clock: MockClock) -> None:
    async with watched() as (manager, watch):
        peer = await established(manager)
        session = peer.session
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, session, McpError)
            question = await peer.receive()
            assert question["params"] == {"_meta": {"traceparent": "of None"}}
            await answer(peer, question, error={"code": -1, "message": "no"})
        assert watch.asked[-1] == QuestionOutcome(error_code=-1)
        assert isinstance(watch.asked[-1].error, McpError)
        await expect(session, QuestionTimeout)
        assert isinstance(watch.asked[-1].error, QuestionTimeout)
        with trio.move_on_after(1) as scope:
            await session.ask("ping", timeout=5)
        assert scope.cancelled_caught
        assert watch.asked[-1] == QuestionOutcome(cancelled=True)
        assert [one.method for one in watch.questions] == ["ping"] * 3


async def expect(session: Session, error: type[Exception]) -> None:
    with pytest.raises(error):
        await session.ask("ping", timeout=5)


async def test_context_is_added_to_notifications_and_replaces_nothing(
    autojump_clock: MockClock,
) -> None:
    async with watched() as (manager, _):
        peer = await established(manager)
        await peer.send(call_of_session(1, "tell"))
        custom, odd, progress = [await peer.receive() for _ in range(3)]
        assert custom["params"]["_meta"] == {"traceparent": "own", "x": 1}
        assert odd["params"]["_meta"] == "text"
        assert progress["params"]["_meta"] == {"traceparent": "of 1"}
        await peer.receive()
        await peer.session.notify("notifications/one")
        assert (await peer.receive())["params"] == {"_meta": {"traceparent": "of None"}}
        peer.session.notify_nowait("notifications/two", {"a": 1})
        two = (await peer.receive())["params"]
        assert two == {"a": 1, "_meta": {"traceparent": "of None"}}
    async with open_session_manager(router, instrumentation=Instrumentation()) as manager:
        peer = await established(manager)
        await peer.session.notify("notifications/one")
        assert "params" not in await peer.receive()


@attrs.define
class NoNames:
    """An application without the methods that an application may have."""

    _router: Router

    def __getattr__(self, name: str) -> Any:
        if name in ("target_of", "required_scopes"):
            raise AttributeError(name)
        return getattr(self._router, name)


class Unsure(NoNames):
    """Cannot say what it serves."""

    def handles_request(self, method: str) -> bool:
        raise SystemExit(method)


def mounted() -> Router:
    outer = Router("outer")
    outer.mount(router, prefix="in")
    return outer


@pytest.mark.parametrize(
    "served, method, name, known",
    [
        (router, "tools/call", "work", (True, "work")),
        (router, "tools/call", "unknown", (True, None)),
        (router, "tools/call", 7, (True, None)),
        (router, "prompts/get", "greeting", (True, "greeting")),
        (router, "prompts/get", "work", (True, None)),
        (router, "tools/list", "work", (True, None)),
        (router, "logging/setLevel", None, (True, None)),
        (router, "an/invention", "work", (False, None)),
        (mounted(), "tools/call", "in_work", (True, "in_work")),
        (mounted(), "tools/call", "work", (True, None)),
        (mounted(), "prompts/get", "in_greeting", (True, "in_greeting")),
        (Unsure(router), "tools/call", "work", (False, None)),
    ],
)
async def test_names_of_a_request_that_clients_cannot_invent(
    served: Any, method: str, name: object, known: object, autojump_clock: MockClock
) -> None:
    async with watched(served) as (manager, watch):
        peer = await established(manager)
        await peer.ask(1, method, {"name": name})
        details = watch.requests[-1]
        assert (details.is_known, details.target) == known


async def test_an_application_without_names(autojump_clock: MockClock) -> None:
    async with watched(NoNames(router)) as (manager, watch):
        peer = await established(manager)
        await peer.ask(1, "tools/call", {"name": "work"})
        assert watch.requests[-1].target is None


async def test_a_handshake_that_fails(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        int("no number")
        yield  # pragma: no cover  # not reached

    async with watched(Router("r", lifespan=lifespan)) as (manager, watch):
        peer = await connect(manager)
        await peer.send(initialize())
        await peer.receive()
        assert watch.outcomes == [("initialize", RequestOutcome(error_code=-32603))]


async def test_clients_without_sessions(autojump_clock: MockClock) -> None:
    async with watched() as (manager, watch):
        client = Client(http_app(manager, options=HttpOptions(stateless=True)))
        await client.request(json=initialize())
        await client.request(json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert [method for method, _ in watch.outcomes] == ["initialize", "ping"]
        assert all(one.asgi_scope is not None for one in watch.requests)


class Inactive(Instrumentation):
    """Wants not to be called."""

    def is_active(self) -> bool:
        return False

    def opened(self, statistics: object) -> None:
        raise NotImplementedError  # pragma: no cover  # never called


async def test_inactive_instrumentation_is_dropped(autojump_clock: MockClock) -> None:
    async with open_session_manager(router, instrumentation=Inactive()) as manager:
        peer = await established(manager)
        await peer.ask(1, "ping")
        assert not manager._instruments


@attrs.define(eq=False)
class Beside(Instrumentation):
    """Runs beside the sessions of a manager."""

    fails: bool = False
    log: list[object] = attrs.field(factory=list)

    def opened(
        self, statistics: Callable[[], ManagerStatistics]
    ) -> Callable[[], Awaitable[object]] | None:
        self.log.append(statistics().opened)
        return self.run

    async def run(self) -> None:
        self.log.append("runs")
        if self.fails:
            raise ValueError("it")
        try:
            await trio.sleep_forever()
        finally:
            self.log.append("cancelled")


async def test_instrumentation_may_run_beside_the_sessions(autojump_clock: MockClock) -> None:
    beside = Beside()
    async with open_session_manager(router, instrumentation=beside) as manager:
        await established(manager)
        assert beside.log == [0, "runs"]
    assert beside.log == [0, "runs", "cancelled"]


async def test_a_failure_beside_the_sessions_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_session_manager(router, instrumentation=Beside(fails=True)) as manager:
        peer = await established(manager)
        await peer.ask(1, "ping")
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.getMessage().startswith("instrumentation Beside failed")


def test_only_the_first_end_of_a_request_counts() -> None:
    watch = Watch()
    details = RequestDetails(
        method="ping",
        request_id=1,
        params={},
        protocol_version=None,
        session_id=None,
        transport=None,
        principal=None,
    )
    observed = Instruments((watch,)).request_begun(details)
    assert observed is not None
    observed.finished(RequestOutcome(cancelled=True))
    observed.finished(RequestOutcome())
    assert watch.outcomes == [("ping", RequestOutcome(cancelled=True))]
