"""What an SDK application knows of a request, and what it sends for it."""

from __future__ import annotations

import threading
from typing import Annotated, Any

import anyio
import mcp_types as types
import pytest
import trio
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, Icon, MCPServer
from pydantic import Field
from trio.testing import MockClock

from tests.adapters.apps import ERAS, app_with, client_of, serving
from trio_mcp_session import (
    CleanupConfig,
    HttpOptions,
    McpError,
    MemoryEventStore,
    Principal,
    http_app,
)
from trio_mcp_session.adapters.recognise import as_application
from trio_mcp_session.testing import connect_client, connect_http_client


async def report(ctx: Context) -> str:
    for step in (1, 3, 2):
        await ctx.report_progress(step, 3, f"step {step}")
    session: Any = ctx.session
    await session.send_log_message("debug", "low", related_request_id=ctx.request_id)
    await session.send_log_message("error", "high", related_request_id=ctx.request_id)
    await session.send_log_message("error", "outside")
    return "done"


async def test_a_legacy_client_gets_all_log_messages_until_it_sets_a_level(
    autojump_clock: MockClock,
) -> None:
    async def set_level(ctx: Any, params: Any) -> types.EmptyResult:
        levels.append(params.level)
        if params.level == "critical":
            raise ValueError("not this one")
        return types.EmptyResult()

    async def call_tool(ctx: Any, params: Any) -> types.CallToolResult:
        for level in ("debug", "error"):
            for related in (ctx.request_id, None):
                await ctx.session.send_log_message(level, related, related_request_id=related)
        return types.CallToolResult(content=[])

    levels: list[str] = []
    make: Any = Server
    server = make("low", on_call_tool=call_tool, on_set_logging_level=set_level)
    async with client_of(server, "legacy") as client:

        async def heard() -> list[str]:
            client.notifications.clear()
            await client.call_tool("x")
            return [params["level"] for _, params in client.notifications]

        assert "logging" in client.server_capabilities
        assert await heard() == ["debug", "debug", "error", "error"]
        await client.request("logging/setLevel", {"level": "error"})
        assert await heard() == ["error", "error"]
        with pytest.raises(McpError):
            await client.request("logging/setLevel", {"level": "critical"})
        assert await heard() == ["error", "error"]
        with pytest.raises(McpError) as unknown:
            await client.request("logging/setLevel", {"level": "loud"})
        assert unknown.value.code == -32602
        assert levels == ["error", "critical"]


@pytest.mark.parametrize("era", ERAS)
async def test_progress_must_increase(era: Any, autojump_clock: MockClock) -> None:
    async with client_of(app_with(report), era) as client:
        params = {"name": "report", "arguments": {}}
        pending = await client.start_request("tools/call", params, progress=True)
        await pending.wait()
        assert [one["progress"] for one in pending.progress] == [1, 3]


