"""A transaction behind each handle, and a question to the user before it is committed.

What was not committed is rolled back when the handle ends: because it expires, because the user
declines, or because the server shuts down.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypedDict

import trio

from trio_mcp_session import HandleKind, RequestContext, Router, ToolError, run_stdio

DATABASE = "shop.db"


class Rows(TypedDict):
    """What a statement returned."""

    rows: list[list[Any]]
    changed: int


@asynccontextmanager
async def begin() -> AsyncIterator[sqlite3.Connection]:
    """A connection with an open transaction; rolled back at the end, if it was not committed."""
    connect = partial(sqlite3.connect, DATABASE, isolation_level=None, check_same_thread=False)
    connection = await trio.to_thread.run_sync(connect)
    try:
        await trio.to_thread.run_sync(connection.execute, "BEGIN")
        yield connection
    finally:
        with trio.CancelScope(shield=True):
            if connection.in_transaction:
                await trio.to_thread.run_sync(connection.rollback)
            await trio.to_thread.run_sync(connection.close)


TRANSACTIONS = HandleKind[sqlite3.Connection](
    "tx", begin, idle_timeout=300, lifetime=1800, max_per_principal=2
)
router = Router("transactions", "1.0")


@router.tool(
    description="Begin a transaction; returns its transaction_id. Without commit its changes are "
    f"undone. {TRANSACTIONS.expiry}"
)
async def begin_transaction(ctx: RequestContext) -> dict[str, str]:
    return {"transaction_id": await ctx.open_handle(TRANSACTIONS)}


@router.tool()
async def execute(ctx: RequestContext, transaction_id: str, sql: str) -> Rows:
    """Run an SQL statement in a transaction. Returns 100 rows at most."""

    def run(connection: sqlite3.Connection) -> Rows:
        try:
            cursor = connection.execute(sql)
            rows = [list(row) for row in cursor.fetchmany(100)]
        except sqlite3.Error as error:
            raise ToolError(f"SQLite: {error}") from error
        return {"rows": rows, "changed": max(cursor.rowcount, 0)}

    async with ctx.use_handle(TRANSACTIONS, transaction_id) as connection:
        return await trio.to_thread.run_sync(run, connection)


@router.tool()
async def commit(ctx: RequestContext, transaction_id: str) -> str:
    """Commit a transaction, if the user agrees."""
    async with ctx.use_handle(TRANSACTIONS, transaction_id) as connection:
        changes = connection.total_changes
        form: dict[str, Any] = {"type": "object", "properties": {}}
        answer = await ctx.elicit(f"Save {changes} changed rows?", form)
        if answer.action == "accept":
            await trio.to_thread.run_sync(connection.commit)
        # When the block is left: what was not committed is rolled back.
        await ctx.close_handle(TRANSACTIONS, transaction_id, after_work=True)
    return "saved" if answer.action == "accept" else "undone, because the user declined"


if __name__ == "__main__":
    run_stdio(router)
