"""What third-party clients are run against, over stdio or over HTTP."""

from __future__ import annotations

import argparse
import signal
from functools import partial
from typing import Any, Final

import trio

from trio_mcp_session import (
    CleanupConfig,
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

NAME: Final = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}

router = Router(name="third-party", version="1.0", instructions="Call anything.")


@router.tool(description="Return the text as it came.")
async def echo(ctx: RequestContext, text: str) -> str:
    return text


@router.tool(description="Return the revision that the client speaks.")
async def revision(ctx: RequestContext) -> str:
    return str(ctx.protocol_version)


@router.tool()
async def fail(ctx: RequestContext) -> str:
    raise ToolError("this tool always fails")


@router.tool()
async def crash(ctx: RequestContext) -> str:
    raise RuntimeError("a detail")


@router.tool()
async def refuse(ctx: RequestContext) -> str:
    raise McpError(-32042, "refused as a protocol error")


@router.tool()
async def climb(ctx: RequestContext, steps: int) -> str:
    for step in range(1, steps + 1):
        await ctx.progress(step, steps, f"step {step}")
    return f"climbed {steps}"


@router.tool()
async def log(ctx: RequestContext) -> str:
    for level in ("debug", "info", "warning", "error"):
        await ctx.log(level, f"it is {level}", "third-party")
    return "logged"


@router.tool()
async def ask(ctx: RequestContext) -> str:
    answer = await ctx.elicit("Who?", NAME)
    return f"{answer.action}: {(answer.content or {}).get('name')}"


@router.tool()
async def wait(ctx: RequestContext) -> str:
    await trio.sleep(60)
    return "waited"


@router.tool(description="Send a notification that belongs to no call.")
async def announce(ctx: RequestContext, number: int) -> str:
    await ctx.session.notify("notifications/resources/updated", {"uri": f"memo://{number}"})
    return str(number)


@router.tool(description="Return how many sessions there are, and how many there have been.")
async def sessions(ctx: RequestContext) -> str:
    statistics = ctx.manager.statistics()
    return f"{sum(statistics.active.values())} of {statistics.opened}"


async def drain_at_signal(manager: SessionManager) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        await anext(aiter(signals))
        await manager.drain()


async def run_http(port: int, config: SessionConfig) -> None:
    async with (
        open_session_manager(router, config=config) as manager,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(drain_at_signal, manager)
        serve: Any = partial(serve_http, manager, f"127.0.0.1:{port}")
        (address,) = await nursery.start(serve)
        print(f"{address.url}/mcp", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http", type=int, metavar="PORT")
    parser.add_argument("--idle", type=float, default=1800.0, help="seconds until a session ends")
    options = parser.parse_args()
    cleanup = CleanupConfig(max_idle_time=options.idle, cleanup_interval=0.1, drain_grace=0.2)
    config = SessionConfig(cleanup=cleanup)
    if options.http is None:
        run_stdio(router, config=config)
    else:
        trio.run(run_http, options.http, config)


if __name__ == "__main__":
    main()