async def test_a_modern_client_gets_the_log_messages_that_it_asks_for(
    autojump_clock: MockClock,
) -> None:
    async with client_of(app_with(report), "modern") as client:
        level = {"io.modelcontextprotocol/logLevel": "error"}
        await client.request("tools/call", {"name": "report", "arguments": {}, "_meta": level})
        assert [params["data"] for _, params in client.notifications] == ["high", "outside"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_function_without_async_runs_in_a_thread(
    era: Any, autojump_clock: MockClock
) -> None:
    def where(ctx: Context) -> bool:
        anyio.from_thread.run(ctx.report_progress, 1)
        return threading.current_thread() is threading.main_thread()

    async with client_of(app_with(where), era) as client:
        assert (await client.call_tool("where")).text == "false"


@pytest.mark.parametrize("era", ERAS)
async def test_pages_of_a_list(era: Any, autojump_clock: MockClock) -> None:
    async def list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
        page = int(params.cursor or 0) if params else 0
        tool = types.Tool(name=f"tool{page}", input_schema={"type": "object"})
        return types.ListToolsResult(tools=[tool], next_cursor=str(page + 1) if page < 2 else None)

    server: Server[Any] = Server("low", on_list_tools=list_tools)
    async with client_of(server, era) as client:
        names = [tool["name"] for tool in await client.list_tools()]
        assert names == ["tool0", "tool1", "tool2"]


# HTTP.


async def facts(ctx: Context) -> dict[str, Any]:
    request: Any = ctx.request_context.request
    token = get_access_token()
    return {
        "header": None if ctx.headers is None else ctx.headers.get("x-test"),
        "path": None if request is None else request.url.path,
        "kind": ctx.session._request_outbound.transport.kind,
        "user": None if token is None else [token.subject, token.client_id, token.scopes],
        "claims": None if token is None else token.claims,
    }


@pytest.mark.parametrize("era", ERAS)
async def test_the_http_request_of_a_handler(era: Any, autojump_clock: MockClock) -> None:
    async def authenticate(scope: Any, headers: Any) -> Principal:
        return Principal("ada", "https://issuer", claims={"azp": "program"}, scopes="b a")

    async with serving(app_with(facts)) as manager:
        app = http_app(manager, authenticate=authenticate)
        headers = {"x-test": "yes"}
        async with connect_http_client(manager, era=era, app=app, headers=headers) as client:
            assert (await client.call_tool("facts")).structured == {
                "header": "yes",
                "path": "/mcp",
                "kind": "streamable-http",
                "user": ["ada", "program", ["a", "b"]],
                "claims": {"azp": "program", "iss": "https://issuer"},
            }


@pytest.mark.parametrize("era", ERAS)
async def test_a_pipe_has_no_http_request(era: Any, autojump_clock: MockClock) -> None:
    async with serving(app_with(facts)) as manager:
        nothing = {"header": None, "path": None, "kind": "stdio", "user": None, "claims": None}
        async with connect_client(manager, era=era) as client:
            assert (await client.call_tool("facts")).structured == nothing
        principal = Principal("ada")
        async with connect_client(manager, era=era, principal=principal) as client:
            found = (await client.call_tool("facts")).structured
            assert found == nothing | {"user": ["ada", "ada", []]}


@pytest.mark.parametrize("closes", [False, True])
async def test_a_handler_closes_its_stream(closes: bool, autojump_clock: MockClock) -> None:
    async def slow(ctx: Context) -> str:
        await ctx.report_progress(1)
        await anyio.sleep(1)
        for _ in range(closes):
            await ctx.close_sse_stream()
        await anyio.sleep(5)
        return "done"

    async with serving(app_with(slow)) as manager:
        app = http_app(manager, options=HttpOptions(event_store=MemoryEventStore()))
        async with connect_http_client(manager, app=app) as client:
            call = {"name": "slow", "arguments": {}}
            result = await client.request("tools/call", call, progress=True)
            assert result["content"][0]["text"] == "done"
            await trio.sleep(1)
            resumed = [one for one in client.server_end.responses if one.verb == "GET"]
            assert len(resumed) == closes


City = Annotated[str, Field(json_schema_extra={"x-mcp-header": "City"})]


async def find(city: City) -> str:
    return city


@pytest.mark.skipif(
    not hasattr(Server("x"), "get_tool_input_schema"),
    reason="before 2.3 the SDK can only list all tools",
)
async def test_header_parameters_are_checked(autojump_clock: MockClock) -> None:
    app = app_with(find)
    async with serving(app) as manager:
        for _ in range(2):
            async with connect_http_client(manager, era="modern") as client:
                assert (await client.call_tool("find", {"city": "Rome"})).text == "Rome"
        headers = {"mcp-param-city": "Paris"}
        async with connect_http_client(manager, era="modern", headers=headers) as client:
            with pytest.raises(McpError) as wrong:
                await client.call_tool("find", {"city": "Rome"})
            assert wrong.value.code == -32020


@pytest.mark.parametrize("schema", [{"x-mcp-header": 3}, None])
async def test_a_tool_without_valid_header_parameters(
    schema: Any, autojump_clock: MockClock
) -> None:
    async def call_tool(ctx: Any, params: Any) -> types.CallToolResult:
        return types.CallToolResult(content=[types.TextContent(text="called")])

    server: Any = Server("low", on_call_tool=call_tool)
    server.get_tool_input_schema = lambda name: schema
    async with serving(server) as manager:
        async with connect_http_client(manager, era="modern") as client:
            assert (await client.call_tool("x", {"a": 1})).text == "called"


async def test_the_server_describes_itself() -> None:
    icon = Icon(src="https://example.com/icon.png", mime_type="image/png", sizes=["48x48"])
    application = as_application(MCPServer("app", icons=[icon], instructions="Use it."))
    (found,) = application.server_info.icons
    assert (found.src, found.mime_type, found.sizes) == (icon.src, "image/png", ["48x48"])
    assert application.instructions == "Use it."


# Clients of earlier revisions that are served without sessions.


async def test_requests_without_sessions(autojump_clock: MockClock) -> None:
    async def whole(ctx: Context) -> str:
        assert not ctx.session.can_send_request
        await ctx.session.send_tool_list_changed()
        return f"{ctx.session.protocol_version} {ctx.session.client_params}"

    async with serving(app_with(whole)) as manager:
        app = http_app(manager, options=HttpOptions(stateless=True))
        async with connect_http_client(manager, app=app) as client:
            assert (await client.call_tool("whole")).text == "2025-11-25 None"


# Time.


@pytest.mark.parametrize("era", ERAS)
async def test_a_tool_that_takes_too_long(era: Any, autojump_clock: MockClock) -> None:
    async def slow(ctx: Context) -> str:
        await anyio.sleep(999)
        raise AssertionError

    config = {"cleanup": CleanupConfig(request_timeout=5)}
    async with serving(app_with(slow), **config) as manager:
        async with connect_client(manager, era=era) as client:
            began = trio.current_time()
            answer = await client.call_tool("slow")
            assert trio.current_time() - began == 5
            assert answer.is_error
            assert answer.text == "The tool 'slow' took too long, and was cancelled"
