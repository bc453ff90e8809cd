"""A server to send signals to: run as a program, it serves standard input and output.

On standard error it says which sessions were entered and left.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    run_stdio,
)

CLOCKS = CleanupConfig(drain_grace=0.3, cleanup_budget=2.0)


def mark(step: str, session: Session) -> None:
    os.write(2, f"{step} {session.session_id}\n".encode())


@asynccontextmanager
async def lifespan(session: Session) -> AsyncIterator[None]:
    mark("entered", session)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)  # noqa: ASYNC102  # shielded, and short
        mark("left", session)


router = Router("busy", "1", lifespan=lifespan)


@router.tool()
async def work(ctx: RequestContext, rounds: int) -> str:
    """Work, half of the time in Python, so that signals are handled there."""
    for _ in range(rounds):
        _ = sum(range(20_000))
        await trio.sleep(0.001)
    return "done"


if __name__ == "__main__":
    run_stdio(router, config=SessionConfig(cleanup=CLOCKS))
