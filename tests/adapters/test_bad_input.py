"""Bad applications: each failure is contained in its request or its start."""

from __future__ import annotations

import sys
from typing import Any

import anyio
import mcp_types as types
import pytest
import trio
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context
from pydantic import BaseModel
from trio.testing import MockClock

from tests.adapters.apps import ERAS, app_with, client_of, serving
from trio_mcp_session import McpError, UnsupportedVersion, open_session_manager
from trio_mcp_session.adapters.recognise import as_application
from trio_mcp_session.adapters.sdk_names import Sdk
from trio_mcp_session.testing import connect_client, connect_http_client

pytestmark = pytest.mark.parametrize("era", ERAS)


class Strict(BaseModel):
    number: int


async def fine(ctx: Context) -> str:
    return "fine"


async def exits(ctx: Context) -> str:
    raise SystemExit(3)


async def groups(ctx: Context) -> str:
    raise BaseExceptionGroup("both", [SystemExit(3), ValueError("secret")])


async def misfits(ctx: Context) -> str:
    return str(Strict.model_validate({"number": "secret"}))


async def returns_other(ctx: Context) -> Strict:
    return {"number": "secret"}  # type: ignore[return-value]


async def low_level(ctx: Any, params: Any) -> Any:
    match params.name:
        case "value":
            raise ValueError("secret")
        case "group":
            raise ExceptionGroup("two", [ValueError("secret")])
        case "pydantic":
            Strict.model_validate({"number": "secret"})
        case "unfit":
            return {"content": 5}
        case "number":
            return 5
        case "error":
            return types.ErrorData(code=-32077, message="as data")
        case _:
            pass
    return types.CallToolResult(content=[types.TextContent(text="fine")])


@pytest.mark.parametrize(
    "name, code",
    [
        ("value", -32603),
        ("group", -32603),
        ("pydantic", -32602),
        ("unfit", -32603),
        ("number", -32603),
        ("error", -32077),
    ],
)
async def test_a_low_level_handler_that_fails(
    name: str, code: int, era: Any, autojump_clock: MockClock
) -> None:
    server: Server[Any] = Server("low", on_call_tool=low_level)
    async with client_of(server, era) as client:
        with pytest.raises(McpError) as failed:
            await client.call_tool(name)
        assert failed.value.code == code
        assert "secret" not in str(failed.value.data) + failed.value.message
        assert (await client.call_tool("fine")).text == "fine"


@pytest.mark.parametrize("tool", [exits, groups])
@pytest.mark.parametrize("connect", [connect_client, connect_http_client])
async def test_a_tool_that_exits(
    connect: Any, tool: Any, era: Any, autojump_clock: MockClock
) -> None:
    async with serving(app_with(tool, fine)) as manager:
        async with connect(manager, era=era) as client:
            with pytest.raises(McpError) as failed:
                await client.call_tool(tool.__name__)
            assert (failed.value.code, failed.value.message) == (-32603, "Internal error")
            assert (await client.call_tool("fine")).text == "fine"


@pytest.mark.parametrize("tool", [misfits, returns_other])
async def test_a_tool_whose_model_does_not_fit(
    tool: Any, era: Any, autojump_clock: MockClock
) -> None:
    async with client_of(app_with(tool, fine), era) as client:
        assert (await client.call_tool(tool.__name__)).is_error
        assert (await client.call_tool("fine")).text == "fine"


