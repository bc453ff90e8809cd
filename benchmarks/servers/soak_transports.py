"""The server of the hostile soak: over HTTP and TCP in one process, or over its pipes.

With `--app sdk` it serves an application of the official SDK.

It prints where it listens as one line of JSON. After SIGTERM it drains. Every few seconds it
returns freed memory to the system: what the C library keeps of a past peak is not a leak.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from functools import partial
from typing import Any

import trio
from footprint import footprint, give_back
from soak_tools import counts_of, drain_at_signal, router

from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    SessionConfig,
    open_session_manager,
    run_stdio,
    serve_http,
    serve_tcp,
)

TRIM_INTERVAL = 2.0  # seconds


@router.tool()
async def stats(ctx: RequestContext) -> str:
    """Return the counts of this process."""
    counts = counts_of(ctx.manager)
    measured = footprint()
    give_back()
    return json.dumps(counts | measured | {"kib, trimmed": footprint()["kib"]})


async def serve_sockets(app: Any, config: SessionConfig) -> None:
    async with open_session_manager(app, config=config) as manager:
        async with trio.open_nursery() as nursery:
            serve: Any = partial(serve_http, manager, "127.0.0.1:0")
            [address] = await nursery.start(serve)
            [listener] = await nursery.start(serve_tcp, manager, 0)
            port = listener.socket.getsockname()[1]
            print(json.dumps({"http": address.port, "tcp": port}), flush=True)
            await drain_at_signal(manager)
            nursery.cancel_scope.cancel()


def return_freed_memory() -> None:
    """Run for ever, in a thread of its own."""
    while True:
        time.sleep(TRIM_INTERVAL)
        give_back()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--app", choices=["router", "sdk"], default="router")
    parser.add_argument("--stdio", action="store_true")
    parser.add_argument("--idle", type=float, default=10, help="seconds until a session ends")
    options = parser.parse_args()
    clocks = CleanupConfig(
        handshake_timeout=options.idle,
        max_idle_time=options.idle,
        idle_after=5,
        cleanup_interval=1,
    )
    config = SessionConfig(cleanup=clocks)
    threading.Thread(target=return_freed_memory, daemon=True).start()
    app: Any = router
    if options.app == "sdk":
        import soak_sdk  # noqa: PLC0415 (needs the official SDK)

        app = soak_sdk.app
    if options.stdio:
        run_stdio(app, config=config)
    else:
        trio.run(serve_sockets, app, config)


if __name__ == "__main__":
    main()
