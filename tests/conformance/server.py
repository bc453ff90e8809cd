"""The server that the official conformance suite is run against.

`python -m tests.conformance.server`; what it serves is in `fixture`, or in `sdk_fixture`.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from trio_mcp_session import (
    Application,
    HttpOptions,
    SessionManager,
    open_session_manager,
    sdk_application,
    serve_http,
)

PATH = "/mcp"


async def drain_at_signal(
    manager: SessionManager, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        await anext(signals)
        await manager.drain()


@asynccontextmanager
async def open_application(name: str) -> AsyncIterator[Application]:
    """Open the application with this name; only what it needs is imported."""
    if name == "router":
        from tests.conformance.fixture import router

        yield router
    else:
        from tests.conformance.sdk_fixture import TASKS, app

        async with sdk_application(app, tasks=TASKS) as application:
            yield application


async def main(options: argparse.Namespace) -> None:
    """Serve until a signal comes, and end by draining."""
    async with (
        open_application(options.application) as application,
        open_session_manager(application) as manager,
        trio.open_nursery() as nursery,
    ):
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
    parser.add_argument("--application", choices=["router", "sdk"], default="router")
    parser.add_argument("--server", choices=["builtin", "hypercorn"], default="builtin")
    parser.add_argument("--answers", choices=["auto", "sse"], default="auto")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    trio.run(main, parser.parse_args())
