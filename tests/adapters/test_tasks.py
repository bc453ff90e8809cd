"""Tools of an SDK application become tasks by a rule outside of it."""

from __future__ import annotations

from typing import Any

import anyio
import mcp_types as types
import pytest
import trio
from mcp.server.mcpserver import Context
from trio.testing import MockClock

from tests.adapters.apps import Name, app_with
from trio_mcp_session import (
    McpError,
    SessionConfig,
    SessionLimits,
    open_session_manager,
    sdk_application,
)
from trio_mcp_session.testing import Client, connect_client, modern

TASKS = "io.modelcontextprotocol/tasks"
CAPABILITIES: Any = {"elicitation": {}, "extensions": {TASKS: {}}}


async def crawl(ctx: Context, seconds: float = 10) -> str:
    await ctx.report_progress(1, 2, "half")
    await anyio.sleep(seconds)
    return "crawled"


async def ask(ctx: Context) -> str:
    await anyio.sleep(1)
    answer: Any = await ctx.elicit("Who?", Name)
    return f"Hello {answer.data.name}"


async def guard(ctx: Context) -> Any:
    await anyio.sleep(1)
    if ctx.request_state != "asked":
        schema: Any = {"type": "object", "properties": {}}
        params = types.ElicitRequestFormParams(message="Who?", requested_schema=schema)
        questions: Any = {"who": types.ElicitRequest(params=params)}
        return types.InputRequiredResult(input_requests=questions, request_state="asked")
    return f"answered {sorted(ctx.input_responses or {})}"


async def stateless_guard(ctx: Context) -> Any:
    await anyio.sleep(1)
    if not ctx.input_responses:
        questions: Any = {"where": types.ListRootsRequest()}
        return types.InputRequiredResult(input_requests=questions)
    return "answered"


async def call(client: Client[Any], name: str, capabilities: Any = CAPABILITIES) -> Any:
    params = modern({"name": name, "arguments": {}}, capabilities=capabilities)
    return await client.request("tools/call", params)


async def get(client: Client[Any], task_id: str) -> Any:
    return await client.request("tasks/get", modern({"taskId": task_id}, capabilities=CAPABILITIES))


async def update(client: Client[Any], task_id: str, responses: Any) -> None:
    params = {"taskId": task_id, "inputResponses": responses}
    await client.request("tasks/update", modern(params, capabilities=CAPABILITIES))


async def test_a_call_that_takes_long_becomes_a_task(autojump_clock: MockClock) -> None:
    async with sdk_application(app_with(crawl), tasks={"crawl": "optional"}) as application:
        async with open_session_manager(application) as manager:
            async with connect_client(manager, version=None) as client:
                discovered = await client.request("server/discover", modern())
                assert discovered["capabilities"]["extensions"] == {TASKS: {}}
                assert discovered["supportedVersions"] == ["2026-07-28"]
                created = await call(client, "crawl")
                assert created["resultType"] == "task"
                status = await get(client, created["taskId"])
                assert (status["status"], status["statusMessage"]) == ("working", "half")
                await trio.sleep(10)
                status = await get(client, created["taskId"])
                assert status["status"] == "completed"
                assert status["result"]["content"][0]["text"] == "crawled"
                # A client without the extension waits.
                result = await call(client, "crawl", {})
                assert result["content"][0]["text"] == "crawled"


async def test_a_required_task(autojump_clock: MockClock) -> None:
    async with sdk_application(app_with(crawl), tasks={"*": "required"}) as application:
        config = SessionConfig(limits=SessionLimits(max_tasks_per_principal=1))
        async with open_session_manager(application, config=config) as manager:
            async with connect_client(manager, version=None) as client:
                began = trio.current_time()
                created = await call(client, "crawl")
                assert created["resultType"] == "task"
                assert trio.current_time() == began
                refused = await call(client, "crawl")
                assert refused["isError"]
                with pytest.raises(McpError) as missing:
                    await call(client, "crawl", {})
                assert missing.value.code == -32021
                await trio.sleep(20)
            async with connect_client(manager) as legacy:
                assert (await legacy.call_tool("crawl")).text == "crawled"


async def test_only_named_tools_become_tasks(autojump_clock: MockClock) -> None:
    async with sdk_application(app_with(crawl, ask), tasks={"ask": "optional"}) as application:
        async with open_session_manager(application) as manager:
            async with connect_client(manager, version=None) as client:
                assert (await call(client, "crawl"))["content"][0]["text"] == "crawled"
                with pytest.raises(McpError):
                    params = modern({"name": 5}, capabilities=CAPABILITIES)
                    await client.request("tools/call", params)


@pytest.mark.parametrize(
    "name, answers, result",
    [
        ("ask", {"action": "accept", "content": {"name": "Ada"}}, "Hello Ada"),
        ("guard", {"action": "accept", "content": {}}, "answered ['who']"),
        ("stateless_guard", {"roots": []}, "answered"),
    ],
)
async def test_a_task_asks(name: str, answers: Any, result: str, autojump_clock: MockClock) -> None:
    app = app_with(ask, guard, stateless_guard)
    capabilities = {**CAPABILITIES, "roots": {}}
    async with sdk_application(app, tasks={"*": "optional"}) as application:
        async with open_session_manager(application) as manager:
            async with connect_client(manager, version=None) as client:
                created = await call(client, name, capabilities)
                await trio.sleep(2)
                status = await get(client, created["taskId"])
                assert status["status"] == "input_required"
                (key,) = status["inputRequests"]
                await update(client, created["taskId"], {key: answers})
                await trio.sleep(2)
                status = await get(client, created["taskId"])
                assert status["result"]["content"][0]["text"] == result


async def test_rules_are_checked() -> None:
    with pytest.raises(ValueError, match="task must be"):
        async with sdk_application(app_with(crawl), tasks={"crawl": "always"}):  # type: ignore[dict-item]
            raise AssertionError
