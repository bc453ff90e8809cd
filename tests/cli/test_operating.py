"""What operators ask of a real server: to end with its terminal, why it hangs, and its log."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import assert_never

from tests.cli.programs import BOTH, SERVE, HttpClient, Program, Way, running

HUP, TERM, USR1 = signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1


SERVER = """
import logging, signal, sys, time
import trio
from trio_mcp_session import RequestContext, Router, current_session, run_http, run_stdio

router = Router("toy", "1")


@router.tool()
async def wait_for(ctx: RequestContext, name: str) -> str:
    print("begun", file=sys.stderr, flush=True)
    while not await trio.Path(name).exists():
        await trio.sleep(0.01)
    return "it is there"


@router.tool()
async def block(ctx: RequestContext, name: str) -> str:
    import pathlib
    print("begun", file=sys.stderr, flush=True)
    while not pathlib.Path(name).exists():
        time.sleep(0.01)
    return "it is there"


@router.tool()
async def log(ctx: RequestContext, text: str) -> str:
    logging.getLogger("application").info("%s", text)
    return "logged"


@router.tool()
async def fail(ctx: RequestContext) -> str:
    raise ValueError("a detail")


if __name__ == "__main__":
    if sys.argv[1] == "reload":
        signal.signal(signal.SIGHUP, lambda *_: print("reloaded", file=sys.stderr, flush=True))
    if sys.argv[1] == "http":
        run_http(router, "127.0.0.1:0", log_format="json", report_tasks=True)
    else:
        options = {} if sys.argv[1] == "plain" else {"log_level": "info", "log_format": "text"}
        run_stdio(router, report_tasks=True, **options)
