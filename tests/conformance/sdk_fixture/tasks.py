"""Ordinary tools, and the rule by which their calls become tasks."""

from __future__ import annotations

from typing import Any, Final, Literal

import anyio
import mcp_types as types
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError

from .app import NAME, app, asks_user, form, told
from .asking import ask_user
from .rounds import answer_to, asking

CONFIRMATION = form({"confirm": {"type": "boolean"}}, required=True)
EITHER = form({"name": {"type": "string"}, "confirm": {"type": "boolean"}})
"""The suite answers both questions with the same content."""
A_WHILE = 1.0
"""Seconds until a task fails: the suite wants to see it work first."""
REFUSED = -32000

TASKS: Final[dict[str, Literal["optional", "required"]]] = {
    "slow_compute": "optional",
    "failing_job": "required",
    "protocol_error_job": "required",
    "confirm_delete": "required",
    "multi_input": "required",
    "test_tool_with_task": "optional",
}
"""The argument ``tasks`` of `sdk_application`."""


@app.tool(description="Never a task.")
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@app.tool(description="A task if it takes long.")
async def slow_compute(seconds: float, label: str = "") -> str:
    await anyio.sleep(seconds)
    return f"computed {label or 'something'} in {seconds} s"


@app.tool(description="A task that fails for the model.")
async def failing_job() -> str:
    await anyio.sleep(A_WHILE)
    raise ToolError("this job always fails")


@app.tool(description="A task that fails with an error of the protocol.")
async def protocol_error_job() -> str:
    await anyio.sleep(A_WHILE)
    raise MCPError(REFUSED, "this job is always refused")


@app.tool(description="A task that asks before it deletes a file.")
async def confirm_delete(ctx: Context, filename: str) -> str:
    return await ask_user(ctx, f"Delete {filename}?", CONFIRMATION)


@app.tool(description="A task that asks two questions at the same time.")
async def multi_input(ctx: Context) -> Any:
    name = answer_to(ctx, "name", types.ElicitResult)
    confirmation = answer_to(ctx, "confirmation", types.ElicitResult)
    if name is None or confirmation is None:
        return asking(
            name=asks_user("Which name?", EITHER), confirmation=asks_user("Is it right?", EITHER)
        )
    return f"{told(name)}, {told(confirmation)}"


@app.tool(description="Asks for a name, and then takes long.")
async def test_tool_with_task(ctx: Context) -> Any:
    answer = answer_to(ctx, "user_name", types.ElicitResult)
    if answer is None:
        return asking(user_name=asks_user("What is your name?", NAME))
    await anyio.sleep(A_WHILE)
    return f"Hello, {(answer.content or {}).get('name')}!"
