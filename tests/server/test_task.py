"""What a task is to its client: its states, its times, its result, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from tests.helpers import PREFIX, Peer, connect, modern
from tests.rounds import SCHEMA, Clock, Town, accept, town
from tests.tasking import (
    BOTH,
    UNKNOWN,
    WITH_TASKS,
    Workshop,
    acknowledged,
    ask_for,
    cancel,
    client_of,
    complaint_in,
    created,
    get,
    id_of,
    listen,
    start,
    states_heard,
    status,
    task_sessions,
    text_in,
    the_task,
    update,
)
from trio_mcp_session import (
    CapabilityMissing,
    CleanupConfig,
    EndingReason,
    HandlerCrashed,
    Instrumentation,
    McpError,
    NoChannel,
    Principal,
    RequestContext,
    Router,
    SessionKind,
    SessionLimits,
    TaskChanged,
    TaskResultLost,
    TaskStatus,
    TerminationReason,
    ToolError,
    connect_memory,
    open_session_manager,
)
from trio_mcp_session.core.instrumentation import RequestDetails, RequestFinished, RequestOutcome
from trio_mcp_session.server.task import task_of

SERVER = {"name": "workshop", "version": "0"}


# States.


@BOTH
async def test_a_task_begins_with_what_is_known_of_it(way: str, autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(task_timeout=100, task_retention=20, task_poll_interval=0.25)
    async with town(Workshop().router, cleanup=cleanup) as here:
        client = await client_of(here, way)
        call = await client.call("work")
        result = dict(created(call))
        if way == "http":
            assert call.status == 200
        assert result.pop("_meta") == {f"{PREFIX}serverInfo": SERVER}
        task_id = result["taskId"]
        assert result == {
            "resultType": "task",
            "taskId": task_id,
            "status": "working",
            "createdAt": "2026-11-01T00:00:00.000Z",
            "lastUpdatedAt": "2026-11-01T00:00:00.000Z",
            "ttlMs": 120_000,
            "pollIntervalMs": 250,
        }
        del result["resultType"]
        assert await get(client, task_id) == result


@BOTH
async def test_the_times_of_a_task_are_at_least_a_millisecond(
    way: str, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(task_timeout=1e-6, task_retention=1e-6, task_poll_interval=1e-6)
    async with town(Workshop().router, cleanup=cleanup) as here:
        client = await client_of(here, way)
        result = created(await client.call("stubborn", {"seconds": 5}))
        assert (result["ttlMs"], result["pollIntervalMs"]) == (1, 1)
        assert type(result["ttlMs"]) is type(result["pollIntervalMs"]) is int


@BOTH
async def test_a_completed_task_has_the_result_of_its_call(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("workshop")

    async def weather(city: str) -> dict[str, Any]:
        return {"city": city, "degrees": 21}

    router.tool(name="call")(weather)
    router.tool(name="task", task="required")(weather)
    async with town(router) as here:
        client = await client_of(here, way)
        call = await client.call("call", {"city": "Oslo"})
        state = await get(client, await start(client, "task", city="Oslo"))
        assert state["status"] == "completed"
        assert state["result"] == call.result
        assert state["result"]["_meta"] == {f"{PREFIX}serverInfo": SERVER}
        assert state.keys().isdisjoint({"error", "inputRequests", "statusMessage"})


class Failing:
    """A tool that fails in each way."""

    def __init__(self) -> None:
        self.router = Router("workshop")
        self.router.tool(name="call")(self.fail)
        self.router.tool(name="task", task="required")(self.fail)

    async def fail(self, ctx: RequestContext, how: str) -> Any:
        match how:
            case "tool error":
                raise ToolError("no luck")
            case "crash":
                raise KeyError("secret")
            case "exit":
                raise SystemExit(3)
            case "group":
                raise ExceptionGroup("", [McpError(-5, "one"), ToolError("two")])
            case "json-rpc":
                raise McpError(-32000, "broken", {"part": 7})
            case "no data":
                raise McpError(12, "broken")
            case "old code":
                raise McpError(-32002, "not found")
            case "capability":
                raise CapabilityMissing("sampling.tools")
            case "data":
                raise McpError(-32000, "broken", {"no": object()})
            case "result":
                return {"no": object()}
            case _:
                raise NoChannel("nowhere")


@BOTH
@pytest.mark.parametrize(
    "how, said",
    [
        ("tool error", "no luck"),
        ("crash", "The tool 'task' failed with an internal error"),
        ("exit", "The tool 'task' failed with an internal error"),
        ("data", "The tool 'task' failed with an internal error"),
        ("result", "The tool 'task' failed with an internal error"),
        ("no channel", "nowhere"),
    ],
)
async def test_a_tool_that_fails_completes_its_task_with_an_error(
    how: str, said: str, way: str, autojump_clock: MockClock
) -> None:
    async with town(Failing().router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "task", how=how)
        state = await get(client, task_id)
        assert complaint_in(state) == said
        assert "error" not in state
        here.look()
        if how in ("crash", "exit", "data", "result"):
            # Once, as the session's of the task.
            (report,) = here.errors
            assert isinstance(report, HandlerCrashed)
            assert "tool 'task'" in str(report)
            here.errors.clear()
        assert await get(client, task_id) == state


@BOTH
@pytest.mark.parametrize(
    "how, error",
    [
        ("json-rpc", {"code": -32000, "message": "broken", "data": {"part": 7}}),
        ("no data", {"code": 12, "message": "broken"}),
        ("old code", {"code": -32602, "message": "not found"}),
        ("group", {"code": -5, "message": "one"}),
        (
            "capability",
            {
                "code": -32021,
                "message": str(CapabilityMissing("sampling.tools")),
                "data": {"requiredCapabilities": {"sampling": {"tools": {}}}},
            },
        ),
    ],
)
async def test_an_error_of_the_protocol_fails_its_task(
    how: str, error: Mapping[str, Any], way: str, autojump_clock: MockClock
) -> None:
    async with town(Failing().router) as here:
        client = await client_of(here, way)
        call = await client.call("call", {"how": how})
        assert call.answer["error"] == error
        state = await get(client, await start(client, "task", how=how))
        assert state["status"] == "failed"
        assert state["error"] == error
        assert state["statusMessage"] == error["message"]
        assert "result" not in state


@BOTH
async def test_a_cancelled_task_is_cancelled_when_its_handler_has_ended(
    way: str, autojump_clock: MockClock
) -> None:
    router, log = Router("workshop"), []

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append((ctx.ending.reason, ctx.answered))
            with trio.CancelScope(shield=True):
                await ctx.progress(1, message="tidies up")
                await trio.sleep(10)

    async with town(router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        assert acknowledged(await cancel(client, task_id))
        assert log == [(EndingReason.CANCELLED, True)]
        # What is happening is not what its client asked for: the message does not change.
        assert await status(client, task_id) == "working"
        await trio.sleep(11)
        state = await get(client, task_id)
        assert (state["status"], state["statusMessage"]) == ("cancelled", "cancelled by the client")
        assert state.keys().isdisjoint({"result", "error", "inputRequests"})


@BOTH
async def test_a_task_that_ignores_its_cancellation_completes(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "stubborn", seconds=10)
        await cancel(client, task_id)
        assert await status(client, task_id) == "working"
        await trio.sleep(11)
        assert text_in(await get(client, task_id)) == "all the same"


@BOTH
@pytest.mark.parametrize("how", ["tool error", "json-rpc", "crash", "timeout"])
async def test_a_failure_after_a_cancellation_is_the_cancellation(
    how: str, way: str, autojump_clock: MockClock
) -> None:
    failing, router = Failing(), Router("workshop")

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            if how != "timeout":
                await failing.fail(ctx, how)  # noqa: ASYNC102  # the handler ends late on purpose
            with trio.CancelScope(shield=True):
                await trio.sleep(100)
            raise

    async with town(router, cleanup=CleanupConfig(task_timeout=50)) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work")
        await cancel(client, task_id)
        await trio.sleep(101)
        assert await status(client, task_id) == "cancelled: cancelled by the client"
        here.look()
        assert len(here.errors) == (how == "crash")
        here.errors.clear()


@BOTH
async def test_a_cancellation_of_the_request_is_not_one_of_the_task(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        call = await client.call("work")
        await call.leave()
        await trio.sleep(10)
        assert await status(client, id_of(call)) == "working"
        assert here.mistakes == []


@BOTH
async def test_a_final_status_never_changes(way: str, autojump_clock: MockClock) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        for tool, arguments, final in (
            ("work", {"seconds": 0}, "completed"),
            ("ask", {}, "cancelled"),
            ("work", {}, "cancelled"),
        ):
            task_id = await start(client, tool, **arguments)
            await cancel(client, task_id)
            state = await get(client, task_id)
            assert state["status"] == final
            await cancel(client, task_id)
            await update(client, task_id, {"name": accept(name="x")})
            assert not here.manager.cancel_task(task_id)
            task = task_of(session_of(here, task_id))
            assert task is not None
            with assert_no_checkpoints():
                task.report_progress("too late")
                task.keep_error(1, "too late", None)
                task.keep_result({})
                task.fail("too late")
                task.cancel()
            assert await get(client, task_id) == state


def session_of(here: Town, task_id: str) -> Any:
    return here.manager.get_session(task_id, kind=SessionKind.TASK)


# Times.


@BOTH
async def test_a_task_is_cancelled_when_its_time_is_over(
    way: str, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(
        task_timeout=100, task_retention=50, request_timeout=10, max_idle_time=20, ending_notice=5
    )
    router = Router("workshop")
    seen: list[object] = []

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> None:
        seen.append(ctx.time_left)
        await trio.sleep(20)
        # Its own clock does not stop while its client is asked.
        await ctx.elicit("?", SCHEMA, key="name")
        seen.append(ctx.time_left)
        seen.append((await ctx.ending.wait(), ctx.time_left))
        await trio.sleep_forever()

    async with town(router, cleanup=cleanup) as here:
        client = await client_of(here, way, "ann")
        task_id = await start(client, "work")
        await trio.sleep(50)
        await update(client, task_id, {"name": accept(name="x")})
        await trio.sleep(49.9)
        assert await status(client, task_id) == "working"
        await trio.sleep(0.2)
        state = await get(client, task_id)
        assert complaint_in(state) == "The tool 'work' took too long, and was cancelled"
        assert seen == [100, 50, (EndingReason.DEADLINE, 5)]
        assert state["ttlMs"] == 150_000


@BOTH
async def test_an_outcome_is_kept_from_the_end_on_whether_it_is_read_or_not(
    way: str, autojump_clock: MockClock
) -> None:
    cleanup = CleanupConfig(
        task_timeout=1_000, task_retention=50, max_idle_time=5, cleanup_interval=0.5
    )
    async with town(Workshop().router, cleanup=cleanup) as here:
        client = await client_of(here, way, "ann")
        # Not even after it: only the connection itself would be idle.
        ids = [await start(client, "work", seconds=30) for _ in range(2)]
        created_at = (await get(client, ids[0]))["createdAt"]
        await trio.sleep(40)
        state = await get(client, ids[0])
        assert state["ttlMs"] == 80_000  # 30 until its end, and 50 then.
        assert state["createdAt"] == created_at
        assert state["lastUpdatedAt"] == "2026-11-01T00:00:30.000Z"
        await trio.sleep(39.9)
        assert await get(client, ids[0]) == state
        await get(client, ids[1])
        await trio.sleep(1)
        assert [(await ask_for(client, one)).error for one in ids] == [UNKNOWN] * 2
        assert task_sessions(here) == []
        assert here.manager.statistics().ended[TerminationReason.LIFETIME] == 2


@BOTH
async def test_times_count_from_the_clock_at_the_beginning(
    way: str, autojump_clock: MockClock
) -> None:
    """A wall clock that is set back, or forth, changes nothing."""
    clock = Clock(datetime.fromisoformat("2026-11-01T12:00:00.123456+02:00"))
    async with town(Workshop().router, clock=clock) as here:
        client = await client_of(here, way)
        task_id = await start(client, "work", seconds=10)
        clock.turn(-3_600)
        await trio.sleep(11)
        state = await get(client, task_id)
        assert state["createdAt"] == "2026-11-01T10:00:00.123Z"
        assert state["lastUpdatedAt"] == "2026-11-01T10:00:10.123Z"
        clock.turn(7_200_000)
        assert await get(client, task_id) == state


async def test_a_handler_that_works_is_never_idle(autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(max_idle_time=5, max_session_time=20, idle_after=1)
    async with town(Workshop().router, cleanup=cleanup) as here:
        client = await client_of(here, "http", "ann")
        ids = [await start(client, tool) for tool in ("work", "ask")]
        await trio.sleep(10_000)
        assert [await status(client, one) for one in ids] == ["working", "input_required"]


# Progress and log messages.


@BOTH
async def test_progress_is_the_message_of_the_status(way: str, autojump_clock: MockClock) -> None:
    router = Router("workshop")

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> None:
        for number in range(3):
            await trio.sleep(1)
            await ctx.progress(number, 3, None if number == 1 else f"step {number}")
        await trio.sleep(1)
        await ctx.progress(1, message="less than before")
        await ctx.log("error", "dropped")
        await ctx.notify("notifications/message", {"level": "error", "data": "dropped"})
        await trio.sleep(1)

    async with town(router) as here:
        client = await client_of(here, way)
        level: dict[str, Any] = {f"{PREFIX}logLevel": "debug"}
        call = await client.call("work", **level)
        task_id = id_of(call)
        subscription = await listen(client, task_id)
        assert "statusMessage" not in await get(client, task_id)
        await trio.sleep(0.5)
        for second, said in enumerate(["step 0", "1 of 3", "step 2", "step 2"], 1):
            await trio.sleep(1)
            state = await get(client, task_id)
            assert state["statusMessage"] == said
            last = min(second, 3)
            assert state["lastUpdatedAt"] == f"2026-11-01T00:00:0{last}.000Z"
        await trio.sleep(1)
        state = await get(client, task_id)
        assert "statusMessage" not in state
        assert call.notes == []
        told = [one.get("statusMessage") for one in states_heard(subscription)]
        assert told == [None, "step 0", "1 of 3", "step 2", None]


# Size.


@BOTH
async def test_a_status_message_over_its_limit_is_shortened(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("workshop")

    @router.tool(task="optional", promote_after=1)
    async def talk(ctx: RequestContext, sizes: list[int]) -> None:
        for done, size in enumerate(sizes):
            await ctx.progress(done, message="x" * size)
            await trio.sleep(2)
        raise McpError(5, "x" * 2_000)

    async with town(router) as here:
        client = await client_of(here, way)
        call = await client.call("talk", {"sizes": [1_025, 1_024, 1_000_000]})
        await trio.sleep(1.5)
        shortened = "x" * 1_023 + "…"
        assert created(call)["statusMessage"] == shortened
        for message in ("x" * 1_024, shortened):
            await trio.sleep(2)
            assert (await get(client, id_of(call)))["statusMessage"] == message
        await trio.sleep(2)
        state = await get(client, id_of(call))
        assert state["statusMessage"] == shortened
        assert state["error"] == {"code": 5, "message": "x" * 2_000}


@BOTH
async def test_a_result_over_its_limit_fails_the_task(way: str, autojump_clock: MockClock) -> None:
    router = Router("workshop")

    @router.tool(task="required")
    async def text(size: int) -> str:
        return "x" * size

    router.tool(name="unstructured", task="required", structured=False)(text)

    @router.tool(task="required")
    async def error(size: int) -> None:
        raise McpError(5, "x" * size)

    limits = SessionLimits(max_task_result=1_000)
    async with town(router, limits=limits) as here:
        client = await client_of(here, way)
        empty = await get(client, await start(client, "unstructured", size=0))
        session = session_of(here, empty["taskId"])
        overhead = session._byte_budget().held
        error_overhead = len(b'{"code":5,"message":""}')
        for tool, around in (("unstructured", overhead), ("error", error_overhead)):
            at_the_edge = await start(client, tool, size=1_000 - around)
            state = await get(client, at_the_edge)
            assert "x" * (1_000 - around) in str(state)
            too_large = await start(client, tool, size=1_001 - around)
            why = "the result is too large to keep: 1001 bytes (limit: 1000)"
            state = await get(client, too_large)
            assert state["status"] == "failed"
            assert state["error"] == {"code": -32603, "message": why}
            assert state["statusMessage"] == why
            here.look()
            (lost,) = here.errors
            assert isinstance(lost, TaskResultLost)
            assert str(lost) == f"tool {tool!r}: {why}"
            here.errors.clear()


@BOTH
async def test_a_result_counts_until_its_task_is_removed(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("workshop")

    @router.tool(task="required")
    async def text(size: int) -> str:
        return "x" * size

    limits = SessionLimits(max_party_bytes=100_000)
    cleanup = CleanupConfig(task_retention=50, cleanup_interval=1)
    async with town(router, limits=limits, cleanup=cleanup) as here:
        client = await client_of(here, way, "ann")
        first = await start(client, "text", size=35_000)
        assert here.manager.statistics().bytes_held > 70_000
        second = await start(client, "text", size=35_000)
        state = await get(client, second)
        assert state["status"] == "failed"
        assert state["error"]["code"] == -32603
        assert state["statusMessage"].startswith("the result cannot be kept (7")
        here.look()
        assert isinstance(here.errors.pop(), TaskResultLost)
        assert len(text_in(await get(client, first))) == 35_000
        # Others have their own room.
        other = await client_of(here, way, "bob")
        assert len(text_in(await get(other, await start(other, "text", size=35_000)))) == 35_000
        await trio.sleep(52)
        assert here.manager.statistics().bytes_held == 0
        again = await start(client, "text", size=35_000)
        assert len(text_in(await get(client, again))) == 35_000


@BOTH
async def test_the_parameters_of_a_task_count_while_it_works(
    way: str, autojump_clock: MockClock
) -> None:
    workshop = Workshop()

    @workshop.router.tool(task="required")
    async def long(text: str) -> None:
        await workshop.gate.wait()

    async with town(workshop.router) as here:
        client = await client_of(here, way, "ann")
        await start(client, "long", text="x" * 50_000)
        assert here.manager.statistics().bytes_held > 50_000
        workshop.gate.set()
        await wait_all_tasks_blocked()
        assert here.manager.statistics().bytes_held < 5_000


# Programs.


@BOTH
async def test_programs_list_count_and_cancel_tasks(way: str, autojump_clock: MockClock) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way, "ann")
        manager = here.manager
        assert manager.list_tasks() == []
        assert manager.statistics().tasks == {}
        over = await start(client, "work", seconds=0)
        asking = await start(client, "ask")
        working = await start(client, "work")
        await trio.sleep(10)
        with assert_no_checkpoints():
            tasks = {str(one.task_id): one for one in manager.list_tasks()}
        assert set(tasks) == {over, asking, working}
        assert manager.statistics().tasks == {
            "completed": 1,
            "input_required": 1,
            "working": 1,
        }
        info = tasks[asking]
        assert (info.name, info.status) == ("tool 'ask'", TaskStatus.INPUT_REQUIRED)
        assert info.questions == ("name",)
        assert info.principal == Principal("ann")
        assert info.age == 10
        assert info.time_left == 86_400 + 3_600 - 10
        assert info.created == here.clock.time
        assert info.created.utcoffset() == timedelta(0)
        assert info.status_message is None
        assert tasks[over].time_left == 3_600 - 10
        for task_id, cancelled in ((over, False), ("unknown", False), ("", False), (asking, True)):
            with assert_no_checkpoints():
                assert manager.cancel_task(task_id) is cancelled
        await wait_all_tasks_blocked()
        assert await status(client, asking) == "cancelled: cancelled by the server"
        assert not manager.cancel_task(asking)
        # The session of a task is one as every session.
        assert manager.get_session(working) is session_of(here, working)
        assert not any(manager.cancel_task(one.session_id) for one in here.seen)


@BOTH
async def test_changes_of_the_status_are_events(way: str, autojump_clock: MockClock) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "ask", times=2)
        with session_of(here, task_id).subscribe() as events:
            for number in (1, 2):
                key = "name" if number == 1 else "name-2"
                await update(client, task_id, {key: accept(name="x")})
            other = await start(client, "work")
            await cancel(client, other)
            await trio.sleep(10)
            own = [one for one in drained(events) if isinstance(one, TaskChanged)]
        assert [one.status for one in own] == [
            TaskStatus.WORKING,
            TaskStatus.INPUT_REQUIRED,
            TaskStatus.WORKING,
            TaskStatus.COMPLETED,
        ]
        here.look()
        told = [one for one in here.told if isinstance(one, TaskChanged)]
        assert [(one.session_id, one.status) for one in told] == [
            (task_id, TaskStatus.INPUT_REQUIRED),
            *((task_id, one.status) for one in own),
            (other, TaskStatus.CANCELLED),
        ]
        assert all(one.kind is SessionKind.TASK for one in told)


def drained(events: Any) -> list[Any]:
    found = []
    while True:
        try:
            found.append(events.receive_nowait())
        except trio.WouldBlock:
            return found


def test_three_statuses_are_final() -> None:
    assert TaskStatus.WORKING.is_final is TaskStatus.INPUT_REQUIRED.is_final is False
    assert all(TaskStatus(one).is_final for one in ("completed", "failed", "cancelled"))


@BOTH
async def test_what_belongs_to_a_task_is_described_briefly(
    way: str, autojump_clock: MockClock
) -> None:
    workshop = Workshop()
    seen: list[str] = []

    @workshop.router.tool(task="required")
    async def looks(ctx: RequestContext) -> None:
        seen.append(repr(ctx._request.promotion))
        seen.append(repr(ctx._request.detached))
        await trio.lowlevel.checkpoint()

    async with town(workshop.router) as here:
        client = await client_of(here, way)
        task_id = await start(client, "looks")
        task = task_of(the_task(here))
        assert repr(task) == f"<ServerTask {task_id[:6]}… completed>"
        assert seen[0].startswith("<Promotion of <InFlightRequest 'tools/call'")
        assert seen[1].startswith("<DetachedCall of <InFlightRequest 'tools/call'")


async def test_the_description_of_a_task_does_not_show_its_id(autojump_clock: MockClock) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, "http")
        task_id = await start(client, "work")
        (info,) = here.manager.list_tasks()
        assert info.task_id == task_id
        # Without authentication, the id is the secret, and logs are read.
        assert task_id not in repr(info)
        assert f"task_id={task_id[:6]}…" in repr(info)


@BOTH
@pytest.mark.parametrize(
    "how, why",
    [
        ("terminate", "the server ended the task: requested"),
        ("revoke", "access was revoked"),
    ],
)
async def test_a_client_is_told_why_the_server_ended_its_task(
    how: str, why: str, way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way, "ann")
        watcher = await client_of(here, way, "ann")
        task_id = await start(client, "work")
        subscription = await listen(watcher, task_id)
        if how == "revoke":
            here.manager.revoke(Principal("ann"))
        else:
            the_task(here).terminate()
        await wait_all_tasks_blocked()
        last = states_heard(subscription)[-1]
        assert (last["status"], last["statusMessage"]) == ("failed", why)
        assert last["error"] == {"code": -32603, "message": why}
        assert task_sessions(here) == []


class Watch(Instrumentation):
    """Remembers the requests that have ended."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, RequestOutcome]] = []

    def request_begun(self, details: RequestDetails) -> RequestFinished:
        return lambda outcome: self.seen.append((details.method, outcome))


