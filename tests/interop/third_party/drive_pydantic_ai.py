"""pydantic-ai: `MCPToolset`, which is built on FastMCP's client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from driving import Client, Driver, Seen
from fastmcp.client.transports import StdioTransport
from pydantic_ai.mcp import MCPToolset


@asynccontextmanager
async def open_client(where: dict[str, Any], seen: Seen) -> AsyncIterator[Client]:
    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.steps.append(progress)

    async def on_log(message: Any) -> None:
        seen.levels.append(message.level)

    async def on_question(message: str, response_type: Any, params: Any, context: Any) -> Any:
        return {"name": "Ada"}

    if "url" in where:
        source: Any = where["url"]
    else:
        command, *arguments = where["command"]
        source = StdioTransport(command, arguments, keep_alive=False)
    toolset: Any = MCPToolset(
        source,
        tool_error_behavior="error",
        progress_handler=on_progress,
        log_handler=on_log,
        elicitation_handler=on_question if seen.able else None,
    )
    async with toolset:

        async def names() -> list[str]:
            return [tool.name for tool in await toolset.list_tools()]

        async def call(tool: str, **arguments: Any) -> tuple[str, bool]:
            return str(await toolset.direct_call_tool(tool, arguments)), False

        yield Client(names, call)


if __name__ == "__main__":
    Driver(open_client).main()
