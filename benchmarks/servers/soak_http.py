"""The server of the soak: tools that take long, send much, ask questions, and close streams.

After SIGTERM, and when it has drained, it prints what is left.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from functools import partial
from typing import Any

import trio
from footprint import footprint, give_back

from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    Router,
    SessionConfig,
    SessionManager,
    open_session_manager,
    serve_http,
)

ASK = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}

router = Router(name="soak", version="1.0")


@router.tool()
async def echo(ctx: RequestContext, text: str) -> str:
    """Return the text."""
    return text


@router.tool()
async def nap(ctx: RequestContext, text: str, seconds: float) -> str:
    """Return the text, later."""
    await trio.sleep(seconds)
    return text


@router.tool()
async def climb(ctx: RequestContext, text: str, steps: int, seconds: float, size: int) -> str:
    """Return the text after reporting progress in that many steps."""
    for step in range(1, steps + 1):
        await ctx.progress(step, steps, "x" * size)
        if seconds:
            await trio.sleep(seconds)
    return text


@router.tool()
async def poll(ctx: RequestContext, text: str, seconds: float) -> str:
    """Close the stream; return the text to a client that resumes."""
    ctx.close_stream(retry=seconds / 2)
    await trio.sleep(seconds)
    return text


@router.tool()
async def ask(ctx: RequestContext, text: str) -> str:
    """Ask the client for the text, and return its answer."""
    answer = await ctx.elicit(text, ASK)
    return str((answer.content or {}).get("text"))


@router.tool()
async def announce(ctx: RequestContext, text: str, first: int, count: int) -> str:
    """Send that many notifications outside of a request."""
    for number in range(first, first + count):
        await ctx.session.notify("notifications/announced", {"number": number})
    return text


@router.tool()
async def stats(ctx: RequestContext) -> str:
    """Return the counts of this process."""
    return json.dumps(census(ctx.manager))


def census(manager: SessionManager) -> dict[str, float]:
    statistics = manager.statistics()
    give_back()  # fragmented memory does not count as a leak
    return {
        "sessions": sum(statistics.active.values()),
        "opened": statistics.opened,
        "in flight": statistics.in_flight,
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "descriptors": len(os.listdir("/proc/self/fd")),
        **footprint(),
    }


async def drain_at_signal(manager: SessionManager) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        await anext(aiter(signals))
        await manager.drain()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=["builtin", "hypercorn"], default="builtin")
    parser.add_argument("--idle", type=float, required=True, help="seconds until a session ends")
    options = parser.parse_args()
    clocks = CleanupConfig(max_idle_time=options.idle, idle_after=5, cleanup_interval=1)
    config = SessionConfig(cleanup=clocks)
    async with open_session_manager(router, config=config) as manager:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain_at_signal, manager)
            serve: Any = partial(serve_http, manager, "127.0.0.1:0", server=options.server)
            [address] = await nursery.start(serve)
            print(f"listening on {address.url}/mcp", flush=True)
        left = census(manager)
        ended = {reason.name.lower(): n for reason, n in manager.statistics().ended.items()}
    print(json.dumps({**left, "ended": ended}), flush=True)


if __name__ == "__main__":
    trio.run(main)
