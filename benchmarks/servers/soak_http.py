"""The server of the soak: tools that take long, send much, ask questions, and close streams.

After SIGTERM, and when it has drained, it prints what is left.
"""

from __future__ import annotations

import argparse
import json
import logging
from functools import partial
from typing import Any

import trio
from footprint import footprint, give_back
from soak_tools import counts_of, drain_at_signal, router

from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    SessionConfig,
    SessionManager,
    open_session_manager,
    serve_http,
)

ASK = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


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
    give_back()  # fragmented memory does not count as a leak
    return {**counts_of(manager), "opened": manager.statistics().opened, **footprint()}


def is_no_refusal(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("HTTP 4")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=["builtin", "hypercorn"], default="builtin")
    parser.add_argument("--idle", type=float, required=True, help="seconds until a session ends")
    options = parser.parse_args()
    # Clients send invalid requests on purpose; anything else in the log is a fault.
    assert logging.lastResort is not None
    logging.lastResort.addFilter(is_no_refusal)
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
