"""Applications of FastMCP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastmcp import Context, FastMCP
from fastmcp.server.auth.auth import AccessToken, OAuthProvider, RemoteAuthProvider, TokenVerifier
from fastmcp.server.dependencies import get_access_token, get_http_request
from fastmcp.server.middleware import Middleware, MiddlewareContext
from fastmcp.server.middleware.ping import PingMiddleware
from mcp.shared.exceptions import MCPError
from pydantic import AnyHttpUrl
from trio.testing import MockClock

from tests.adapters.apps import ERAS, client_of, serving
from trio_mcp_session import (
    CannotServe,
    McpError,
    ServerLifespanFailed,
    current_session,
    http_app,
    open_session_manager,
    sdk_application,
)
from trio_mcp_session.adapters.recognise import as_application
from trio_mcp_session.testing import HttpRefused, connect_client, connect_http_client


def fast(**options: Any) -> Any:
    app = FastMCP("fast", **options)

    @app.tool
    async def facts(ctx: Context) -> dict[str, Any]:
        token = get_access_token()
        path = None if ctx.transport == "stdio" else get_http_request().url.path
        return {"result": [ctx.transport, path, None if token is None else token.token]}

    @app.tool
    async def state(ctx: Context) -> dict[str, Any]:
        before = await ctx.get_state("key")
        await ctx.set_state("key", "kept")
        return {"result": [before, ctx.session_id == current_session().session_id]}

    return app


@pytest.mark.parametrize("era", ERAS)
async def test_what_a_handler_knows_of_the_transport(era: Any, autojump_clock: MockClock) -> None:
    async with serving(fast()) as manager:
        async with connect_client(manager, era=era) as client:
            found = (await client.call_tool("facts")).structured
            assert found == {"result": ["stdio", None, None]}
        async with connect_http_client(manager, era=era) as http:
            found = (await http.call_tool("facts")).structured
            assert found == {"result": ["streamable-http", "/mcp", None]}


async def test_the_state_of_a_session(autojump_clock: MockClock) -> None:
    async with serving(fast()) as manager:
        async with connect_http_client(manager) as client:
            first = (await client.call_tool("state")).structured
            second = (await client.call_tool("state")).structured
            assert [first, second] == [{"result": [None, True]}, {"result": ["kept", True]}]
        async with connect_http_client(manager) as other:
            assert (await other.call_tool("state")).structured == {"result": [None, True]}


class Watch(Middleware):
    def __init__(self, *, refuse: bool) -> None:
        self.refuse = refuse
        self.seen: list[Any] = []

    async def on_initialize(self, context: MiddlewareContext, call_next: Any) -> Any:
        self.seen.append(context.message.params.client_info.name)
        if self.refuse:
            raise MCPError(-32050, "not you")
        return await call_next(context)

    async def on_message(self, context: MiddlewareContext, call_next: Any) -> Any:
        self.seen.append(context.method)
        return await call_next(context)


async def test_middleware_sees_all_messages(autojump_clock: MockClock) -> None:
    watch = Watch(refuse=False)
    async with client_of(fast(middleware=[watch]), "legacy") as client:
        await client.list_tools()
    assert watch.seen == ["initialize", "test", "notifications/initialized", "tools/list"]


async def test_middleware_refuses_a_client(autojump_clock: MockClock) -> None:
    async with serving(fast(middleware=[Watch(refuse=True)])) as manager:
        with pytest.raises(McpError) as refused:
            async with connect_client(manager):
                raise AssertionError
        assert refused.value.code == -32050


async def test_its_lifespan_is_entered_once(autojump_clock: MockClock) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[dict[str, Any]]:
        events.append("in")
        yield {}
        events.append("out")

    async with sdk_application(fast(lifespan=lifespan)) as application:
        for _ in range(2):
            async with serving(application) as manager, connect_client(manager) as client:
                await client.list_tools()
    assert events == ["in", "out"]


async def test_elicitation_in_the_modern_era_is_refused_by_fastmcp(
    autojump_clock: MockClock,
) -> None:
    app: FastMCP = fast()

    @app.tool
    async def ask(ctx: Context) -> str:
        return str(await ctx.elicit("Who?", str))

    async with client_of(app, "modern") as client:
        assert (await client.call_tool("ask")).is_error


# Parts that cannot run.


async def test_middleware_that_needs_asyncio() -> None:
    with pytest.raises(CannotServe, match=r"PingMiddleware .* asyncio; remove it"):
        open_session_manager(fast(middleware=[PingMiddleware(interval_ms=10)]))


async def test_the_tasks_extension_of_fastmcp() -> None:
    app = fast()
    app._extensions["io.modelcontextprotocol/tasks"] = object()
    with pytest.raises(CannotServe, match=r"sdk_application\(app, tasks="):
        open_session_manager(app)


async def test_a_background_task(autojump_clock: MockClock) -> None:
    app = fast()

    class Task:
        name = "crawl"

        def __init__(self, *, as_task: bool) -> None:
            self.task_config = self
            self.supports_tasks = lambda: as_task

    async def get_tasks() -> list[Any]:
        return [Task(as_task=False), Task(as_task=True)]

    app.get_tasks = get_tasks
    with pytest.raises(ServerLifespanFailed) as failed:
        async with open_session_manager(app):
            raise AssertionError
    assert "the background task 'crawl' cannot be served" in str(failed.value.__cause__)


GOOD = "good"


class Verifier(TokenVerifier):
    async def verify_token(self, token: str) -> AccessToken | None:
        good = AccessToken(token=token, client_id="program", scopes=["read"])
        return good if token == GOOD else None


async def test_a_token_verifier(autojump_clock: MockClock) -> None:
    async with serving(fast(auth=Verifier(required_scopes=["read"]))) as manager:
        headers = {"authorization": "Bearer good"}
        async with connect_http_client(manager, headers=headers) as client:
            found = (await client.call_tool("facts")).structured
            assert found == {"result": ["streamable-http", "/mcp", "good"]}
        for headers in ({}, {"authorization": "Bearer bad"}):
            with pytest.raises(HttpRefused):
                async with connect_http_client(manager, headers=headers):
                    raise AssertionError


async def test_a_remote_authorization_server(autojump_clock: MockClock) -> None:
    auth = RemoteAuthProvider(
        Verifier(), [AnyHttpUrl("https://issuer.example")], "https://example.com"
    )
    application: Any = as_application(fast(auth=auth))
    (document, _) = application.authenticate.documents.values()
    assert json.loads(document)["resource"] == "https://example.com/mcp"


class NeedsAsyncio(TokenVerifier):
    pass


NeedsAsyncio.__module__ = "fastmcp.server.auth.oauth_proxy.proxy"


@pytest.mark.parametrize(
    "kind, why", [(NeedsAsyncio, "asyncio"), (OAuthProvider, "pages of its own")]
)
async def test_authentication_that_cannot_run(
    kind: Any, why: str, autojump_clock: MockClock
) -> None:
    app = fast()
    app.auth = object.__new__(kind)
    async with serving(app) as manager:
        async with connect_client(manager) as client:  # It matters to HTTP only.
            await client.list_tools()
        with pytest.raises(CannotServe, match=why):
            http_app(manager)
