"""What an SDK application publishes reaches clients of both eras."""

from __future__ import annotations

from typing import Any

import mcp_types as types
import pytest
import trio
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from trio.testing import MockClock

from tests.adapters.apps import app_with, client_of, serving
from trio_mcp_session import McpError
from trio_mcp_session.testing import connect_client, connect_http_client


async def change(ctx: Context) -> str:
    await ctx.notify_tools_changed()
    await ctx.notify_prompts_changed()
    await ctx.notify_resources_changed()
    await ctx.notify_resource_updated("notes://home")
    await ctx.notify_resource_updated("notes://work")
    return "changed"


async def test_changes_reach_subscriptions_and_sessions(autojump_clock: MockClock) -> None:
    async with serving(app_with(change)) as manager:
        async with (
            connect_client(manager, era="modern") as modern,
            connect_http_client(manager) as legacy,
            connect_client(manager) as other,
        ):
            await legacy.request("resources/subscribe", {"uri": "notes://home"})
            await legacy.request("resources/subscribe", {"uri": "notes://work"})
            await legacy.request("resources/unsubscribe", {"uri": "notes://work"})
            async with modern.subscribe("notes://home", lists=["tools"]):
                await other.call_tool("change")
                await trio.sleep(1)
            lists = [f"notifications/{one}/list_changed" for one in ("tools", "prompts")]
            lists.append("notifications/resources/list_changed")
            updated = ("notifications/resources/updated", {"uri": "notes://home"})
            assert [method for method, _ in other.notifications] == lists
            assert [method for method, _ in legacy.notifications] == [*lists, updated[0]]
            assert legacy.notifications[-1] == updated
            _, *heard = [method for method, _ in modern.notifications]
            assert heard == [lists[0], updated[0]]


async def test_a_bus_of_the_program(autojump_clock: MockClock) -> None:
    bus: Any = InMemorySubscriptionBus()
    app: Any = MCPServer("app", subscriptions=bus)
    async with serving(app) as manager, connect_client(manager, era="modern") as client:
        async with client.subscribe("notes://home"):
            await bus.publish(ResourceUpdated(uri="notes://home"))
            await bus.publish("something new")
            await trio.sleep(1)
            assert len(client.notifications) == 2  # with the acknowledgement
    assert not bus._listeners


async def test_an_application_without_a_bus_promises_nothing(autojump_clock: MockClock) -> None:
    app: Any = MCPServer("app")
    del app._lowlevel_server._request_handlers["subscriptions/listen"]
    async with client_of(app, "legacy") as client:
        assert client.server_capabilities["tools"] == {"listChanged": False}
        with pytest.raises(McpError) as refused:
            await client.request("resources/subscribe", {"uri": "a:b"})
        assert refused.value.code == -32601


async def test_a_handler_notifies_its_own_client(autojump_clock: MockClock) -> None:
    async def tell(ctx: Context) -> str:
        await ctx.session.send_resource_updated("notes://home")
        await ctx.session.send_elicit_complete("one")
        return ""

    async with serving(app_with(tell)) as manager:
        for connect in (connect_client, connect_http_client):
            async with connect(manager) as client:
                await client.call_tool("tell")
                await trio.sleep(1)
                assert len(client.notifications) == 2
        async with connect_client(manager, era="modern") as client:
            await client.call_tool("tell")  # Changes are for subscriptions only.
            assert [one for one, _ in client.notifications] == [
                "notifications/elicitation/complete"
            ]
        async with connect_http_client(manager, era="modern") as modern:
            await modern.call_tool("tell")
            assert modern.notifications == []


async def test_a_notification_after_the_end_of_its_session(autojump_clock: MockClock) -> None:
    kept: list[Any] = []

    async def keep(ctx: Context) -> str:
        kept.append(ctx.session)
        return ""

    async with serving(app_with(keep)) as manager:
        async with connect_client(manager) as client:
            await client.call_tool("keep")
        await kept[0].send_resource_updated("a:b")


async def test_a_bus_without_resources(autojump_clock: MockClock) -> None:
    async def list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[])

    listen = ListenHandler(InMemorySubscriptionBus())
    server: Any = Server("low", on_list_tools=list_tools, on_subscriptions_listen=listen)
    async with client_of(server, "legacy") as client:
        assert client.server_capabilities["tools"] == {"listChanged": True}
        assert "resources" not in client.server_capabilities
        assert await client.list_tools() == []


# Handlers of the application for what the library keeps.


async def nothing(ctx: Any, params: Any) -> Any:
    raise AssertionError


def subscribing(handled: list[str]) -> Any:
    async def subscribe(ctx: Any, params: Any) -> types.EmptyResult:
        if params.uri == "bad:uri":
            raise ValueError("not this one")
        handled.append(f"+{params.uri}")
        return types.EmptyResult()

    async def unsubscribe(ctx: Any, params: Any) -> types.EmptyResult:
        handled.append(f"-{params.uri}")
        return types.EmptyResult()

    return Server(
        "low",
        on_list_resources=nothing,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
    )


async def test_handlers_of_subscriptions_are_called(autojump_clock: MockClock) -> None:
    handled: list[str] = []
    async with client_of(subscribing(handled), "legacy") as client:
        for uri in ("a:b", "a:b"):
            await client.request("resources/subscribe", {"uri": uri})
        with pytest.raises(McpError):
            await client.request("resources/subscribe", {"uri": "bad:uri"})
        assert client.session.subscribed_resources == {"a:b"}
        await client.request("resources/unsubscribe", {"uri": "a:b"})
        assert client.session.subscribed_resources == frozenset()
    assert handled == ["+a:b", "+a:b", "-a:b"]


async def test_an_application_with_subscriptions_of_its_own(autojump_clock: MockClock) -> None:
    async def listen(ctx: Any, params: Any) -> Any:
        meta: Any = {"io.modelcontextprotocol/subscriptionId": ctx.request_id}
        return types.SubscriptionsListenResult(_meta=meta)

    server: Server[Any] = Server("low", on_subscriptions_listen=listen)
    async with client_of(server, "modern") as client:
        result = await client.request("subscriptions/listen", {"notifications": {}})
        assert result["_meta"]["io.modelcontextprotocol/subscriptionId"]


async def test_notifications_of_the_client_are_handled(autojump_clock: MockClock) -> None:
    heard: list[str] = []

    async def roots_changed(ctx: Any, params: Any) -> None:
        heard.append("roots")

    async def watch(ctx: Any, call_next: Any) -> Any:
        heard.append(ctx.method)
        return await call_next(ctx)

    make: Any = Server
    server = make("low", on_roots_list_changed=roots_changed)
    server.middleware.append(watch)
    async with client_of(server, "legacy") as client:
        await client.notify("notifications/roots/list_changed")
        await trio.sleep(1)
        assert heard == [
            "initialize",
            "notifications/initialized",
            "notifications/roots/list_changed",
            "roots",
        ]
