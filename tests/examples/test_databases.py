"""The example of handles: clients of both eras, reconnects, eviction, expiry, and a thief."""

from __future__ import annotations

import importlib.util
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.examples.test_examples import EXAMPLES, HANG_GUARD, Program, running
from tests.examples.test_http_examples import HttpClient
from trio_mcp_session import (
    Principal,
    SessionKind,
    SessionManager,
    TerminationReason,
    open_session_manager,
)
from trio_mcp_session.testing import Client, ToolAnswer, check_leaks, connect_client

PREFIX = "io.modelcontextprotocol/"
MODERN = "2026-07-28"
META = {f"{PREFIX}protocolVersion": MODERN, f"{PREFIX}clientCapabilities": {}}
TABLE = "CREATE TABLE notes (text)"
INSERT = "INSERT INTO notes VALUES (?)"
SELECT = "SELECT text FROM notes ORDER BY rowid"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


def inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go, of this process and of those that it starts. None is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not inside(folder)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("databases", EXAMPLES / "databases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(result: Mapping[str, Any]) -> Any:
    """What a tool said: its value, or the text of its error."""
    if result.get("isError"):
        return result["content"][0]["text"]
    return result["structuredContent"]


@attrs.frozen
class ModernClient:
    """A client without a session, and with a connection for each request."""

    url: str
    token: str

    async def call(self, tool: str, **arguments: Any) -> Any:
        headers = {
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
        }
        client = HttpClient(self.url, self.token, more=headers)
        params = {"name": tool, "arguments": arguments, "_meta": META}
        return read((await client.ask("POST", id=1, method="tools/call", params=params)).result)


def serving() -> AbstractAsyncContextManager[Program]:
    tokens = ("--token", "ada=one", "--token", "bob=two")
    return running("databases.py", "--http", "127.0.0.1:0", *tokens)


async def stop(program: Program) -> None:
    program.process.send_signal(signal.SIGTERM)
    assert await program.process.wait() == 0
    assert b"Traceback" not in program.said


async def test_a_modern_client_that_reconnects_for_each_request(folder: Path) -> None:
    async with serving() as program:
        ada = ModernClient(await program.wait_said("listening on "), "one")
        database_id = (await ada.call("open_database", statements=[TABLE]))["database_id"]
        assert database_id.startswith("db_")
        assert len(inside(folder)) == 1

        # Even a transaction lasts from one connection to the next.
        for sql, values in [("BEGIN", []), (INSERT, ["kept"]), ("COMMIT", []), ("BEGIN", [])]:
            told = await ada.call("execute", database_id=database_id, sql=sql, values=values)
            assert told == {"rows": []}
        await ada.call("execute", database_id=database_id, sql=INSERT, values=["taken back"])
        await ada.call("execute", database_id=database_id, sql="ROLLBACK")
        told = await ada.call("execute", database_id=database_id, sql=SELECT)
        assert told == {"rows": [["kept"]]}

        # One left open is closed when the program ends.
        other_id = (await ada.call("open_database", statements=[]))["database_id"]
        listed = (await ada.call("list_databases"))["databases"]
        assert [one["database_id"] for one in listed] == [database_id, other_id]
        assert await ada.call("close_database", database_id=database_id) == {"closed": True}
        assert await ada.call("close_database", database_id=database_id) == {"closed": False}
        assert len(inside(folder)) == 1
        await stop(program)


@pytest.mark.usefixtures("folder")
async def test_a_second_principal_finds_nothing() -> None:
    async with serving() as program:
        url = await program.wait_said("listening on ")
        ada, bob = ModernClient(url, "one"), ModernClient(url, "two")
        database_id = (await ada.call("open_database", statements=[TABLE]))["database_id"]

        async def complaint(client: ModernClient, named: str) -> str:
            told = await client.call("execute", database_id=named, sql="DROP TABLE notes")
            assert named in told
            return str(told).replace(named, "...")

        # As if it had never been.
        unknown = "db_" + len(database_id[3:]) * "A"
        assert await complaint(bob, database_id) == await complaint(bob, unknown)
        assert await bob.call("close_database", database_id=database_id) == {"closed": False}
        assert await bob.call("list_databases") == {"databases": []}
        refused = await HttpClient(url, "three").ask("POST", id=1, method="server/discover")
        assert refused.status == 401

        told = await ada.call("execute", database_id=database_id, sql=SELECT)
        assert told == {"rows": []}
        await stop(program)


@pytest.mark.usefixtures("folder")
async def test_what_one_era_opened_the_other_uses() -> None:
    async with serving() as program:
        url = await program.wait_said("listening on ")
        ada, session = ModernClient(url, "one"), HttpClient(url, "one")
        await session.open()

        async def call(tool: str, **arguments: Any) -> Any:
            params = {"name": tool, "arguments": arguments}
            answer = await session.ask("POST", id=1, method="tools/call", params=params)
            return read(answer.result)

        database_id = (await call("open_database", statements=[TABLE]))["database_id"]
        await ada.call("execute", database_id=database_id, sql=INSERT, values=["milk"])
        assert await call("execute", database_id=database_id, sql=SELECT) == {"rows": [["milk"]]}

        # It outlives the session in which it was opened.
        assert (await session.ask("DELETE")).status == 204
        told = await ada.call("execute", database_id=database_id, sql=SELECT)
        assert told == {"rows": [["milk"]]}
        await stop(program)


async def test_a_legacy_client_over_pipes(folder: Path) -> None:
    async with running("databases.py") as program:
        client = program.client
        await client.shake_hands("test")
        tools = {tool["name"]: tool for tool in (await client.request("tools/list"))["tools"]}
        assert sorted(tools) == ["close_database", "execute", "list_databases", "open_database"]
        # The model reads there how long it has.
        assert (
            "Expires after 30 minutes without use, and 1 day after it was opened at the latest."
            in tools["open_database"]["description"]
        )

        opened = [await client.call("open_database", statements=[TABLE]) for _ in range(2)]
        ids = [one["database_id"] for one in opened]
        for database_id in ids:
            await client.call("execute", database_id=database_id, sql=INSERT, values=[database_id])
        for database_id in ids:
            told = await client.call("execute", database_id=database_id, sql=SELECT)
            assert told == {"rows": [[database_id]]}
        listed = (await client.call("list_databases"))["databases"]
        assert [one["database_id"] for one in listed] == ids
        assert await client.call("close_database", database_id=ids[0]) == {"closed": True}
        assert "has ended (requested); open another" in await client.call(
            "execute", database_id=ids[0], sql=SELECT
        )

        # A handle that was not closed ends with the connection.
        assert len(inside(folder)) == 1
        assert await program.leave() == 0
    assert not program.said


# In this process: with a clock that stands still, and what happens inside in sight.


def handles(manager: SessionManager) -> set[str]:
    return {one.session_id for one in manager.sessions() if one.kind is SessionKind.HANDLE}


async def opened(client: Client[Any]) -> str:
    result = await client.call_tool("open_database", {"statements": [TABLE]})
    assert result.structured is not None
    return str(result.structured["database_id"])


async def executed(client: Client[Any], database_id: str, sql: str, *values: Any) -> ToolAnswer:
    arguments = {"database_id": database_id, "sql": sql, "values": values}
    return await client.call_tool("execute", arguments)


async def test_one_more_replaces_ones_own(
    example: ModuleType, folder: Path, mock_clock: MockClock
) -> None:
    async with (
        check_leaks(),
        open_session_manager(example.router) as manager,
        connect_client(manager, principal=Principal("ada")) as ada,
        connect_client(manager, principal=Principal("bob")) as bob,
    ):
        strangers = await opened(bob)
        mine = [await opened(ada) for _ in range(example.DATABASES.max_per_principal)]
        mock_clock.jump(1)
        assert (await executed(ada, mine[0], SELECT)).structured == {"rows": []}
        newest = await opened(ada)
        # Gone is the one that was unused for longest, of the same principal.
        assert handles(manager) == {strangers, mine[0], *mine[2:], newest}
        assert len(inside(folder)) == 1 + len(mine)
        told = await executed(ada, mine[1], SELECT)
        assert told.is_error
        assert mine[1] in told.text
        assert not (await executed(bob, strangers, SELECT)).is_error


async def test_an_unused_database_handle_expires(
    example: ModuleType, folder: Path, mock_clock: MockClock
) -> None:
    async with check_leaks(), open_session_manager(example.router) as manager:
        connect = partial(connect_client, manager, principal=Principal("ada"))
        async with connect() as client:
            database_id = await opened(client)
        (session,) = manager.sessions()

        # Unused for not long enough, twice.
        for _ in range(2):
            mock_clock.jump(29 * 60)
            await wait_all_tasks_blocked()
            async with connect() as client:
                assert (await executed(client, database_id, SELECT)).structured == {"rows": []}

        mock_clock.jump(30 * 60 + manager.config.cleanup.cleanup_interval)
        assert await session.wait_terminated() is TerminationReason.IDLE
        assert not inside(folder)
        async with connect() as client:
            told = await executed(client, database_id, SELECT)
        assert told.is_error
        assert f"handle {database_id!r} has ended (idle)" in told.text


@pytest.mark.usefixtures("folder")
async def test_a_statement_that_is_cancelled_is_interrupted(example: ModuleType) -> None:
    with trio.fail_after(HANG_GUARD):
        async with (
            check_leaks(),
            open_session_manager(example.router) as manager,
            connect_client(manager) as client,
        ):
            database_id = await opened(client)
            arguments = {"database_id": database_id, "sql": ENDLESS}
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.call_tool, "execute", arguments)
                    await wait_all_tasks_blocked()
                    scope.cancel()
            # It would wait for its turn for ever.
            assert (await executed(client, database_id, SELECT)).structured == {"rows": []}