async def test_a_request_ends_for_instrumentation_when_its_task_begins(
    autojump_clock: MockClock,
) -> None:
    watch = Watch()
    with trio.fail_after(1_000):
        async with open_session_manager(Workshop().router, instrumentation=watch) as manager:
            channel = await connect_memory(manager)
            await wait_all_tasks_blocked()
            peer = Peer(channel, manager.sessions()[0])
            params = {"name": "work", "arguments": {"seconds": 10}}
            call = modern(1, "tools/call", params, capabilities=WITH_TASKS)
            await peer.send(call)
            answer = await peer.receive()
            assert watch.seen == [("tools/call", RequestOutcome())]
            got = {"taskId": answer["result"]["taskId"]}
            await peer.send(modern(2, "tasks/get", got, capabilities=WITH_TASKS))
            await peer.receive()
            await peer.send(modern(3, "tasks/get", {"taskId": "x"}, capabilities=WITH_TASKS))
            await peer.receive()
            await trio.sleep(11)
            assert watch.seen[1:] == [
                ("tasks/get", RequestOutcome()),
                ("tasks/get", RequestOutcome(error_code=-32602)),
            ]
            await channel.aclose()


# Interrupts.


async def test_an_interrupt_in_a_task_ends_the_server(autojump_clock: MockClock) -> None:
    workshop = Workshop()

    @workshop.router.tool(task="required")
    async def interrupted() -> None:
        await trio.sleep(1)
        raise KeyboardInterrupt

    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        async with open_session_manager(workshop.router) as manager:
            peer = await connect(manager)
            for number, name in enumerate(("work", "interrupted")):
                params = {"name": name, "arguments": {}}
                call = modern(number, "tools/call", params, capabilities=WITH_TASKS)
                await peer.send(call)
                await peer.receive()
            try:
                await trio.sleep_forever()
            finally:
                reached.append("cancelled")
    assert reached == ["cancelled"]
    assert manager.sessions() == []
    assert workshop.log == ["began", "cancelled"]
