"""langchain-mcp-adapters: `MultiServerMCPClient`, with one session for all calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from driving import Client, Driver, Seen
from langchain_mcp_adapters.callbacks import Callbacks
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from mcp.types import ElicitResult


@asynccontextmanager
async def open_client(where: dict[str, Any], seen: Seen) -> AsyncIterator[Client]:
    async def on_progress(
        progress: float, total: float | None, message: str | None, context: Any
    ) -> None:
        seen.steps.append(progress)

    async def on_log(params: Any, context: Any) -> None:
        seen.levels.append(params.level)

    async def on_question(mcp_context: Any, params: Any, context: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    if "url" in where:
        connection: Any = {"transport": "http", "url": where["url"]}
    else:
        command, *arguments = where["command"]
        connection = {"transport": "stdio", "command": command, "args": arguments}
    callbacks = Callbacks(on_log, on_progress, on_question if seen.able else None)
    client = MultiServerMCPClient({"it": connection}, callbacks=callbacks)
    async with client.session("it") as session:
        tools: dict[str, Any] = {}
        for tool in await load_mcp_tools(session, callbacks=callbacks, server_name="it"):
            tools[tool.name] = tool

        async def names() -> list[str]:
            return list(tools)

        async def call(tool: str, **arguments: Any) -> tuple[str, bool]:
            if tool not in tools:  # A model could not call it here.
                raise RuntimeError(str(await session.call_tool(tool, arguments)))
            request = {"type": "tool_call", "id": "1", "name": tool, "args": arguments}
            message = await tools[tool].ainvoke(request)
            content = message.content
            text = content if isinstance(content, str) else "".join(one["text"] for one in content)
            return text, message.status == "error"

        yield Client(names, call)


if __name__ == "__main__":
    Driver(open_client).main()