"""


@asynccontextmanager
async def server(way: Way, folder: Path, *options: str, before: str = "") -> AsyncIterator[Program]:
    """Run a server; ``before`` is shell code that runs before its command."""
    (folder / "toy.py").write_text(SERVER, "utf-8")
    match way:
        case "serve":
            command = [*SERVE, "--report-tasks", *options]
        case "run_stdio":
            command = ["toy.py", *(options or ["stdio"])]
        case _:  # pragma: no cover  # there is no other
            assert_never(way)
    if before:
        start = f"['sh', '-c', {before!r}, 'sh', sys.executable] + sys.argv[1:]"
        command = ["-c", f"import os, sys; os.execv('/bin/sh', {start})", *command]
    async with running(command, folder) as program:
        await program.stdio.initialize()
        yield program


# SIGHUP.


@BOTH
async def test_sighup_drains_the_server(way: Way, tmp_path: Path) -> None:
    async with server(way, tmp_path) as program:
        await program.stdio.call("wait_for", name="go")
        await program.stderr.until("begun")
        program.process.send_signal(HUP)
        await program.stderr.until("SIGHUP: draining for up to 3 s")
        # A terminal that closes sends it again: that cancels nothing.
        program.process.send_signal(HUP)
        program.process.send_signal(HUP)
        (tmp_path / "go").touch()
        assert await program.stdio.text() == "it is there"
        assert await program.wait() == 0


async def test_sighup_drains_an_http_server(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(SERVER, "utf-8")
    command = [*SERVE, "--http", "0", "--retire-grace", "1000"]
    async with running(command, tmp_path) as program:
        told = await program.stderr.until("listening on")
        client = await HttpClient.connect(told)
        async with client.wire:
            await client.initialize()
            program.process.send_signal(HUP)
            await program.stderr.until("SIGHUP: retiring for up to 1000 s, then draining")
            assert await client.call("log", text="still served") == "logged"
            # A signal of another kind is the second one.
            program.process.send_signal(TERM)
        assert await program.wait() == 128 + TERM


@BOTH
async def test_sighup_is_ignored_under_nohup(way: Way, tmp_path: Path) -> None:
    async with server(way, tmp_path, before="trap '' HUP; exec \"$@\"") as program:
        program.process.send_signal(HUP)
        await program.stdio.call("log", text="still served")
        assert await program.stdio.text() == "logged"
        program.process.send_signal(TERM)
        assert await program.wait() == 0
        assert not any("SIGHUP" in line for line in await program.stderr.rest())


async def test_a_sighup_handler_of_the_program_stays(tmp_path: Path) -> None:
    async with server("run_stdio", tmp_path, "reload") as program:
        program.process.send_signal(HUP)
        await program.stderr.until("reloaded")
        await program.stdio.call("log", text="still served")
        assert await program.stdio.text() == "logged"


# SIGUSR1.


@BOTH
async def test_the_tree_of_tasks_on_request(way: Way, tmp_path: Path) -> None:
    async with server(way, tmp_path) as program:
        await program.stdio.call("wait_for", name="go")
        await program.stderr.until("begun")
        program.process.send_signal(USR1)
        assert "WARNING SIGUSR1: all tasks:" in await program.stderr.until("SIGUSR1")
        line = await program.stderr.until("tools/call")
        place = r"wait_for \(toy\.py:\d+\)"
        assert re.fullmatch(
            rf" +tools/call, request 1, tool 'wait_for', for \d+\.\d s, at {place}", line
        )
        (tmp_path / "go").touch()
        assert await program.stdio.text() == "it is there"
        program.process.send_signal(TERM)
        assert await program.wait() == 0


@BOTH
async def test_the_tree_of_tasks_while_the_loop_is_blocked(way: Way, tmp_path: Path) -> None:
    """A thread writes it, and the watch has said before what blocks the loop."""
    async with server(way, tmp_path) as program:
        await program.stdio.call("block", name="go")
        line = await program.stderr.until("the event loop has been blocked for")
        assert re.search(
            r"by task 'tools/call' in block \(toy\.py:\d+\); nothing else runs until", line
        )
        assert re.search(r"\[tools/call 1, session [0-9a-f]{8}\]$", line)
        program.process.send_signal(USR1)
        await program.stderr.until("SIGUSR1: the event loop did not answer within 1 s; all tasks:")
        line = await program.stderr.until("tools/call, request 1, tool 'block'")
        assert re.search(r": runs now in block \(toy\.py:\d+\)$", line)
        (tmp_path / "go").touch()
        assert await program.stdio.text() == "it is there"
        line = await program.stderr.until("the event loop runs again")
        assert "by task 'tools/call' in block (toy.py:" in line


async def test_the_tree_of_tasks_without_any_log(tmp_path: Path) -> None:
    async with server("serve", tmp_path, "--log-level", "error") as program:
        program.process.send_signal(USR1)
        assert await program.stderr.next() == "trio_mcp_session: SIGUSR1: all tasks:"
        assert (await program.stderr.next()).startswith("    <init>, for ")


async def test_without_the_option_the_signal_has_its_usual_effect(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(SERVER, "utf-8")
    async with running(SERVE, tmp_path) as program:
        await program.stdio.initialize()
        program.process.send_signal(USR1)
        assert await program.wait() == -USR1


# The log.


async def test_the_log_of_the_command_as_json(tmp_path: Path) -> None:
    options = ["--log-format", "json", "--log-level", "debug"]
    async with server("serve", tmp_path, *options) as program:
        await program.stdio.call("log", 7, text="told\nby a handler")
        assert await program.stdio.text() == "logged"
        await program.stdio.call("fail", 8)
        assert (await program.stdio.receive())["result"]["isError"]
        program.process.send_signal(USR1)
        await program.stderr.until("SIGUSR1")
        program.process.send_signal(TERM)
        assert await program.wait() == 0
        rest = await program.stderr.rest()
    for line in rest:
        assert json.loads(line)["level"] in ("DEBUG", "INFO", "WARNING")


async def test_records_as_json_name_session_request_and_method(tmp_path: Path) -> None:
    async with server("serve", tmp_path, "--log-format", "json") as program:
        opened = json.loads(await program.stderr.until("opened"))
        await program.stdio.call("log", 7, text="told\nby a handler")
        assert await program.stdio.text() == "logged"
        told = json.loads(await program.stderr.until("by a handler"))
        await program.stdio.call("fail", 8)
        assert (await program.stdio.receive())["result"]["isError"]
        crash = json.loads(await program.stderr.until("a detail"))
        program.process.send_signal(TERM)
        assert await program.wait() == 0
    session = opened["session"]
    assert opened["message"].startswith(f"connection {session} opened: ")
    assert told["message"] == "told\nby a handler"
    assert told["logger"] == "application"
    for record, number in ((told, 7), (crash, 8)):
        assert (record["session"], record["request_id"]) == (session, number)
        assert record["method"] == "tools/call"
    assert crash["exception"].endswith("ValueError: a detail")


async def test_the_log_of_run_http_as_json(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(SERVER, "utf-8")
    async with running(["toy.py", "http"], tmp_path) as program:
        told = json.loads(await program.stderr.next())["message"]
        client = await HttpClient.connect(told)
        async with client.wire:
            await client.initialize()
            assert await client.call("log", text="told") == "logged"
            record = json.loads(await program.stderr.until("told"))
            assert (record["method"], record["request_id"]) == ("tools/call", 1)
            assert re.fullmatch(r"[0-9a-f]{8}", record["session"])
        program.process.send_signal(TERM)
        assert await program.wait() == 0
        rest = await program.stderr.rest()
    assert all(json.loads(line) for line in rest)


async def test_addresses_are_records_where_the_log_is_json(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(SERVER, "utf-8")
    async with running([*SERVE, "--tcp", "0", "--log-format", "json"], tmp_path) as program:
        assert json.loads(await program.stderr.next())["message"].startswith("listening on tcp ")


async def test_run_stdio_leaves_logging_as_it_is_without_options(tmp_path: Path) -> None:
    async with server("run_stdio", tmp_path, "plain") as program:
        await program.stdio.call("log", text="not shown")
        assert await program.stdio.text() == "logged"
        await program.stdio.sink.aclose()
        assert await program.wait() == 0
        assert await program.stderr.rest() == []
