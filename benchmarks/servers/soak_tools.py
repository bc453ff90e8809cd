"""What the servers of both soaks have in common: tools, counts, and their end."""

from __future__ import annotations

import os
import signal

import trio

from trio_mcp_session import RequestContext, Router, SessionManager

router = Router(name="soak", version="1.0")


@router.tool()
async def echo(ctx: RequestContext, text: str) -> str:
    """Return the text."""
    return text


@router.tool()
async def nap(ctx: RequestContext, text: str, seconds: float) -> str:
    """Return the text, later."""
    await trio.sleep(seconds)
    return text


@router.tool()
async def climb(ctx: RequestContext, text: str, steps: int, size: int, seconds: float = 0.0) -> str:
    """Return the text after reporting progress in that many steps."""
    for step in range(1, steps + 1):
        await ctx.progress(step, steps, "x" * size)
        if seconds:
            await trio.sleep(seconds)
    return text


def counts_of(manager: SessionManager) -> dict[str, float]:
    """Return what must not be left at the end."""
    statistics = manager.statistics()
    return {
        "sessions": sum(statistics.active.values()),
        "in flight": statistics.in_flight,
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


async def drain_at_signal(manager: SessionManager) -> None:
    """Wait for SIGTERM, and drain."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        await anext(aiter(signals))
        await manager.drain()
