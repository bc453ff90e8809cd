"""Serve what is in server.py.

Without options on standard input and output. With `--http SERVER` over Streamable HTTP with that
server, at the URL that it prints, until SIGTERM.
"""

from __future__ import annotations

import argparse
import math
import signal
from collections.abc import Mapping
from functools import partial
from typing import Any

import trio
from server import router  # type: ignore[import-not-found]  # beside this, when it runs

from trio_mcp_session import (
    AuthenticationFailed,
    CleanupConfig,
    HttpOptions,
    Principal,
    SessionConfig,
    SessionManager,
    open_session_manager,
    run_stdio,
    serve_http,
)

RETRY = 0.05
"""When clients resume a stream that was cut: the tests should not wait for long."""


async def authenticate(scope: Any, headers: Mapping[str, str]) -> Principal:
    """Trust every client: a token is a name."""
    kind, _, name = headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not name:
        raise AuthenticationFailed
    return Principal(name)


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
    serve = partial(
        serve_http,
        server=options.http,
        options=http,
        authenticate=authenticate if options.authenticated else None,
    )
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
    parser.add_argument(
        "--request-state-timeout", type=float, default=60.0, help="seconds that an answer may take"
    )
    parser.add_argument("--authenticated", action="store_true", help="take tokens for names")
    options = parser.parse_args()
    cleanup = CleanupConfig(
        ping_interval=options.ping_interval,
        cleanup_interval=0.01,
        drain_grace=options.drain_grace,
        request_state_timeout=options.request_state_timeout,
    )
    config = SessionConfig(cleanup=cleanup)
    if options.http:
        trio.run(run_http, options, config)
    else:
        run_stdio(router, config=config)


if __name__ == "__main__":
    main()
