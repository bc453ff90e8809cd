"""The server behind the proxies: it counts the calls that reach it, by their token.

It prints its port, and serves until its standard input ends.
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from typing import Any

import trio

from trio_mcp_session import RequestContext, Router, open_session_manager, serve_http

router = Router("counting", "1.0")
seen: Counter[str] = Counter()


@router.tool()
async def mark(ctx: RequestContext, token: str) -> str:
    """Count a call, and return its token."""
    seen[token] += 1
    return token


@router.tool()
async def counts(ctx: RequestContext) -> dict[str, Any]:
    """Return how often each token came."""
    return dict(seen)


async def main() -> None:
    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        (address,) = await nursery.start(partial(serve_http, manager, "127.0.0.1:0"))
        print(address.port, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
