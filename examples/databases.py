"""State that outlives requests and connections: a temporary database behind each handle.

A model opens a database, gets its id, and passes the id to the other tools. This works with
clients that have sessions and with those that have none (2026-07-28), over pipes and over HTTP.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import trio

from trio_mcp_session import (
    AdmissionPolicy,
    AuthenticationFailed,
    CleanupConfig,
    HandleKind,
    Principal,
    RequestContext,
    Router,
    SessionConfig,
    SessionManager,
    ToolError,
    open_session_manager,
    run_stdio,
    serve_http,
)

MAX_ROWS = 100
MAX_PAGES = 2_500  # 10 MB
CONFIG = SessionConfig(cleanup=CleanupConfig(request_timeout=30))
"""A statement can take 30 seconds at most."""

Value = str | int | float | None


class Database:
    """An SQLite database in a folder of its own.

    Opening and closing it takes a moment, so both belong in a thread.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="database-")
        path = Path(self._folder.name) / "scratch.db"
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute(f"PRAGMA max_page_count = {MAX_PAGES}")
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2**20)
        self._connection.set_authorizer(self._authorize)
        # Called during a statement: stops it if its request was cancelled.
        self._connection.set_progress_handler(trio.from_thread.check_cancelled, 10_000)

    def close(self) -> None:
        self._connection.close()
        self._folder.cleanup()

    async def execute(self, sql: str, values: Sequence[Value] = ()) -> list[Any]:
        """Run a statement, and return its first rows. When cancelled, it is interrupted."""
        return await trio.to_thread.run_sync(self._execute, sql, values)

    def _execute(self, sql: str, values: Sequence[Value]) -> list[Any]:
        try:
            with closing(self._connection.execute(sql, values)) as cursor:
                return cursor.fetchmany(MAX_ROWS)
        except (sqlite3.Error, OverflowError) as error:
            trio.from_thread.check_cancelled()  # Raises if the statement was stopped.
            raise ToolError(f"SQLite: {error}") from error

    @staticmethod
    def _authorize(action: int, *_: object) -> int:
        # With these a statement could open other files, or raise its limits.
        forbidden = action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_PRAGMA)
        return sqlite3.SQLITE_DENY if forbidden else sqlite3.SQLITE_OK


@asynccontextmanager
async def scratch_database(statements: Sequence[str]) -> AsyncIterator[Database]:
    """The state behind a handle. It is entered and left in the session of the handle."""
    database = await trio.to_thread.run_sync(Database)
    try:
        for sql in statements:
            await database.execute(sql)
        yield database
    finally:
        with trio.move_on_after(5, shield=True):
            await trio.to_thread.run_sync(database.close)


DATABASES = HandleKind[Database](
    "db",
    scratch_database,
    idle_timeout=30 * 60,
    lifetime=24 * 3600,
    max_handles=500,
    max_per_principal=5,
    # A user's new database can only replace another one of the same user.
    admission=AdmissionPolicy.REPLACE_OWN,
)

router = Router("databases", "1.0")


# Models read the description of a tool, so it says when a handle ends.
@router.tool(
    description="Open an SQLite database and run statements, such as CREATE TABLE, in it. "
    f"Returns its database_id, which the other tools need. {DATABASES.expiry} "
    f"You can have {DATABASES.max_per_principal}; one more replaces the one unused for longest."
)
async def open_database(ctx: RequestContext, statements: tuple[str, ...]) -> dict[str, str]:
    return {"database_id": await ctx.open_handle(DATABASES, statements)}


@router.tool(
    description="Run an SQL statement in a database that open_database has opened. "
    f"Returns {MAX_ROWS} rows at most. BEGIN and COMMIT can be in different calls."
)
async def execute(
    ctx: RequestContext, database_id: str, sql: str, values: tuple[Value, ...] = ()
) -> dict[str, Any]:
    # One call at a time uses the database; others wait for their turn.
    async with ctx.use_handle(DATABASES, database_id) as database:
        return {"rows": await database.execute(sql, values)}


@router.tool()
async def list_databases(ctx: RequestContext) -> dict[str, Any]:
    """List your databases that are open, the oldest first."""
    return {
        "databases": [
            {
                "database_id": handle.handle_id,
                "last_used": handle.session.metrics.last_active.isoformat(timespec="seconds"),
            }
            for handle in ctx.list_handles(DATABASES)
        ]
    }


@router.tool()
async def close_database(ctx: RequestContext, database_id: str) -> dict[str, bool]:
    """Close a database, and delete its content."""
    return {"closed": await ctx.close_handle(DATABASES, database_id)}


class Tokens:
    """The tokens and their users. A real server uses its identity provider instead."""

    def __init__(self, names: Mapping[str, str]) -> None:
        # Looked up by digest, so that the time of a look-up reveals nothing about the tokens.
        self._names = {self._digest(token): name for token, name in names.items()}

    async def authenticate(self, scope: Any, headers: Mapping[str, str]) -> Principal:
        """Return the user of a request. The request can use only the handles of this user."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        name = self._names.get(self._digest(token))
        if kind.lower() != "bearer" or name is None:
            raise AuthenticationFailed(
                "A token is needed", www_authenticate='Bearer realm="databases"'
            )
        return Principal(name)

    @staticmethod
    def _digest(token: str) -> bytes:
        return hashlib.sha256(token.encode()).digest()


async def stop_at_signal(manager: SessionManager) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            # Closes the databases, and ends `serve_http`.
            await manager.drain()
            return


async def main(bind: str, tokens: Tokens) -> None:
    async with (
        open_session_manager(router, config=CONFIG) as manager,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(stop_at_signal, manager)
        serve = partial(serve_http, authenticate=tokens.authenticate)
        (address,) = await nursery.start(serve, manager, bind)
        print(f"listening on {address.url}/mcp", file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        help="address to listen on; without it the client is at standard input and output",
    )
    parser.add_argument(
        "--token",
        action="append",
        default=[],
        metavar="NAME=TOKEN",
        help="a user and the user's token (only for trials: other users see command lines)",
    )
    options = parser.parse_args()
    if options.http is None:
        run_stdio(router, config=CONFIG)
    else:
        pairs = (text.partition("=") for text in options.token)
        trio.run(main, options.http, Tokens({token: name for name, _, token in pairs}))
