"""mcp-use: `MCPClient` with a configuration of one server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

os.environ["MCP_USE_ANONYMIZED_TELEMETRY"] = "false"

from driving import Client, Driver, Seen, text_of
from mcp.types import ElicitResult
from mcp_use import MCPClient


@asynccontextmanager
async def open_client(where: dict[str, Any], seen: Seen) -> AsyncIterator[Client]:
    async def on_log(params: Any) -> None:
        seen.levels.append(params.level)

    async def on_question(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    if "url" in where:
        server: Any = {"url": where["url"]}
    else:
        command, *arguments = where["command"]
        server = {"command": command, "args": arguments}
    client = MCPClient(
        {"mcpServers": {"it": server}},
        logging_callback=on_log,
        elicitation_callback=on_question if seen.able else None,
    )
    session: Any = await client.create_session("it")
    try:

        async def names() -> list[str]:
            return [tool.name for tool in await session.list_tools()]

        async def call(tool: str, **arguments: Any) -> tuple[str, bool]:
            result = await session.call_tool(tool, arguments)
            return text_of(result.content), bool(result.isError)

        yield Client(names, call)
    finally:
        await client.close_all_sessions()  # noqa: ASYNC102  # asyncio has no shields


if __name__ == "__main__":
    Driver(open_client).main()
