"""Tasks of test clients, in memory and over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints

from trio_mcp_session import (
    CleanupConfig,
    ElicitResult,
    McpError,
    Principal,
    RequestContext,
    Router,
    SessionConfig,
    SessionManager,
    TaskStatus,
    http_app,
    open_session_manager,
)
from trio_mcp_session.testing import (
    ClientEraName,
    ClientTask,
    ConnectionEnded,
    TaskAnswer,
    TaskCancelled,
    ToolAnswer,
    check_leaks,
    connect_client,
    connect_http_client,
)

router = Router("demo", "1")
NAME: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}}
ADA = Principal("ada")
CONFIG = SessionConfig(cleanup=CleanupConfig(task_poll_interval=2))


@router.tool(task="required")
async def build(ctx: RequestContext, seconds: float = 10) -> str:
    await ctx.progress(1, 4, "compiling")
    await trio.sleep(seconds)
    return f"built in {seconds:g} s"


@router.tool(task="optional", promote_after=1)
async def maybe(seconds: float) -> str:
    await trio.sleep(seconds)
    return f"took {seconds:g} s"


@router.tool(task="required")
async def ask(ctx: RequestContext, times: int = 1) -> str:
    given: list[str] = []
    for number in range(times):
        answer = await ctx.elicit(f"name {number}?", NAME)
        given.append(_told(answer))
        await trio.sleep(3)
    return " ".join(given)


@router.tool(task="required")
async def ask_both(ctx: RequestContext) -> str:
    given: dict[str, str] = {}

    async def ask_one(which: str) -> None:
        given[which] = _told(await ctx.elicit(which, NAME))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_one, "first")
        nursery.start_soon(ask_one, "second")
    return f"{given['first']} {given['second']}"


@router.tool(task="required", ask_first=True)
async def ask_first(ctx: RequestContext) -> str:
    before = await ctx.elicit("before?", NAME)
    assert await ctx.become_task() is (ctx.task is not None)
    after = await ctx.elicit("after?", NAME)
    return f"{_told(before)} {_told(after)}"


@router.tool(task="required")
async def break_down() -> str:
    await trio.sleep(1)
    raise McpError(-7, "the machine is broken", {"where": "here"})


def _told(answer: ElicitResult[Mapping[str, Any]]) -> str:
    return answer.action if answer.content is None else str(answer.content["name"])


async def answer_by_message(question: dict[str, Any]) -> dict[str, Any]:
    await trio.sleep(1)
    return {"action": "accept", "content": {"name": question["message"].strip("?")}}


ALL_CLIENTS = [
    pytest.param(way, era, id=f"{era} over {way}")
    for way in ("memory", "http")
    for era in ("legacy", "modern")
]
with_every_client = pytest.mark.parametrize("way, era", ALL_CLIENTS)
both_ways = pytest.mark.parametrize("way", ["memory", "http"])


def connecting(manager: SessionManager, way: str, era: ClientEraName = "modern") -> Any:
    return partial(connect_http_client if way == "http" else connect_client, manager, era=era)


@with_every_client
@pytest.mark.parametrize(
    "tool, arguments, text",
    [
        ("build", {}, "built in 10 s"),
        ("maybe", {"seconds": 0.5}, "took 0.5 s"),
        ("maybe", {"seconds": 5}, "took 5 s"),
        ("ask", {"times": 2}, "name 0 name 1"),
        ("ask_both", {}, "first second"),
        ("ask_first", {}, "before after"),
    ],
)
async def test_a_call_is_followed_to_its_end_with_every_client(
    way: str,
    era: ClientEraName,
    tool: str,
    arguments: dict[str, Any],
    text: str,
    autojump_clock: MockClock,
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way, era)(elicit=answer_by_message) as client:
            with assert_checkpoints():
                assert (await client.call_tool(tool, arguments)).text == text
            became_task = [one.name for one in manager.list_tasks()] == [f"tool {tool!r}"]
            assert became_task is (era == "modern" and arguments != {"seconds": 0.5})


@both_ways
async def test_a_task_is_asked_for_at_the_interval_of_the_server(
    way: str, autojump_clock: MockClock
) -> None:
    async with open_session_manager(router, config=CONFIG) as manager:
        async with connecting(manager, way)(principal=ADA) as client:
            await client.call_tool("build", {"seconds": 9})
            assert trio.current_time() == 10
            # One call, and six questions for the status: after 0, 2, 4, 6, 8, 10 seconds.
            answers = [frame for frame in client.received if b'"taskId"' in frame]
            assert len(answers) == 7


@both_ways
async def test_a_failed_task_raises_its_error(way: str, autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with connecting(manager, way)() as client:
            with pytest.raises(McpError, match="the machine is broken") as caught:
                await client.call_tool("break_down")
            assert (caught.value.code, caught.value.data) == (-7, {"where": "here"})
            task = await client.start_task("break_down")
            failed = await task.wait()
            assert failed.status is TaskStatus.FAILED
            assert failed.error is not None
            assert (failed.error.code, failed.error.data) == (-7, {"where": "here"})
            assert failed.result is None


@both_ways
async def test_a_task_that_the_server_cancels_has_no_result(
    way: str, autojump_clock: MockClock
) -> None:
    async with open_session_manager(router) as manager:
        async with connecting(manager, way)() as client:
            task = await client.start_task("build")
            assert manager.cancel_task(task.id)
            with pytest.raises(TaskCancelled, match="cancelled by the server"):
                await task.result()


@with_every_client
async def test_a_call_that_is_cancelled_cancels_its_task(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with open_session_manager(router) as manager:
        async with connecting(manager, way, era)() as client:
            with trio.move_on_after(5):
                await client.call_tool("build", {"seconds": 1000})
            await trio.sleep(1)
            assert trio.current_time() == 6
            statuses = [one.status for one in manager.list_tasks()]
            assert statuses == ([TaskStatus.CANCELLED] if era == "modern" else [])
            assert manager.statistics().in_flight == 0
            # The answer to the cancellation of a task belongs to a request.
            assert era == "legacy" or client.strays == []


@both_ways
async def test_a_call_that_is_cancelled_by_leaving(way: str, autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with (
            connecting(manager, way)(principal=ADA) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(client.call_tool, "build", {"seconds": 1000})
            await trio.sleep(1)
            client.drop()
            nursery.cancel_scope.cancel()
        # The server was not told: the task continues.
        assert [one.status for one in manager.list_tasks()] == [TaskStatus.WORKING]


@both_ways
async def test_a_snapshot_tells_what_the_server_says(way: str, autojump_clock: MockClock) -> None:
    async with open_session_manager(router, config=CONFIG) as manager:
        async with connecting(manager, way)() as client:
            task = await client.start_task("build")
            assert task.latest is not None
            assert task.latest.status is TaskStatus.WORKING
            await trio.sleep(3)
            with assert_checkpoints():
                now = await task.get()
            assert now is task.latest
            assert (now.task_id, now.status, now.message) == (
                task.id,
                TaskStatus.WORKING,
                "compiling",
            )
            assert (now.questions, now.result, now.error) == ({}, None, None)
            assert now.time_to_live == 86_400 + 3_600
            assert now.poll_interval == 2
            assert now.created <= now.updated
            result = await task.result()
            assert (result.text, result.is_error) == ("built in 10 s", False)
            # As often as a test wants.
            assert await task.result() == result
            ended = await task.wait(TaskStatus.COMPLETED, TaskStatus.FAILED)
            assert ended.result == result
            assert ended.time_to_live == 3_610


@both_ways
async def test_a_test_answers_questions_one_by_one(way: str, autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with connecting(manager, way)(capabilities=_CAPABILITIES) as client:
            task = await client.start_task("ask_both")
            with pytest.raises(LookupError, match="2 open questions"):
                await (await _when_asked(task)).answer({"action": "decline"})
            asked = await task.get()
            keys = {one["params"]["message"]: key for key, one in asked.questions.items()}
            with assert_checkpoints():
                await task.answer(await answer_by_message({"message": "eve"}), key=keys["second"])
            await task.answer({"action": "decline"})
            assert (await task.result()).text == "decline eve"
            with pytest.raises(LookupError, match="0 open questions"):
                await task.answer({"action": "decline"})


_CAPABILITIES: dict[str, Any] = {
    "elicitation": {},
    "extensions": {"io.modelcontextprotocol/tasks": {}},
}


async def _when_asked(task: ClientTask) -> ClientTask:
    asked = await task.wait(TaskStatus.INPUT_REQUIRED)
    assert asked.questions
    return task


@both_ways
async def test_waiting_for_a_status_that_will_not_come(way: str, autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with connecting(manager, way)() as client:
            task = await client.start_task("build")
            with pytest.raises(
                LookupError, match="ended as completed, not as input_required or fa"
            ):
                await task.wait(TaskStatus.INPUT_REQUIRED, TaskStatus.FAILED)


@both_ways
async def test_a_task_that_is_cancelled(way: str, autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way)() as client:
            task = await client.start_task("build")
            assert repr(task) == f"<ClientTask {task.id[:6]}… working>"
            with assert_checkpoints():
                await task.cancel()
            with pytest.raises(TaskCancelled, match="cancelled by the client"):
                await task.result()
            assert (await task.wait()).status is TaskStatus.CANCELLED


@both_ways
async def test_changes_are_pushed_to_a_listener(way: str, autojump_clock: MockClock) -> None:
    async with check_leaks(strict=True), open_session_manager(router, config=CONFIG) as manager:
        async with connecting(manager, way)(elicit=answer_by_message) as client:
            task = await client.start_task("ask")
            async with task.listen() as updates:
                with assert_checkpoints():
                    asked = await updates.wait(TaskStatus.INPUT_REQUIRED)
                (question,) = asked.questions.values()
                assert question["params"]["message"] == "name 0?"
                await task.answer({"action": "decline"})
                with assert_checkpoints():
                    ended = await updates.wait()
                assert trio.current_time() == 3
                assert ended.result is not None
                assert ended.result.text == "decline"
                assert updates.all[-1] == ended == await task.get()
                with pytest.raises(LookupError, match="ended as completed, not as cancelled"):
                    await updates.wait(TaskStatus.CANCELLED)
                statuses = "['input_required', 'working', 'completed']"
                assert repr(updates) == f"<TaskUpdates: {statuses}>"


@both_ways
async def test_a_task_is_polled_and_answered_in_a_drain(
    way: str, autojump_clock: MockClock
) -> None:
    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        async with connecting(manager, way)(elicit=answer_by_message) as client:
            task = await client.start_task("ask")
            async with task.listen() as updates:
                nursery.start_soon(partial(manager.drain, grace=100))
                asked = await task.wait(TaskStatus.INPUT_REQUIRED)
                await task.answer(await answer_by_message({"message": "ann"}))
                assert (await task.get()).status is TaskStatus.WORKING
                ended = await updates.wait()
            assert asked.questions
            assert ended.result is not None
            assert ended.result.text == "ann"


@both_ways
async def test_a_listener_hears_that_its_principal_was_revoked(
    way: str, autojump_clock: MockClock
) -> None:
    async with open_session_manager(router) as manager:
        async with connecting(manager, way)(principal=ADA) as client:
            task = await client.start_task("build")
            async with task.listen() as updates:
                manager.revoke(ADA)
                assert (await updates.wait()).status is TaskStatus.FAILED


@both_ways
async def test_a_listener_is_told_that_its_subscription_ended(
    way: str, autojump_clock: MockClock
) -> None:
    async with open_session_manager(router) as manager:
        async with connecting(manager, way)() as client:
            task = await client.start_task("build")
            async with task.listen() as updates:
                client.drop()
                with pytest.raises(ConnectionEnded, match="subscription to the task has ended"):
                    await updates.wait()


@both_ways
async def test_another_connection_continues_a_task(way: str, autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        async with connecting(manager, way)(principal=ADA) as client:
            task_id = (await client.start_task("build")).id
        async with connecting(manager, way)(principal=ADA) as client:
            with assert_no_checkpoints():
                task = client.task(task_id)
            assert repr(task) == f"<ClientTask {task_id[:6]}… not asked for yet>"
            assert (await task.result()).text == "built in 10 s"
        async with connecting(manager, way)(principal=Principal("bob")) as client:
            with pytest.raises(McpError, match="Unknown task") as caught:
                await client.task(task_id).get()
            assert caught.value.code == -32602
            with pytest.raises(LookupError, match="does not know a task"):
                async with client.task(task_id).listen():
                    pass  # pragma: no cover


@with_every_client
async def test_a_client_without_the_extension_has_no_tasks(
    way: str, era: ClientEraName, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way, era)(tasks=False) as client:
            assert (await client.call_tool("maybe", {"seconds": 5})).text == "took 5 s"
            with pytest.raises(LookupError, match=r"'maybe' did not become a task.*took 5 s"):
                await client.start_task("maybe", {"seconds": 5})


@both_ways
async def test_a_client_without_the_extension_is_refused_where_a_task_is_required(
    way: str, autojump_clock: MockClock
) -> None:
    async with check_leaks(strict=True), open_session_manager(router) as manager:
        async with connecting(manager, way)(tasks=False) as client:
            with pytest.raises(McpError) as caught:
                await client.call_tool("build")
            assert caught.value.code == -32021


@both_ways
async def test_a_call_that_is_over_soon_does_not_become_a_task(
    way: str, autojump_clock: MockClock
) -> None:
    async with open_session_manager(router) as manager:
        async with connecting(manager, way)() as client:
            with pytest.raises(LookupError, match="did not become a task"):
                await client.start_task("maybe", {"seconds": 0.5})
            task = await client.start_task("maybe", {"seconds": 1.5})
            assert isinstance(await task.get(), TaskAnswer)
            assert isinstance(await task.result(), ToolAnswer)


@both_ways
async def test_a_question_that_is_not_answered_ends_the_call_and_the_task(
    way: str, autojump_clock: MockClock
) -> None:
    async def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise McpError(-1, "rather not")

    async with open_session_manager(router) as manager:
        async with connecting(manager, way)(elicit=refuse) as client:
            with pytest.raises(McpError, match="rather not"):
                await client.call_tool("ask")
            await trio.sleep(1)
            assert [one.status for one in manager.list_tasks()] == [TaskStatus.CANCELLED]


@both_ways
async def test_an_answering_function_that_fails_in_a_task_fails_the_test(
    way: str, autojump_clock: MockClock
) -> None:
    async def answer(_: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("not this question")

    async with open_session_manager(router) as manager:
        with pytest.raises(AssertionError, match="not this question"):
            async with connecting(manager, way)(elicit=answer) as client:
                await client.call_tool("ask")


async def test_requests_about_a_task_name_it_in_a_header(autojump_clock: MockClock) -> None:
    seen: list[tuple[str, str]] = []

    async def watch(scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        seen.append((headers["mcp-method"], headers.get("mcp-name", "")))
        await app(scope, receive, send)

    async with open_session_manager(router) as manager:
        app = http_app(manager)
        async with connect_http_client(manager, era="modern", app=watch) as client:
            task = await client.start_task("build")
            await task.get()
            await task.answer({}, key="none")
            await task.cancel()
    assert seen[1:] == [
        ("tools/call", "build"),
        ("tasks/get", task.id),
        ("tasks/update", task.id),
        ("tasks/cancel", task.id),
    ]
