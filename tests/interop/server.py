"""The server that real clients are run against: one tool for each thing they must be able to do.

Handlers that have to be caught in the middle are steered by other calls (`give_turn`,
`wait_started`, `outcome`), never by sleeping, so that no check depends on the machine's speed.

Without options it serves standard input and output. With `--http SERVER` it serves Streamable HTTP
with that server, at the URL that it prints, until SIGTERM.
"""

from __future__ import annotations

import argparse
import math
import signal
from collections import defaultdict
from functools import partial
from typing import Any

import trio

from trio_mcp_session import (
    CleanupConfig,
    HttpOptions,
    McpError,
    RequestContext,
    Router,
    SessionConfig,
    SessionManager,
    ToolError,
    open_session_manager,
    run_stdio,
    serve_http,
)

RETRY = 0.05
"""When clients come back to a stream that was cut: the tests should not wait for long."""

router = Router(
    name="interop",
    version="1.0",
    title="Interoperability server",
    instructions="Call anything.",
)

# Each check has a server of its own, so what the handlers share may live in the module.
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
async def fail_late(ctx: RequestContext) -> str:
    await ctx.progress(1)
    raise McpError(1, "too late")


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
    await ctx.progress(1)
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


@router.tool(description="Wait until a part has been sent, or the call has returned.")
async def wait_ended(ctx: RequestContext, key: str) -> str:
    await ended[key].wait()
    return key


@router.tool(description="Report progress in parts; each but the first waits for its turn.")
async def count(ctx: RequestContext, parts: int, size: int) -> str:
    number = 0
    for part in range(parts):
        if part:
            await turns[f"part {part}"].wait()
        for _ in range(size):
            number += 1
            await ctx.progress(number, parts * size, f"step {number}")
        ended[f"part {part}"].set()
    await turns["answer"].wait()
    ended["answer"].set()
    return f"counted to {number}"


@router.tool(description="Let the client go, and have the answer when it is back.")
async def poll(ctx: RequestContext) -> str:
    await ctx.progress(1)
    closed = ctx.close_stream(retry=RETRY)
    await ctx.progress(2)
    await turns["answer"].wait()
    await ctx.progress(3)
    return "let go" if closed else "held"


@router.tool(description="Tell of numbered changes, which have nothing to do with this call.")
async def announce(ctx: RequestContext, first: int, last: int) -> str:
    for number in range(first, last + 1):
        await ctx.session.notify("notifications/resources/updated", {"uri": f"memo://{number}"})
    return str(last)


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


async def drain_at_signal(
    manager: SessionManager, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        await anext(signals)
        await manager.drain()


async def run_http(options: argparse.Namespace, config: SessionConfig) -> None:
    """Serve until SIGTERM comes, and end by draining."""
    http = HttpOptions(
        retry=RETRY, stream_after=options.stream_after, keep_alive=options.keep_alive
    )
    serve = partial(serve_http, server=options.http, options=http)
    async with (
        open_session_manager(router, config=config) as manager,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(drain_at_signal, manager)
        (address,) = await nursery.start(serve, manager, "127.0.0.1:0")
        print(f"{address.url}/mcp", flush=True)


def main() -> None:
    """Serve on stdin and stdout until the client closes them, or on HTTP until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http", choices=["builtin", "hypercorn"], help="serve HTTP with this")
    parser.add_argument(
        "--ping-interval", type=float, default=math.inf, help="seconds between keep-alive pings"
    )
    parser.add_argument(
        "--drain-grace", type=float, default=10.0, help="seconds that calls have at the end"
    )
    parser.add_argument(
        "--stream-after", type=float, default=2.0, help="seconds until an answer gets a stream"
    )
    parser.add_argument(
        "--keep-alive", type=float, default=15.0, help="seconds until a silent stream has a comment"
    )
    options = parser.parse_args()
    cleanup = CleanupConfig(
        ping_interval=options.ping_interval,
        cleanup_interval=0.01,
        drain_grace=options.drain_grace,
    )
    config = SessionConfig(cleanup=cleanup)
    if options.http:
        trio.run(run_http, options, config)
    else:
        run_stdio(router, config=config)


if __name__ == "__main__":
    main()
