"""openai-agents: `MCPServerStreamableHttp` and `MCPServerStdio`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agents.mcp import MCPServerStdio, MCPServerStreamableHttp
from driving import Client, Driver, Seen, text_of


@asynccontextmanager
async def open_client(where: dict[str, Any], seen: Seen) -> AsyncIterator[Client]:
    async def on_message(message: Any) -> None:
        one = getattr(message, "root", message)
        if getattr(one, "method", None) == "notifications/message":
            seen.levels.append(one.params.level)

    more: Any = {"message_handler": on_message, "client_session_timeout_seconds": 90}
    server: Any
    if "url" in where:
        server = MCPServerStreamableHttp({"url": where["url"], "timeout": 90}, **more)
    else:
        command, *arguments = where["command"]
        server = MCPServerStdio({"command": command, "args": arguments}, **more)
    async with server:

        async def names() -> list[str]:
            return [tool.name for tool in await server.list_tools()]

        async def call(tool: str, **arguments: Any) -> tuple[str, bool]:
            result = await server.call_tool(tool, arguments)
            is_error = getattr(result, "is_error", None) or getattr(result, "isError", None)
            return text_of(result.content), bool(is_error)

        yield Client(names, call)


if __name__ == "__main__":
    Driver(open_client).main()
