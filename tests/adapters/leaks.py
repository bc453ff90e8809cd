"""The leak machines of `tests/leaks`, with an application of the official SDK behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from mcp.server.mcpserver import Context, MCPServer

from tests.leaks.machine import Server
from tests.leaks.modern import ModernServer
from trio_mcp_session import Router, Session, current_request
from trio_mcp_session.adapters.recognise import as_application
from trio_mcp_session.application.tools import Tool


class WithLifespan:
    """An application, with a lifespan of sessions around that of its own."""

    def __init__(self, application: Any, outer: Callable[[Session], Any]) -> None:
        self._application = application
        self._outer = outer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._application, name)

    @property
    def lifespan(self) -> Callable[[Session], Any]:
        return self._open

    @asynccontextmanager
    async def _open(self, session: Session) -> AsyncIterator[None]:
        async with self._outer(session), self._application.lifespan(session):
            yield


def as_tool(of_machine: Tool) -> Callable[..., Awaitable[Any]]:
    """Return a function for the SDK that runs a tool of the machines."""

    async def tool(key: str = "", box: str = "", flavour: str = "", after: float = 0.0) -> str:
        given = {"key": key, "box": box, "flavour": flavour, "after": after}
        arguments = {name: value for name, value in given.items() if value}
        return str(await of_machine.invoke(current_request(), arguments))

    return tool


def sdk_app(router: Router, server: Server) -> MCPServer[Any]:
    """Return an application with the tools of a router; some of them use what the SDK has."""
    app: MCPServer[Any] = MCPServer("leaks")

    async def ask(ctx: Context, key: str) -> str:
        schema: Any = {"type": "object", "properties": {}}
        answer = await ctx.session.elicit_form(key, schema, ctx.request_id)
        return str(answer.action)

    async def talk(ctx: Context, key: str) -> str:
        async def chat() -> None:
            while True:
                await ctx.session.send_log_message("info", key, related_request_id=ctx.request_id)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(chat)
            await server.gate(key).wait()
            nursery.cancel_scope.cancel()
        return key

    async def poll(ctx: Context, key: str) -> str:
        await ctx.close_sse_stream()
        await server.gate(key).wait()
        return key

    own: dict[str, Any] = {"ask": ask, "talk": talk, "poll": poll}
    for name, tool in router._tools.all.items():
        app.add_tool(own.get(name) or as_tool(tool), name=name, structured_output=False)
    return app


@attrs.define(eq=False)
class SdkLeakServer(Server):
    """The server of the machines up to 2025-11-25."""

    def router(self) -> Any:
        app = sdk_app(super().router(), self)
        return WithLifespan(as_application(app), self.lifespan)


@attrs.define(eq=False)
class SdkModernServer(ModernServer):
    """The server of the machine of 2026-07-28."""

    def router(self) -> Any:
        app = sdk_app(super().router(), self)
        return WithLifespan(as_application(app), self.lifespan)
