"""A session has one connection of the SDK for its life; a modern request has its own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from trio.testing import MockClock

from tests.adapters.apps import ERAS, app_with, client_of, serving
from trio_mcp_session import (
    HandleKind,
    McpError,
    ServerLifespanFailed,
    StateKey,
    TerminationReason,
    current_request,
    current_session,
    open_session_manager,
    sdk_application,
)
from trio_mcp_session.testing import connect_client, connect_http_client

COUNT = StateKey[int]("count")


async def connection(ctx: Context) -> str:
    state = ctx.session._connection.state
    state["calls"] = state.get("calls", 0) + 1
    return str(state["calls"])


async def count(ctx: Context) -> str:
    return str(current_session().update_state(COUNT, lambda value: value + 1, 0))


async def hold(ctx: Context) -> str:
    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        log.append("opened")
        yield
        log.append("closed")

    await current_session().enter_async_context(resource())
    ctx.session._connection.exit_stack.callback(log.append, "exit stack")
    return "held"


log: list[str] = []


async def test_a_session_keeps_its_connection_and_ends_it(autojump_clock: MockClock) -> None:
    log.clear()
    app = app_with(connection, hold, count)
    async with serving(app) as manager:
        async with connect_client(manager) as one, connect_client(manager) as other:
            assert [(await one.call_tool("connection")).text for _ in range(2)] == ["1", "2"]
            assert (await other.call_tool("connection")).text == "1"
            assert (await one.call_tool("count")).text == "1"
            assert (await one.call_tool("count")).text == "2"
            await one.call_tool("hold")
            assert log == ["opened"]
            one.session.terminate()
            await one.wait_closed()
        assert log == ["opened", "closed", "exit stack"]


async def test_a_modern_request_has_a_connection_of_its_own(autojump_clock: MockClock) -> None:
    async with client_of(app_with(connection), "modern") as client:
        assert [(await client.call_tool("connection")).text for _ in range(2)] == ["1", "1"]


async def test_the_connection_of_a_modern_request_ends_with_it(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def register(ctx: Context) -> str:
        ctx.session._connection.exit_stack.callback(ended.append, "ended")
        return str(ended)

    async with client_of(app_with(register), "modern") as client:
        assert (await client.call_tool("register")).text == "[]"
        assert ended == ["ended"]


async def test_nothing_is_left_of_a_session_that_has_ended(autojump_clock: MockClock) -> None:
    found: list[weakref.ref[Any]] = []

    async def remember(ctx: Context) -> str:
        found.append(weakref.ref(ctx.session._connection))
        return ""

    async with serving(app_with(remember)) as manager:
        async with connect_client(manager) as client:
            await client.call_tool("remember")
        await trio.sleep(1)
        gc.collect()
        assert found[0]() is None


async def test_clocks_end_the_sessions_of_an_sdk_application(autojump_clock: MockClock) -> None:
    async with serving(app_with(connection)) as manager:
        async with connect_http_client(manager) as client:
            session = client.session
            await trio.sleep(session._clocks.max_idle_time + 60)
            assert session.termination_reason is TerminationReason.IDLE


@pytest.mark.parametrize("era", ERAS)
async def test_a_handler_opens_and_uses_handles(era: Any, autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def open_cart() -> AsyncIterator[list[str]]:
        yield []

    carts = HandleKind("cart", open_cart)

    async def add(ctx: Context, item: str, cart: str = "") -> list[str]:
        request = current_request()
        cart = cart or await request.open_handle(carts)
        async with request.use_handle(carts, cart) as items:
            items.append(item)
            return [cart, *items]

    async with client_of(app_with(add), era) as client:
        answer = (await client.call_tool("add", {"item": "a"})).structured
        assert answer is not None
        again = await client.call_tool("add", {"item": "b", "cart": answer["result"][0]})
        assert again.structured is not None
        assert again.structured["result"][1:] == ["a", "b"]


# Its lifespan.


def lifespan_app(events: list[str]) -> Any:
    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[str]:
        events.append("in")
        yield f"value {events.count('in')}"
        events.append("out")

    async def value(ctx: Context) -> str:
        return str(ctx.request_context.lifespan_context)

    return app_with(value, lifespan=lifespan)


async def test_the_lifespan_of_the_application_is_around_all_sessions(
    autojump_clock: MockClock,
) -> None:
    events: list[str] = []
    async with serving(lifespan_app(events)) as manager:
        assert events == ["in"]
        for era in list[Any](ERAS):
            async with connect_client(manager, era=era) as client:
                assert (await client.call_tool("value")).text == "value 1"
    assert events == ["in", "out"]


async def test_one_lifespan_for_several_managers(autojump_clock: MockClock) -> None:
    events: list[str] = []
    async with sdk_application(lifespan_app(events)) as application:
        for _ in range(2):
            async with serving(application) as manager, connect_client(manager) as client:
                assert (await client.call_tool("value")).text == "value 1"
        assert events == ["in"]
    assert events == ["in", "out"]


async def test_a_lifespan_that_fails(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def broken(server: Any) -> AsyncIterator[int]:
        yield int("no database")

    app = app_with(lifespan=broken)
    with pytest.raises(ServerLifespanFailed) as failed:
        async with open_session_manager(app):
            raise AssertionError
    assert isinstance(failed.value.__cause__, ValueError)
    with pytest.raises(ValueError, match="no database"):
        async with sdk_application(app):
            raise AssertionError


async def test_the_lifespan_of_the_application_has_no_notice_in_the_log(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with client_of(app_with(connection), "modern") as client:
        await client.call_tool("connection")
    assert not [one for one in caplog.records if one.name == "trio_mcp_session"]


async def test_two_applications_in_one_process(autojump_clock: MockClock) -> None:
    async with serving(app_with(connection)) as one, serving(app_with(count)) as other:
        async with connect_client(one) as first, connect_client(other) as second:
            assert [tool["name"] for tool in await first.list_tools()] == ["connection"]
            assert [tool["name"] for tool in await second.list_tools()] == ["count"]


# `initialize`.


async def test_middleware_sees_and_changes_initialize(autojump_clock: MockClock) -> None:
    async def greet(ctx: Any, call_next: Any) -> Any:
        result = await call_next(ctx)
        if ctx.method == "initialize":
            assert ctx.params["clientInfo"]["name"] == "test"
            assert not ctx.session.can_send_request
            assert not ctx.session._request_outbound.transport.can_send_request
            await ctx.session.send_log_message("info", "too early", related_request_id=0)
            await ctx.session.report_progress(1)
            with pytest.raises(MCPError):
                await ctx.session.send_request(*ping(), metadata=related())
            result["instructions"] = "changed"
        return result

    app = app_with(connection)
    app._lowlevel_server.middleware.append(greet)
    async with client_of(app, "legacy") as client:
        assert client.instructions == "changed"
        assert client.notifications == []


def ping() -> tuple[Any, Any]:
    import mcp_types as types

    return types.PingRequest(), types.EmptyResult


def related() -> Any:
    from mcp.shared.message import ServerMessageMetadata

    return ServerMessageMetadata(related_request_id=1)


@pytest.mark.parametrize("connect", [connect_client, connect_http_client])
async def test_middleware_refuses_a_client(connect: Any, autojump_clock: MockClock) -> None:
    async def refuse(ctx: Any, call_next: Any) -> Any:
        assert ctx.method == "initialize"
        raise MCPError(-32050, "not you", {"name": "test"})

    app = app_with(connection)
    app._lowlevel_server.middleware.append(refuse)
    async with serving(app) as manager:
        with pytest.raises(McpError) as refused:
            async with connect(manager):
                raise AssertionError
        assert (refused.value.code, refused.value.message) == (-32050, "not you")


async def test_middleware_that_crashes_in_initialize(autojump_clock: MockClock) -> None:
    async def crash(ctx: Any, call_next: Any) -> Any:
        raise ValueError("secret")

    server: Server[Any] = Server("low")
    server.middleware.append(crash)
    async with serving(server) as manager:
        with pytest.raises(McpError) as refused:
            async with connect_client(manager):
                raise AssertionError
        assert "secret" not in refused.value.message
