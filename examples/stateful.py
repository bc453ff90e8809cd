"""The state of a session: a database, background tasks, a folder. All of it ends with it."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any, Final

import trio

from trio_mcp_session import (
    McpError,
    RequestContext,
    Router,
    Session,
    StateKey,
    ToolError,
    run_stdio,
)


class Notebook:
    """Notes in an sqlite3 database, which only one thread at a time can use."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = trio.Lock()

    async def run(self, sql: str, *values: object) -> list[Any]:
        async with self._lock:
            return await trio.to_thread.run_sync(self._run, sql, values)

    def _run(self, sql: str, values: tuple[object, ...]) -> list[Any]:
        with self._connection:
            return self._connection.execute(sql, values).fetchall()


NOTEBOOK = StateKey[Notebook]("notebook")
NOTES: Final = "notes:all"
"""The URI of all notes of a session."""


@asynccontextmanager
async def lifespan(session: Session) -> AsyncIterator[None]:
    """Open a notebook for each session; close it after all tasks that use it have ended."""
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        notebook = Notebook(connection)
        await notebook.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        session.set_state(NOTEBOOK, notebook)
        yield


# It needs sessions: clients that support both eras of the protocol use one then.
router = Router("notebook", "1.0", lifespan=lifespan, eras="legacy", resource_subscriptions=True)


async def add(session: Session, text: str) -> int:
    await session.get_state(NOTEBOOK).run("INSERT INTO notes (text) VALUES (?)", text)
    if NOTES in session.subscribed_resources:
        await session.notify("notifications/resources/updated", {"uri": NOTES})
    ((count,),) = await session.get_state(NOTEBOOK).run("SELECT count(*) FROM notes")
    return int(count)


@router.tool()
async def add_note(ctx: RequestContext, text: str) -> dict[str, int]:
    """Write a note into this session's notebook."""
    return {"count": await add(ctx.session, text)}


@router.tool()
async def import_notes(ctx: RequestContext, texts: list[str]) -> dict[str, int]:
    """Write many notes, and report progress."""
    if not texts:
        raise ToolError("texts is empty: pass at least one note")
    for done, text in enumerate(texts, 1):
        await add(ctx.session, text)
        await ctx.progress(done, len(texts), f"wrote {text!r}")
    return {"imported": len(texts)}


@router.tool()
async def remind(ctx: RequestContext, text: str, seconds: float) -> str:
    """Write a note later. Returns at once."""
    # In the session's nursery: the task outlives this request, and the session is not idle.
    ctx.session.start_soon(add_later, ctx.session, text, seconds)
    return f"The note will be written in {seconds:g} seconds, if the session is still open."


async def add_later(session: Session, text: str, seconds: float) -> None:
    await trio.sleep(seconds)
    await add(session, text)


@asynccontextmanager
async def temporary_folder() -> AsyncIterator[trio.Path]:
    folder = await trio.to_thread.run_sync(tempfile.mkdtemp)
    try:
        yield trio.Path(folder)
    finally:
        with trio.move_on_after(5, shield=True):
            await trio.to_thread.run_sync(shutil.rmtree, folder)


@router.tool()
async def export_notes(ctx: RequestContext) -> dict[str, str]:
    """Write all notes into a file, which exists until the session ends."""
    # The session holds the folder, for longer than this request runs.
    folder = await ctx.session.enter_async_context(temporary_folder())
    notes = await ctx.session.get_state(NOTEBOOK).run("SELECT text FROM notes ORDER BY id")
    path = folder / "notes.txt"
    await path.write_text("".join(f"{text}\n" for (text,) in notes), encoding="utf-8")
    return {"path": str(path)}


@router.resource(NOTES)
async def all_notes(ctx: RequestContext) -> list[str]:
    """The notes of this session."""
    notes = await ctx.session.get_state(NOTEBOOK).run("SELECT text FROM notes ORDER BY id")
    return [text for (text,) in notes]


@router.resource("notes:{number}")
async def one_note(ctx: RequestContext, number: int) -> str:
    """One note, by its number."""
    notebook = ctx.session.get_state(NOTEBOOK)
    notes = await notebook.run("SELECT text FROM notes WHERE id = ?", number)
    if not notes:
        raise McpError(-32002, f"note {number} does not exist")
    return str(notes[0][0])


if __name__ == "__main__":
    run_stdio(router)
