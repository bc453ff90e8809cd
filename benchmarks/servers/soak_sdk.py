"""The tools of the hostile soak, as an application of the official SDK."""

from __future__ import annotations

import json
from typing import Any

import anyio
from footprint import footprint, give_back
from mcp.server.mcpserver import Context, MCPServer
from soak_tools import counts_of

from trio_mcp_session import current_request

app: MCPServer[Any] = MCPServer("soak", version="1.0", log_level="ERROR")


@app.tool(structured_output=False)
async def echo(text: str) -> str:
    """Return the text."""
    return text


@app.tool(structured_output=False)
async def nap(text: str, seconds: float) -> str:
    """Return the text, later."""
    await anyio.sleep(seconds)
    return text


@app.tool(structured_output=False)
async def climb(ctx: Context, text: str, steps: int, size: int, seconds: float = 0.0) -> str:
    """Return the text after reporting progress in that many steps."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, "x" * size)
        if seconds:
            await anyio.sleep(seconds)
    return text


@app.tool(structured_output=False)
async def stats() -> str:
    """Return the counts of this process."""
    counts = counts_of(current_request().manager)
    measured = footprint()
    give_back()
    return json.dumps(counts | measured | {"kib, trimmed": footprint()["kib"]})
