"""The error for programs that run another event loop, or none."""

from __future__ import annotations

import trio


def require_trio(what: str) -> None:
    """Raise if no Trio run is active in this thread. Not a checkpoint.

    Args:
        what: What needs Trio.

    Raises:
        RuntimeError: asyncio runs in this thread, or no event loop does.
    """
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"{what} needs Trio, and no Trio run is active in this thread: start the program with "
            "trio.run(), or call run_http() or run_stdio(). Of the ASGI servers, Hypercorn runs on "
            "Trio; uvicorn runs on asyncio only"
        )
