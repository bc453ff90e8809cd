"""A gateway: the tools of another MCP server, with the sessions, limits and log of this one.

`python gateway.py COMMAND ARGUMENT...` starts the other server over standard input and output,
with the client of the official SDK (extra `mcp`).
"""

from __future__ import annotations

import base64
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from trio_mcp_session import (
    AudioContent,
    Content,
    ImageContent,
    Router,
    SessionManager,
    TextContent,
    ToolResult,
    run_stdio,
)

Call = Callable[[dict[str, Any]], Awaitable[ToolResult]]


def make_gateway(command: Sequence[str]) -> Router:
    """Return a router with the tools of another server."""

    @asynccontextmanager
    async def other_server(manager: SessionManager) -> AsyncIterator[None]:
        # Begins before the first client is accepted, and ends after the last one.
        parameters = StdioServerParameters(command=command[0], args=list(command[1:]))
        async with Client(stdio_client(parameters)) as client:
            for tool in (await client.list_tools()).tools:
                add = router.tool(
                    name=tool.name, description=tool.description, input_schema=tool.input_schema
                )
                add(forwarding(client, tool.name))
            yield

    router = Router("gateway", "1.0", server_lifespan=other_server)
    return router


def forwarding(client: Client, name: str) -> Call:
    """Return a function that calls a tool of the other server."""

    async def forward(arguments: dict[str, Any]) -> ToolResult:
        answer = await client.call_tool(name, arguments)
        return ToolResult(
            [translate(one) for one in answer.content],
            structured_content=answer.structured_content,
            is_error=bool(answer.is_error),
        )

    return forward


def translate(content: Any) -> Content:
    """Return a content of the other server as one of this one."""
    match content.type:
        case "text":
            return TextContent(content.text)
        case "image":
            return ImageContent(base64.b64decode(content.data), content.mime_type)
        case "audio":
            return AudioContent(base64.b64decode(content.data), content.mime_type)
        case _:
            return TextContent(content.model_dump_json(by_alias=True, exclude_none=True))


if __name__ == "__main__":
    run_stdio(make_gateway(sys.argv[1:]))
