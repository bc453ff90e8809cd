"""The echo server on trio_mcp_session, over HTTP; SIGTERM drains it."""

from __future__ import annotations

import argparse
import json
import math
import signal
from functools import partial
from typing import Any

import trio
from footprint import footprint

from trio_mcp_session import (
    HttpOptions,
    RateLimit,
    Router,
    SessionConfig,
    SessionLimits,
    SessionManager,
    open_session_manager,
    serve_http,
)

MANY = 20_000

router = Router(name="echo", version="1.0")


@router.tool(structured=False)  # as the other servers answer: the text once
async def echo(text: str) -> str:
    """Return the text."""
    return text


@router.tool(name="footprint")
async def tell_footprint() -> str:
    """Collect garbage; return the memory and objects of the process."""
    return json.dumps(footprint())


async def drain_at_signal(manager: SessionManager) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        await anext(aiter(signals))
        await manager.drain()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=["builtin", "hypercorn"], default="builtin")
    parser.add_argument("--answers", choices=["auto", "sse"], default="auto")
    options = parser.parse_args()
    # The number that the benchmark of idle sessions opens, all of them from one address.
    limits = SessionLimits(
        max_sessions=MANY, max_sessions_per_principal=MANY, opening_rate=RateLimit(math.inf)
    )
    config = SessionConfig(limits=limits)
    async with (
        open_session_manager(router, config=config) as manager,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(drain_at_signal, manager)
        serve: Any = partial(
            serve_http,
            manager,
            "127.0.0.1:0",
            server=options.server,
            options=HttpOptions(answers=options.answers),
        )
        [address] = await nursery.start(serve)
        print(f"listening on {address.url}/mcp", flush=True)


if __name__ == "__main__":
    trio.run(main)