@pytest.mark.usefixtures("folder")
async def test_a_statement_that_takes_too_long_is_interrupted(
    example: ModuleType, mock_clock: MockClock
) -> None:
    async with (
        check_leaks(),
        open_session_manager(example.router, config=example.CONFIG) as manager,
        connect_client(manager) as client,
    ):
        database_id = await opened(client)
        arguments = {"database_id": database_id, "sql": ENDLESS}
        call = {"name": "execute", "arguments": arguments}
        pending = await client.start_request("tools/call", call)
        await wait_all_tasks_blocked()
        mock_clock.jump(30)
        # The model reads that, and not that SQLite was interrupted.
        result = await pending.wait()
        assert "took too long" in result["content"][0]["text"]
        assert (await executed(client, database_id, SELECT)).structured == {"rows": []}


@pytest.mark.usefixtures("folder")
async def test_an_interrupted_statement_is_a_cancelled_one(example: ModuleType) -> None:
    async with example.scratch_database([TABLE]) as database:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(database.execute, ENDLESS)
                await wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught


@pytest.mark.usefixtures("folder")
async def test_statements_stay_within_their_bounds(example: ModuleType, tmp_path: Path) -> None:
    async with (
        check_leaks(),
        open_session_manager(example.router) as manager,
        connect_client(manager) as client,
    ):
        database_id = await opened(client)
        elsewhere = tmp_path / "elsewhere.db"
        for sql, values in [
            (f"ATTACH '{elsewhere}' AS elsewhere", ()),
            (f"VACUUM INTO '{elsewhere}'", ()),
            ("PRAGMA max_page_count = 1000000", ()),
            ("SELECT zeroblob(10000000)", ()),
            ("SELECT ?", (2**70,)),
            ("nonsense", ()),
        ]:
            told = await executed(client, database_id, sql, *values)
            assert told.is_error
            assert told.text.startswith("SQLite: ")
        assert not elsewhere.exists()
        many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
        told = await executed(client, database_id, many)
        assert told.structured == {"rows": [[i] for i in range(1, example.MAX_ROWS + 1)]}
        refused = await client.call_tool("open_database", {"statements": ["nonsense"]})
        assert refused.is_error
        assert handles(manager) == {database_id}
