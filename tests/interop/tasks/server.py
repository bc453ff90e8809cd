"""The server that clients of the tasks extension are run against.

`python server.py REPORT` serves standard input and output. In the end it writes to the file REPORT
what is left, as JSON.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any, Final

import trio

from trio_mcp_session import (
    CleanupConfig,
    Elicitation,
    McpError,
    RequestContext,
    Router,
    Sampling,
    SessionConfig,
    SessionManager,
    ToolError,
    open_session_manager,
    serve_stdio,
)
from trio_mcp_session.testing import find_leaks

RETENTION: Final = 1.5
"""Seconds for which the outcome of a task is kept: the clients see it expire."""
CONFIG: Final = SessionConfig(
    cleanup=CleanupConfig(
        task_retention=RETENTION, task_poll_interval=0.05, cleanup_interval=0.1, drain_grace=0.2
    )
)
REFUSED: Final = -32000
NAME: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}
QUESTION: Final = [{"role": "user", "content": {"type": "text", "text": "What is the capital?"}}]

router = Router("tasks", "1.0")


@router.tool(structured=False)
async def add(a: int, b: int) -> str:
    return str(a + b)


@router.tool(structured=False, task="optional", promote_after=0)
async def job(ctx: RequestContext, steps: int) -> str:
    for step in range(steps):
        await ctx.progress(step, steps, f"step {step}")
        await trio.sleep(0.1)
    return f"{steps} steps"


@router.tool(structured=False, task="optional", promote_after=math.inf)
async def quick(text: str) -> str:
    return text


@router.tool(structured=False, task="required")
async def fail() -> str:
    raise ToolError("this task always fails")


@router.tool(structured=False, task="required")
async def refuse() -> str:
    raise McpError(REFUSED, "this task is always refused", {"why": "a test"})


@router.tool(structured=False, task="required")
async def elicit(ctx: RequestContext) -> str:
    answer = await ctx.elicit("Who?", NAME)
    return f"{answer.action}: {(answer.content or {}).get('name')}"


@router.tool(structured=False, task="required")
async def elicit_again(ctx: RequestContext) -> str:
    first = await ctx.elicit("Who?", NAME)
    second = await ctx.elicit("Who else?", NAME)
    return f"{first.action}, {second.action}"


@router.tool(structured=False, task="required")
async def sample(ctx: RequestContext) -> str:
    reply = await ctx.sample(QUESTION, max_tokens=100)
    return f"sampled: {reply['content']['text']}"


@router.tool(structured=False, task="required")
async def roots(ctx: RequestContext) -> str:
    return ", ".join(root["uri"] for root in await ctx.list_roots())


@router.tool(structured=False, task="required")
async def both(ctx: RequestContext) -> str:
    name, reply = await ctx.ask_all(Elicitation("Who?", NAME), Sampling(QUESTION, max_tokens=100))
    return f"{name.action}, {reply['content']['text']}"


@router.tool(structured=False, task="required", ask_first=True)
async def ask_first(ctx: RequestContext) -> str:
    answer = await ctx.elicit("Who?", NAME)
    await ctx.become_task()
    await trio.sleep(0.1)
    return f"{answer.action}: {(answer.content or {}).get('name')}"


@router.tool(structured=False, task="required")
async def never() -> str:
    await trio.sleep_forever()
    raise AssertionError


def left(manager: SessionManager) -> dict[str, Any]:
    """What a server holds: its tasks and leaks."""
    return {
        "tasks": [f"{task.name} {task.status.value}" for task in manager.list_tasks()],
        "leaks": [str(leak) for leak in find_leaks(manager)],
    }


async def main(report: str) -> None:
    async with open_session_manager(router, config=CONFIG) as manager:
        await serve_stdio(manager)
        await trio.Path(report).write_text(json.dumps(left(manager)), "utf-8")


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
