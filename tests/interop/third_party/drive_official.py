"""The official Python client, for what stands between it and the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
from driving import Client, Driver, Seen, text_of
from mcp.client.client import Client as OfficialClient
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client


@asynccontextmanager
async def open_client(where: dict[str, Any], seen: Seen) -> AsyncIterator[Client]:
    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.steps.append(progress)

    async def on_log(params: Any) -> None:
        seen.levels.append(params.level)

    async def on_question(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    transport: Any
    if "url" in where:
        transport = streamable_http_client(where["url"])
    else:
        command, *arguments = where["command"]
        transport = stdio_client(StdioServerParameters(command=command, args=arguments))
    client = OfficialClient(
        transport,
        mode="legacy",
        logging_callback=on_log,
        elicitation_callback=on_question if seen.able else None,
    )
    async with client:

        async def names() -> list[str]:
            return [tool.name for tool in (await client.list_tools()).tools]

        async def call(tool: str, **arguments: Any) -> tuple[str, bool]:
            result: Any = await client.call_tool(tool, arguments, progress_callback=on_progress)
            return text_of(result.content), bool(result.is_error)

        yield Client(names, call)


if __name__ == "__main__":
    Driver(open_client).main()
