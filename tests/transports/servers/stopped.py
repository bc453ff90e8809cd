"""A server over TCP and HTTP whose clock is set forward by an hour with every SIGUSR1.

The clock is set in the signal handler itself. So a test can stop the process, write to it, let an
hour pass, and continue it: then everything is due and has arrived in one turn of the loop.

The addresses are told on standard error, in one line of JSON. The end of standard input ends it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial

import trio

from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    Router,
    SessionConfig,
    open_session_manager,
    serve_http,
    serve_tcp,
)

HOUR = 3600.0


class TurnedClock(trio.abc.Clock):
    """Real time, and the hours that were added to it."""

    def __init__(self) -> None:
        self.added = 0.0

    def start_clock(self) -> None:
        """It runs always."""

    def current_time(self) -> float:
        return time.monotonic() + self.added

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()

    def turn(self, *_: object) -> None:
        self.added += HOUR


router = Router("stopped", "1")


@router.tool()
async def echo(ctx: RequestContext, text: str) -> str:
    return text


@router.tool()
async def count(ctx: RequestContext) -> str:
    return str(len(ctx.manager.sessions()))


@router.tool()
async def ask(ctx: RequestContext) -> str:
    answer = await ctx.elicit("Well?", {"type": "object", "properties": {}})
    return answer.action


async def main() -> None:
    clocks = CleanupConfig(max_idle_time=60, connection_idle_time=60, cleanup_interval=0)
    config = SessionConfig(cleanup=clocks)
    async with open_session_manager(router, config=config) as manager:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(serve_tcp, manager, 0)
            told = {"tcp": listener.socket.getsockname()[1]}
            for server in ("builtin", "hypercorn"):
                serve = partial(serve_http, server=server)
                (address,) = await nursery.start(serve, manager, "127.0.0.1:0")
                told[server] = address.port
            print(json.dumps(told), file=sys.stderr, flush=True)
            async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
                assert await stdin.receive_some() == b""
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    clock = TurnedClock()
    signal.signal(signal.SIGUSR1, clock.turn)
    trio.run(main, clock=clock)
