"""The recipes: each does what its first line says, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import json
import logging
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from trio_mcp_session import LogContextFilter, McpError, SessionConfig, open_session_manager
from trio_mcp_session.testing import Client, check_leaks, connect_client, modern

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"


def load(name: str) -> ModuleType:
    """Run a recipe as a module of its own, so that a test may change what it holds."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def client_of(recipe: ModuleType, answer: str | None = None) -> AsyncIterator[Client[Any]]:
    config: SessionConfig | None = getattr(recipe, "CONFIG", None)

    async def decide(_: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"action": answer, "content": {}}

    async with check_leaks(), open_session_manager(recipe.router, config=config) as manager:
        async with connect_client(manager, elicit=decide if answer else None) as client:
            yield client


async def text_of(client: Client[Any], tool: str, **arguments: Any) -> str:
    return (await client.call_tool(tool, arguments)).text


async def test_a_shell_keeps_its_directory_and_variables_between_calls() -> None:
    async with client_of(load("shell")) as client:
        opened = (await client.call_tool("start_shell")).structured or {}
        assert await text_of(client, "run_command", **opened, command="cd /; A=1") == "status 0"
        said = await text_of(client, "run_command", **opened, command="pwd; echo $A; false")
        assert said == "/\n1\nstatus 1"
        # A request without a session uses the same shell.
        call = {"name": "run_command", "arguments": {**opened, "command": "echo $A"}}
        result = await client.request("tools/call", modern(call))
        assert result["content"][0]["text"] == "1\nstatus 0"


async def test_a_shell_that_has_exited_says_so() -> None:
    async with client_of(load("shell")) as client:
        opened = (await client.call_tool("start_shell")).structured or {}
        said = await text_of(client, "run_command", **opened, command="exit")
        assert said == "the shell has exited: open another one"


async def test_a_command_that_prints_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load("shell")
    monkeypatch.setattr(recipe, "MAX_OUTPUT", 1000)
    async with client_of(recipe) as client:
        opened = (await client.call_tool("start_shell")).structured or {}
        said = await text_of(client, "run_command", **opened, command="seq 1000")
        assert said == "the command printed more than 1000 bytes"


async def test_a_command_that_takes_too_long_closes_its_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = load("shell")
    monkeypatch.setattr(recipe, "MAX_SECONDS", 0)
    async with client_of(recipe) as client:
        opened = (await client.call_tool("start_shell")).structured or {}
        answer = await client.call_tool("run_command", {**opened, "command": "cat"})
        assert answer.text.endswith("the shell is closed")
        answer = await client.call_tool("run_command", {**opened, "command": "true"})
        assert "has ended" in answer.text


@pytest.mark.parametrize("action,count", [("accept", 1), ("decline", 0)])
async def test_a_transaction_is_saved_only_if_the_user_agrees(
    action: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load("transaction")
    path = tmp_path / "shop.db"
    monkeypatch.setattr(recipe, "DATABASE", str(path))
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE orders (product)")
    async with client_of(recipe, answer=action) as client:
        opened = (await client.call_tool("begin_transaction")).structured or {}
        insert = {**opened, "sql": "INSERT INTO orders VALUES ('tea')"}
        answer = await client.call_tool("execute", insert)
        assert answer.structured == {"rows": [], "changed": 1}
        answer = await client.call_tool("execute", {**opened, "sql": "SELECT * FROM orders"})
        assert answer.structured == {"rows": [["tea"]], "changed": 0}
        answer = await client.call_tool("execute", {**opened, "sql": "SELEC"})
        assert answer.text.startswith("SQLite: ")
        said = await text_of(client, "commit", **opened)
        assert said.startswith("saved" if count else "undone")
        assert (await client.call_tool("commit", opened)).is_error
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM orders").fetchone() == (count,)
    database.close()


async def test_rates_and_a_budget_for_each_user(autojump_clock: object) -> None:
    recipe = load("rate_limit")
    recipe.spent["ada", recipe.dt.date(2020, 1, 1)] = 7
    async with client_of(recipe) as client:
        assert await text_of(client, "translate", text="tea") == "TEA"
        assert len(recipe.spent) == 1
        said = await text_of(client, "translate", text="x" * 98)
        assert said == "Your budget of 100 characters is used up until tomorrow"
        for _ in range(8):
            await client.call_tool("translate", {"text": "x"})
        with pytest.raises(McpError, match="Too many requests") as caught:
            await client.call_tool("translate", {"text": "x"})
        assert caught.value.data == {"retryAfter": 2}
        await trio.sleep(2)
        assert await text_of(client, "translate", text="x") == "X"


async def test_timing_counts_calls_failures_and_seconds(
    autojump_clock: object, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load("timing")
    async with client_of(recipe) as client:
        await client.call_tool("look_up", {"word": "tea"})
        monkeypatch.setattr(recipe, "SLOW", 0.01)
        await client.call_tool("look_up", {"word": "rice"})
        await client.call_tool("look_up", {})
        await client.request("tools/list")
        with pytest.raises(McpError, match="Unknown tool"):
            await client.call_tool("nothing")
        figures = (await client.call_tool("show_timing")).structured or {}
    assert figures.keys() == {"look_up"}
    assert figures["look_up"]["calls"] == 3
    assert figures["look_up"]["failed"] == 1
    assert figures["look_up"]["longest"] == pytest.approx(0.05)
    assert [record.message for record in caplog.records] == ["tool look_up took 0.1 s"]


async def test_records_of_the_server_say_in_which_request_they_were_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.handler.addFilter(LogContextFilter())
    caplog.set_level(logging.INFO, "shop")
    async with client_of(load("json_logs")) as client:
        assert await text_of(client, "order", product="tea") == "tea is on its way"
    (record,) = caplog.records
    assert record.mcp_method == "tools/call"  # type: ignore[attr-defined]  # of the filter


def test_the_log_of_the_program_is_json() -> None:
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "c", "version": "1"},
    }
    messages: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {
            "id": 2,
            "method": "tools/call",
            "params": {"name": "order", "arguments": {"product": "tea"}},
        },
    ]
    done = subprocess.run(
        [sys.executable, str(RECIPES / "json_logs.py")],
        input="".join(json.dumps({"jsonrpc": "2.0", **one}) + "\n" for one in messages),
        capture_output=True,
        text=True,
        check=True,
    )
    records = [json.loads(line) for line in done.stderr.splitlines()]
    (record,) = (one for one in records if one["logger"] == "shop")
    assert (record["message"], record["request_id"]) == ("ordered tea", 2)
    assert record["session"]
