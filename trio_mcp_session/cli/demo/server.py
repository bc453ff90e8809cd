"""The demo's server: each session has a folder on disk, calls and background work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import trio

from ...application.context import RequestContext
from ...application.router import Router
from ...sessions.state_keys import StateKey

if TYPE_CHECKING:
    from ...sessions.session import Session

WORKSPACE: Final = StateKey[Path]("workspace")
"""The folder of a session; it exists until the session has ended."""

DOING: Final = StateKey[str]("doing")
"""What a session is working on, shown in the table."""

STEP: Final = 0.1
"""Seconds between two progress reports of the simulated work."""

FUSE: Final = 1.0
"""Seconds from the sabotage to the crash."""


async def tell(session: Session, text: str) -> None:
    """Send a text to a session's client, as a log message."""
    params = {"level": "info", "logger": "demo", "data": text}
    await session.notify("notifications/message", params)


class Sabotage(Exception):
    """The demo's bug."""


def make_application(folder: Path) -> Router:
    """Return the server. Each session creates and removes a workspace in ``folder``."""

    @asynccontextmanager
    async def workspace(session: Session) -> AsyncIterator[None]:
        """Create a folder for a session, and remove it last, after all tasks have ended."""
        with TemporaryDirectory(dir=folder) as path:
            session.set_state(WORKSPACE, Path(path))
            yield

    router = Router(
        name="trio-mcp-session-demo",
        version="1.0",
        title="Demo of trio_mcp_session",
        lifespan=workspace,
    )

    @router.tool(description="Write a note into the session's workspace.")
    async def note(ctx: RequestContext, text: str) -> str:  # noqa: ASYNC124  # a handler
        count = _append(ctx.session.get_state(WORKSPACE) / "notes.txt", text)
        return f"{count} bytes noted"

    @router.tool(description="Work for a while, and report progress.")
    async def crunch(ctx: RequestContext, seconds: float) -> str:
        steps = round(seconds / STEP)
        try:
            for step in range(1, steps + 1):
                await trio.sleep(STEP)
                ctx.session.set_state(DOING, f"call {step / steps:4.0%}")
                await ctx.progress(step, steps, "crunching")
        finally:
            ctx.session.set_state(DOING, "")
        return "crunched"

    @router.tool(description="Build an index in the background; the call returns at once.")
    async def index(ctx: RequestContext, seconds: float) -> str:  # noqa: ASYNC124  # a handler
        ctx.session.start_soon(build_index, ctx.session, seconds)
        return "the index is being built"

    async def build_index(session: Session, seconds: float) -> None:
        steps = round(seconds / STEP)
        for step in range(1, steps + 1):
            await trio.sleep(STEP)
            session.set_state(DOING, f"indexing {step / steps:4.0%}")
        session.set_state(DOING, "")
        await tell(session, "indexed")

    @router.tool(description="Start a task that will crash.")
    async def sabotage(ctx: RequestContext) -> str:  # noqa: ASYNC124  # a handler
        ctx.session.start_soon(explode, ctx.session)
        return "the task will crash"

    async def explode(session: Session) -> None:
        session.set_state(DOING, "about to crash")
        await trio.sleep(FUSE)
        raise Sabotage("this bug is part of the demo")

    return router


def _append(path: Path, text: str) -> int:
    with path.open("a", encoding="utf-8") as file:
        return file.write(f"{text}\n")
