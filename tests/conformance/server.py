"""The server that the official conformance suite is run against.

`python -m tests.conformance.server`; what it serves is in `fixture`.
"""

from __future__ import annotations

import argparse
import signal
from functools import partial

import trio

from tests.conformance.fixture import router
from trio_mcp_session import HttpOptions, SessionManager, open_session_manager, serve_http

PATH = "/mcp"


async def drain_at_signal(
    manager: SessionManager, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        await anext(signals)
        await manager.drain()


async def main(options: argparse.Namespace) -> None:
    """Serve until a signal comes, and end by draining."""
    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        await nursery.start(drain_at_signal, manager)
        serve = partial(
            serve_http,
            path=PATH,
            server=options.server,
            options=HttpOptions(answers=options.answers),
        )
        (address,) = await nursery.start(serve, manager, f"127.0.0.1:{options.port}")
        print(f"listening on {address.url}{PATH}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=["builtin", "hypercorn"], default="builtin")
    parser.add_argument("--answers", choices=["auto", "sse"], default="auto")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    trio.run(main, parser.parse_args())