async def test_a_tool_that_leaks_a_task(era: Any, autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("child")

    async def leak(ctx: Context) -> str:
        kept.append(anyio.create_task_group())
        (await kept[0].__aenter__()).start_soon(child)
        return "leaked"

    kept: list[Any] = []
    async with serving(app_with(leak, fine)) as manager:
        async with connect_client(manager, era=era) as client, connect_client(manager) as other:
            assert (await client.call_tool("leak")).text == "leaked"
            for one in (client, other):
                assert (await one.call_tool("fine")).text == "fine"
            assert ended == ["child"]


async def test_parameters_that_do_not_fit(era: Any, autojump_clock: MockClock) -> None:
    async with client_of(app_with(fine), era) as client:
        for params in ({}, {"name": 5}, {"name": "fine", "arguments": []}):
            with pytest.raises(McpError) as refused:
                await client.request("tools/call", params)
            assert refused.value.code == -32602
        with pytest.raises(McpError) as unknown:
            await client.request("acme/unknown")
        assert unknown.value.code == -32601


async def test_a_tool_that_blocks_a_thread_does_not_block_others(
    era: Any, autojump_clock: MockClock
) -> None:
    import threading

    release = threading.Event()

    def block(ctx: Context) -> str:
        release.wait(30)
        return "released"

    async with client_of(app_with(block, fine), era) as client:
        pending = await client.start_request("tools/call", {"name": "block", "arguments": {}})
        assert (await client.call_tool("fine")).text == "fine"
        release.set()
        assert (await pending.wait())["content"][0]["text"] == "released"


async def test_a_tool_that_blocks_the_event_loop_ends_nothing(
    era: Any, autojump_clock: MockClock
) -> None:
    import threading

    async def block(ctx: Context) -> str:
        release = threading.Event()
        thread = threading.Thread(target=release.set)
        thread.start()
        assert release.wait(30)
        thread.join()
        return "released"

    async with serving(app_with(block, fine)) as manager:
        async with connect_client(manager, era=era) as client, connect_client(manager) as other:
            pending = await client.start_request("tools/call", {"name": "block", "arguments": {}})
            assert (await other.call_tool("fine")).text == "fine"
            assert (await pending.wait())["content"][0]["text"] == "released"
            assert (await client.call_tool("fine")).text == "fine"


async def test_their_clean_up_of_a_connection_fails(era: Any, autojump_clock: MockClock) -> None:
    def broken() -> None:
        raise ValueError("secret")

    async def register(ctx: Context) -> str:
        ctx.session._connection.exit_stack.callback(broken)
        return "registered"

    async with serving(app_with(register)) as manager:
        async with connect_client(manager, era=era) as client:
            assert (await client.call_tool("register")).text == "registered"
        async with connect_client(manager, era=era) as client:
            assert (await client.call_tool("register")).text == "registered"


@pytest.mark.parametrize("given", [5, {}, object(), Server])
async def test_an_object_that_cannot_be_served(given: Any, era: Any) -> None:
    with pytest.raises(TypeError, match="expected an application"):
        open_session_manager(given)


async def test_a_foreign_object_without_a_server(era: Any) -> None:
    class Server:
        pass

    Server.__module__ = "mcp.other"
    with pytest.raises(TypeError, match="pass an MCPServer"):
        as_application(Server())


async def test_a_version_without_a_name(era: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("mcp.server.runner.ServerRunner.on_notify")
    with pytest.raises(UnsupportedVersion) as lacks:
        open_session_manager(app_with(fine))
    assert "has no mcp.server.runner.ServerRunner.on_notify" in str(lacks.value)
    assert "install 'mcp>=2.0,<3'" in str(lacks.value)
    monkeypatch.undo()
    monkeypatch.delattr("mcp.server.runner.ServerRunner")
    with pytest.raises(UnsupportedVersion, match=r"has no mcp\.server\.runner\.ServerRunner,"):
        open_session_manager(app_with(fine))


async def test_a_version_that_cannot_be_named(era: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sdk, "distribution", "no-such-distribution")
    with pytest.raises(UnsupportedVersion, match=r"no-such-distribution \(not installed\) has no"):
        Sdk.check_object(Server("x"), ("gone",))


async def test_an_object_without_a_member(era: Any) -> None:
    with pytest.raises(UnsupportedVersion, match=r"has no Server\.gone"):
        Sdk.check_object(Server("x"), ("gone",))


async def test_a_library_that_is_not_installed(era: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_with(fine)
    for name in [one for one in sys.modules if one.partition(".")[0] == "mcp"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedVersion, match=r"mcp .* has no mcp.server"):
        open_session_manager(app)


async def test_reprs(era: Any, autojump_clock: MockClock) -> None:
    shown: list[str] = []

    async def show(ctx: Context) -> str:
        session: Any = ctx.session
        shown.extend([repr(session._request_outbound), repr(session._connection.outbound)])
        return ""

    app = app_with(show)
    application: Any = as_application(app)
    assert repr(application) == "<SdkApplication 'app'>"
    assert repr(application._sdk_server) == "<SdkServer 'app'>"
    async with client_of(app, era) as client:
        await client.call_tool("show")
        assert [one.split(" ")[0] for one in shown] == [
            "<RequestChannel",
            "<SessionChannel" if era == "legacy" else "<EnvelopeChannel",
        ]
    await trio.lowlevel.checkpoint()
