"""Tools that tell something before they answer, and tools that change what there is."""

from __future__ import annotations

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import Prompt

from .app import app

STEP = 0.05
"""Seconds between messages. The suite's client loses those that arrive together with the result."""
AWAY = 0.2
"""Seconds for which an answer waits, so that the client has to resume for it."""


async def log(ctx: Context, words: str) -> None:
    await ctx.info(words)  # type: ignore[deprecated]


@app.tool(description="Logs three times.")
async def test_tool_with_logging(ctx: Context) -> str:
    for doing in ("execution started", "processing data", "execution completed"):
        await log(ctx, f"Tool {doing}")
        await anyio.sleep(STEP)
    return "Logged three times."


@app.tool(description="Reports progress three times.")
async def test_tool_with_progress(ctx: Context) -> str:
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100, f"{done} of 100")
        await anyio.sleep(STEP)
    return "Reported three times."


@app.tool(description="Ends the connection before it answers: the client comes back for it.")
async def test_reconnection(ctx: Context) -> str:
    await ctx.close_sse_stream()
    await anyio.sleep(AWAY)
    return "Answered to the second connection."


@app.tool(description="Logs once, for those who want to hear it.")
async def test_logging_tool(ctx: Context) -> str:
    await log(ctx, "The tool was called")
    return "Logged once."


async def passing() -> str:
    return "Here for a moment."


@app.tool(description="Changes the list of tools.")
async def test_trigger_tool_change(ctx: Context) -> str:
    app.add_tool(passing, name="test_dynamic_tool", description="Comes and goes.")
    app.remove_tool("test_dynamic_tool")
    await ctx.notify_tools_changed()
    return "The list of tools has changed."


@app.tool(description="Changes the list of prompts.")
async def test_trigger_prompt_change(ctx: Context) -> str:
    app.add_prompt(Prompt.from_function(passing, name="test_dynamic_prompt", description="Comes."))
    app.remove_prompt("test_dynamic_prompt")
    await ctx.notify_prompts_changed()
    return "The list of prompts has changed."
