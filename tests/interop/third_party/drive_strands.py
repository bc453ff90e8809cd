"""strands-agents: `MCPClient`, which has a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from driving import Client, Driver, Seen
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import ElicitResult
from strands.tools.mcp import MCPClient

numbers = count()


@asynccontextmanager
async def open_client(where: dict[str, Any], seen: Seen) -> AsyncIterator[Client]:
    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.steps.append(progress)

    async def on_question(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    more: Any = {
        "elicitation_callback": on_question if seen.able else None,
        "progress_callback": on_progress,
    }
    if "url" in where:
        client: Any = MCPClient(url=where["url"], **more)
    else:
        command, *arguments = where["command"]
        parameters = StdioServerParameters(command=command, args=arguments)
        client = MCPClient(lambda: stdio_client(parameters), **more)
    await asyncio.to_thread(client.start)
    try:

        async def names() -> list[str]:
            tools: list[Any] = []
            token = None
            while True:
                page = await asyncio.to_thread(client.list_tools_sync, token)
                tools += page
                token = page.pagination_token
                if token is None:
                    return [tool.tool_name for tool in tools]

        async def call(tool: str, **arguments: Any) -> tuple[str, bool]:
            result = await client.call_tool_async(str(next(numbers)), tool, arguments)
            text = "".join(one["text"] for one in result["content"])
            return text, result["status"] == "error"

        yield Client(names, call)
    finally:
        await asyncio.to_thread(client.stop, None, None, None)


if __name__ == "__main__":
    Driver(open_client).main()
