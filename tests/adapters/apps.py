"""Applications of the official SDK, and managers that serve them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from trio_mcp_session import (
    SessionConfig,
    SessionManager,
    open_session_manager,
    validate_sessions,
)
from trio_mcp_session.testing import Client, connect_client

ERAS = ("legacy", "modern")
Handler: TypeAlias = Callable[[Context], Awaitable[Any]]


class Name(BaseModel):
    name: str


def app_with(*handlers: Callable[..., Any], **options: Any) -> MCPServer[Any]:
    """Return an application with these tools, named after their functions."""
    app: MCPServer[Any] = MCPServer("app", **options)
    for handler in handlers:
        app.add_tool(handler)
    return app


@asynccontextmanager
async def serving(app: Any, **config: Any) -> AsyncIterator[SessionManager]:
    """Serve an application; nothing is left of it at the end."""
    async with open_session_manager(app, config=SessionConfig(**config)) as manager:
        yield manager
    validate_sessions(manager.store)
    assert not manager.sessions()


@asynccontextmanager
async def client_of(app: Any, era: Any, **options: Any) -> AsyncIterator[Client[Any]]:
    """Serve an application to one client in memory."""
    async with serving(app) as manager:
        async with connect_client(manager, era=era, **options) as client:
            yield client


async def accept(params: Any) -> dict[str, Any]:
    """Answer a form."""
    return {"action": "accept", "content": {"name": "Ada"}}
