"""How long each tool takes: middleware around all calls, and a tool that tells the figures."""

from __future__ import annotations

import logging
from typing import final

import attrs
import trio

from trio_mcp_session import CallNext, RequestContext, Router, run_stdio

SLOW = 5.0
log = logging.getLogger("timing")
router = Router("timing", "1.0")


@final
@attrs.define
class Figures:
    """What is known of the calls of one tool."""

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0
    longest: float = 0.0


figures: dict[str, Figures] = {}


@router.middleware
async def timed(ctx: RequestContext, call_next: CallNext) -> object:
    """Measure each call, without the time in which the user was asked."""
    if ctx.method != "tools/call":
        return await call_next()
    begun = trio.current_time()
    failed = True
    try:
        result = await call_next()
        failed = False
        return result
    finally:
        seconds = trio.current_time() - begun - ctx.suspended_for
        # Only tools that exist: a client can send any name.
        if (name := str(ctx.params.get("name"))) in router.tools:
            one = figures.setdefault(name, Figures())
            one.calls += 1
            one.failed += failed
            one.seconds += seconds
            one.longest = max(one.longest, seconds)
            if seconds > SLOW:
                log.warning("tool %s took %.1f s", name, seconds)


@router.tool()
async def look_up(word: str) -> str:
    """Look a word up. Takes a moment."""
    await trio.sleep(0.05)
    return f"{word} is a word"


@router.tool()
async def show_timing() -> dict[str, Figures]:
    """Return the number of calls of each tool, and how long they took in seconds."""
    return dict(figures)


if __name__ == "__main__":
    run_stdio(router)
