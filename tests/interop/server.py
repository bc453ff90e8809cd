"""The server that real clients are run against: one tool for each thing they must be able to do.

Handlers that have to be caught in the middle are steered by other calls (`give_turn`,
`wait_started`, `outcome`), never by sleeping, so that no check depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from typing import Any

import trio

from trio_mcp_session import (
    CleanupConfig,
    McpError,
    RequestContext,
    Router,
    SessionConfig,
    ToolError,
    run_stdio,
)

router = Router(
    name="interop",
    version="1.0",
    title="Interoperability server",
    instructions="Call anything.",
)

# A stdio server has exactly one session, so what the handlers share may live in the module.
turns: defaultdict[str, trio.Event] = defaultdict(trio.Event)
started: defaultdict[str, trio.Event] = defaultdict(trio.Event)
ended: defaultdict[str, trio.Event] = defaultdict(trio.Event)
outcomes: dict[str, str] = {}


@router.tool(description="Return the text as it came.")
async def echo(ctx: RequestContext, text: str) -> str:
    return text


@router.tool()
async def add(ctx: RequestContext, a: int, b: int = 0) -> dict[str, Any]:
    return {"sum": a + b}


@router.tool()
async def fail(ctx: RequestContext) -> str:
    raise ToolError("this tool always fails")


@router.tool()
async def crash(ctx: RequestContext) -> str:
    raise RuntimeError("a detail that is nobody's business")


@router.tool()
async def stray_print(ctx: RequestContext) -> str:
    print("this line is not for the client", flush=True)
    return "printed"


@router.tool(description="Report the steps, then wait for the turn before returning.")
async def progress(ctx: RequestContext, steps: int, turn: str) -> str:
    for step in range(1, steps + 1):
        await ctx.progress(step, steps, f"step {step}")
    await turns[turn].wait()
    return "done"


@router.tool()
async def wait_turn(ctx: RequestContext, turn: str) -> str:
    await turns[turn].wait()
    return turn


@router.tool()
async def give_turn(ctx: RequestContext, turn: str) -> str:
    turns[turn].set()
    return turn


@router.tool(description="Run until cancelled, and keep note of how it ended.")
async def hang(ctx: RequestContext, key: str) -> str:
    started[key].set()
    outcomes[key] = "crashed"
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        outcomes[key] = "cancelled"
        raise
    finally:
        ended[key].set()
    raise AssertionError("unreachable")


@router.tool(description="Wait until the hanging call runs.")
async def wait_started(ctx: RequestContext, key: str) -> str:
    await started[key].wait()
    return key


@router.tool(description="Wait until the hanging call has ended, and tell how.")
async def outcome(ctx: RequestContext, key: str) -> str:
    await ended[key].wait()
    return outcomes[key]


@router.tool(description="Messages of this session that have come in so far, this call included.")
async def received(ctx: RequestContext) -> str:
    return str(ctx.session.metrics.messages_received)


@router.tool()
async def log(ctx: RequestContext, text: str) -> str:
    await ctx.log("debug", text, "interop")
    await ctx.log("info", text, "interop")
    await ctx.log("warning", {"text": text}, "interop")
    await ctx.log("error", [text], "interop")
    return "logged"


@router.tool()
async def sample(ctx: RequestContext, prompt: str) -> str:
    message = {"role": "user", "content": {"type": "text", "text": prompt}}
    reply = await ctx.sample([message], max_tokens=50)
    return f"{reply['model']}: {reply['content']['text']}"


@router.tool()
async def elicit(ctx: RequestContext, question: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
    }
    answer = await ctx.elicit(question, schema)
    return {"action": answer.action, "answer": answer.content}


@router.tool()
async def roots(ctx: RequestContext) -> dict[str, Any]:
    return {"uris": [root["uri"] for root in await ctx.list_roots()]}


async def newcomer(ctx: RequestContext) -> str:
    return "here I am"


@router.tool()
async def add_tool(ctx: RequestContext) -> str:
    router.tool("newcomer")(newcomer)
    await ctx.session.notify("notifications/tools/list_changed", {})
    return "added"


@router.request("resources/list")
async def list_resources(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
    return {"resources": [{"uri": "memo://one", "name": "one", "mimeType": "text/plain"}]}


@router.request("resources/read")
async def read_resource(ctx: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
    uri = params["uri"]
    if uri != "memo://one":
        raise McpError(-32002, "Resource not found", {"uri": uri})
    return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": "the first memo"}]}


def main() -> None:
    """Serve on stdin and stdout until the client closes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--ping-interval", type=float, default=math.inf, help="seconds between keep-alive pings"
    )
    options = parser.parse_args()
    cleanup = CleanupConfig(ping_interval=options.ping_interval, cleanup_interval=0.01)
    run_stdio(router, config=SessionConfig(cleanup=cleanup))


if __name__ == "__main__":
    main()
