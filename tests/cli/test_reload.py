"""`serve --reload` as a program of its own, with real processes, hence in real time."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.cli.programs import HttpClient, Program, running
from trio_mcp_session.cli.command import main
from trio_mcp_session.cli.reload import Reloader
from trio_mcp_session.cli.source_files import SourceFiles

SERVER = """
import trio
from trio_mcp_session import Router

router = Router("toy")

@router.tool()
async def version() -> str:
    return "{version}"
"""


def write(folder: Path, version: str) -> None:
    (folder / "toy.py").write_text(SERVER.format(version=version), "utf-8")


@asynccontextmanager
async def serving(folder: Path, *options: str) -> AsyncIterator[Program]:
    write(folder, "one")
    command = ["-m", "trio_mcp_session", "serve", "toy:router", "--reload", *options]
    async with running(command, folder) as program:
        assert await program.stderr.next() == (
            f"trio_mcp_session: restarting at changes of Python files in {folder}"
        )
        yield program


async def version_of(line: str) -> str:
    """Ask a server for its version, in a new session."""
    client = await HttpClient.connect(line)
    async with client.wire:
        await client.initialize()
        return await client.call("version")


async def test_a_change_restarts_the_server_on_the_same_socket(tmp_path: Path) -> None:
    async with serving(tmp_path, "--http", "0") as program:
        told = await program.stderr.until("listening on")
        assert await version_of(told) == "one"
        write(tmp_path, "two")
        await program.stderr.until("toy.py has changed; restarting the server")
        assert await program.stderr.until("listening on") == told
        assert await version_of(told) == "two"
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


async def test_clients_of_a_broken_application_wait_until_it_is_mended(tmp_path: Path) -> None:
    async with serving(tmp_path, "--http", "0") as program:
        told = await program.stderr.until("listening on")
        (tmp_path / "toy.py").write_text("no Python", "utf-8")
        await program.stderr.until("SyntaxError")
        await program.stderr.until("has ended with status 1; a change starts it again")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_version, told, "two")
            # Its connection is in the queue of the socket.
            await trio.sleep(0.2)
            write(tmp_path, "two")
        program.process.send_signal(signal.SIGINT)
        assert await program.wait() == 0


async def wait_for_version(told: str, expected: str) -> None:
    assert await version_of(told) == expected


async def test_a_signal_while_no_server_runs(tmp_path: Path) -> None:
    async with serving(tmp_path, "--tcp", "0") as program:
        await program.stderr.until("listening on tcp")
        (tmp_path / "toy.py").write_text("no Python", "utf-8")
        await program.stderr.until("has ended with status 1")
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 1


async def test_the_server_drains_when_the_process_that_restarts_it_is_killed(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, "--tcp", "0") as program:
        await program.stderr.until("listening on tcp")
        program.process.kill()
        await program.stderr.until("SIGTERM: draining")
        assert await program.stderr.rest() == []


async def test_an_address_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        command = ["-m", "trio_mcp_session", "serve", "toy:router", "--reload", "--http", address]
        async with running(command, tmp_path) as program:
            told = await program.stderr.next()
            assert told.startswith(f"trio_mcp_session: cannot listen on http {address}: ")
            assert await program.wait() == 1


def test_standard_input_is_not_served(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--stdio", "--http", "0"]):
        assert main(["serve", "toy:router", "--reload", *more]) == 2
        assert "--reload cannot serve standard input and output" in capsys.readouterr().err


# The process that restarts, with programs that need no time to start.

IGNORES = """
import os, signal, sys, time
count = 0
def on_signal(number, frame):
    global count
    count += 1
    if count == {ends}:
        os._exit({status})
signal.signal(signal.SIGTERM, on_signal)
print("ready", flush=True)
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize(
    "signals, ends, status, expected",
    [
        ([signal.SIGINT], 1, 0, 0),
        ([signal.SIGHUP, signal.SIGHUP, signal.SIGINT], 2, 143, 130),
        ([signal.SIGTERM, signal.SIGTERM], 2, 143, 143),
        ([signal.SIGINT], 1, 7, 7),
    ],
)
async def test_signals_are_counted_and_passed_on(
    signals: list[signal.Signals], ends: int, status: int, expected: int, tmp_path: Path
) -> None:
    program = (
        "import sys, trio\n"
        "from pathlib import Path\n"
        "from trio_mcp_session.cli.reload import Reloader\n"
        "from trio_mcp_session.cli.source_files import SourceFiles\n"
        f"command = [sys.executable, '-c', {IGNORES.format(ends=ends, status=status)!r}]\n"
        "reloader = Reloader(command, SourceFiles(Path('.')), [], print)\n"
        "sys.exit(trio.run(reloader.run))\n"
    )
    async with running(["-c", program], tmp_path) as it:
        assert await it.stdio.lines.next() == "ready"
        for number in signals:
            it.process.send_signal(number)
            await trio.sleep(0.2)
        assert await it.process.wait() == expected


# In this process, with a server that only says that it has started.

STARTS = """
import signal, time
{before}
open("started", "a").write("x")
time.sleep(60)
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


class Restarted:
    """A `Reloader` in this process."""

    def __init__(self, folder: Path, before: str = "") -> None:
        self.folder = folder
        self.said: list[str] = []
        program = STARTS.format(before=before).replace('"started"', repr(str(folder / "started")))
        command = [sys.executable, "-S", "-c", program]
        self.reloader = Reloader(command, SourceFiles(folder), [], self.said.append)

    async def wait_started(self, times: int) -> None:
        path = self.folder / "started"
        with trio.fail_after(20):  # noqa: ASYNC912
            while not path.exists() or len(path.read_bytes()) < times:  # noqa: ASYNC110, ASYNC240
                await trio.sleep(0.01)


async def test_a_server_that_does_not_end_is_killed_for_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_mcp_session.cli.reload.RESTART_GRACE", 0.05)
    monkeypatch.setattr("trio_mcp_session.cli.reload.CANCEL_GRACE", 0.05)
    it = Restarted(tmp_path, DEAF)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.reloader.run)
        await it.wait_started(1)
        (tmp_path / "new.py").touch()
        await it.wait_started(2)
        assert it.said == ["new.py has changed; restarting the server"]
        nursery.cancel_scope.cancel()


async def test_when_cancelled_it_kills_the_server(tmp_path: Path) -> None:
    it = Restarted(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.reloader.run)
        await it.wait_started(1)
        process = it.reloader._process
        nursery.cancel_scope.cancel()
    assert process is not None
    assert process.returncode == -signal.SIGKILL


async def test_a_signal_while_the_server_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no signal handlers yet, so nothing was served: a clean end."""
    open_process = trio.lowlevel.open_process

    async def interrupted(*args: Any, **kwargs: Any) -> trio.Process:
        signal.raise_signal(signal.SIGINT)
        await wait_all_tasks_blocked()
        return await open_process(*args, **kwargs)

    monkeypatch.setattr(trio.lowlevel, "open_process", interrupted)
    it = Restarted(tmp_path)
    with trio.fail_after(20):
        assert await it.reloader.run() == 0
