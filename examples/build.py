"""A call that takes minutes: a build with progress, and with a question in its middle.

Clients that know tasks (2026-07-28, tasks extension) get a task after half a second, and ask for
its status; all other clients wait for the result. The functions are the same for both.
"""

from __future__ import annotations

import argparse
from typing import Any, Literal

import trio

from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    Router,
    SessionConfig,
    ToolError,
    run_http,
    run_stdio,
)

CONFIG = SessionConfig(
    cleanup=CleanupConfig(
        # A build may take an hour, with the time in which it waits for an answer.
        task_timeout=3600,
        # Its result can be asked for until a quarter of an hour after its end.
        task_retention=15 * 60,
        # Clients without tasks wait for as long.
        request_timeout=3600,
    )
)

MODULES = ("parser", "compiler", "linker", "docs")
step = 5.0
"""Seconds that a step takes: the example only waits, where a real one would run a compiler."""

YES_OR_NO: dict[str, Any] = {"type": "object", "properties": {}}
"""A form without fields: to accept it is the answer."""

MACHINES = trio.CapacityLimiter(2)

router = Router("build", "1.0")


async def compile_module(module: str) -> str:
    await trio.sleep(step)
    return f"{module}.o"


# The most common kind: fast calls are answered as usual, slow ones become tasks.
@router.tool(task="optional")
async def build(ctx: RequestContext, target: Literal["debug", "release"] = "debug") -> str:
    """Build the project. Takes about half a minute, and asks the user before it publishes."""
    await ctx.progress(0, len(MODULES) + 1, "waiting for a machine")
    # A build that is cancelled, takes too long or fails gives its machine back.
    async with MACHINES:
        for done, module in enumerate(MODULES, 1):
            await ctx.progress(done, len(MODULES) + 1, f"compiling {module}")
            await compile_module(module)
        if target == "debug":
            return f"Built {len(MODULES)} modules."
        # In a task this is a question of the task; otherwise it is one of the request.
        publish = await ctx.elicit("All modules are built. Publish them?", YES_OR_NO)
        if publish.action != "accept":
            return f"Built {len(MODULES)} modules, and published nothing."
        await ctx.progress(len(MODULES) + 1, len(MODULES) + 1, "publishing")
        await trio.sleep(step)
        return f"Built and published {len(MODULES)} modules."


# One that asks before anything begins, and then cannot do without a task.
@router.tool(task="required", ask_first=True)
async def delete_builds(ctx: RequestContext) -> str:
    """Delete all builds that were published, if the user agrees. Takes long."""
    sure = await ctx.elicit("Delete all published builds?", YES_OR_NO)
    if sure.action != "accept":
        raise ToolError("the user did not agree")
    await ctx.become_task()  # From here on the client has a task.
    for done in range(3):
        await ctx.progress(done, 3, "deleting")
        await trio.sleep(step)
    return "Deleted 3 builds."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        help="address to listen on; without it the client is at standard input and output",
    )
    parser.add_argument("--step", type=float, default=step, help="seconds that a step takes")
    options = parser.parse_args()
    step = options.step
    if options.http is None:
        run_stdio(router, config=CONFIG)
    else:
        run_http(router, options.http, config=CONFIG)
