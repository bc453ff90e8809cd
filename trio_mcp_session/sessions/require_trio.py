"""The check that Trio runs, with an error for programs that run another event loop."""

from __future__ import annotations

import trio


def require_trio(what: str) -> None:
    """Raise if no Trio run is active in this thread. Not a checkpoint.

    Args:
        what: What needs Trio.

    Raises:
        RuntimeError: asyncio runs here, or nothing does.
    """
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"{what} needs Trio, and no Trio run is active in this thread: start the program with "
            "trio.run(), or call run_http() or run_stdio(). Of the ASGI servers, Hypercorn runs on "
            "Trio; uvicorn runs on asyncio only"
        )
