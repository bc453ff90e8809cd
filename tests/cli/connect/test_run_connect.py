"""`connect` as a program of its own, between real pipes and real servers."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.connect.peers import MODERN
from tests.cli.programs import SERVE, Connection, Program, running, serving, write_toy
from trio_mcp_session.cli import command
from trio_mcp_session.cli.connect import run_connect
from trio_mcp_session.cli.connect.host_ending import HostEnding
from trio_mcp_session.cli.connect.run_connect import _Stop
from trio_mcp_session.cli.failure import CommandFailed

CONNECT = ["-m", "trio_mcp_session", "connect"]


def connecting(folder: Path, address: str, *options: str) -> Any:
    """A bridge, for the length of a block."""
    return running([*CONNECT, address, *options], folder)


def start_of(listen: str, unused: str = "0.3") -> list[str]:
    """Options that start the toy, which ends some seconds after its last client."""
    serve = shlex.join([sys.executable, *SERVE, *listen.split(), "--end-when-unused", unused])
    return ["--start", serve, "--start-log", "server.txt"]


def pids_of(text: str) -> list[int]:
    """The processes with a text in their command line."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                line = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ")
                if text.encode() in line:
                    found.append(int(entry))
    return found


async def wait_gone(text: str) -> None:
    while pids_of(text):  # noqa: ASYNC110  # they are processes
        await trio.sleep(0.01)


async def use(client: Connection, name: str) -> None:
    """Use the toy in both eras."""
    await client.initialize(name)
    await client.call("echo", text=name)
    assert await client.text() == name
    await client.send(
        "tools/call", {"_meta": MODERN, "name": "echo", "arguments": {"text": "m"}}, 2
    )
    assert await client.text() == "m"


@pytest.mark.parametrize(
    "listen, form",
    [
        ("--unix s.sock", r"unix (.*)"),
        ("--tcp 0", r"tcp (.*)"),
        ("--http 0", r"(http://.*)"),
        ("--http unix:s.sock", r"http\+(unix):"),
    ],
)
async def test_both_eras_are_carried_to_every_kind_of_address(
    listen: str, form: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, *listen.split()) as server:
        told = re.search(form, await server.stderr.next())
        assert told is not None
        kind = form.partition(" ")[0] + ":"
        addresses = {"(http://.*):": told[1], r"http\+(unix)::": "http+unix:s.sock"}
        address = addresses.get(kind, kind + told[1])
        async with connecting(tmp_path, address) as bridge:
            await use(bridge.stdio, "ada")
            await bridge.stdio.sink.aclose()
            assert await bridge.stdio.lines.rest() == []
            assert await bridge.stderr.rest() == []
            assert await bridge.wait() == 0
        assert (await server.stderr.until("ended")).endswith("ada, client closed")


async def test_bridges_that_start_at_once_start_one_server_which_ends_after_them(
    tmp_path: Path,
) -> None:
    write_toy(tmp_path)
    path = str(tmp_path / "shared.sock")
    options = start_of(f"--unix {path}")

    served, all_served = 0, trio.Event()

    async def be_a_host(name: str) -> None:
        nonlocal served
        async with connecting(tmp_path, f"unix:{path}", *options) as bridge:
            await use(bridge.stdio, name)
            served += 1
            if served == 3:
                all_served.set()
            await all_served.wait()
            await leave(bridge)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(be_a_host, str(number))
    await wait_gone(f"--unix {path}")
    told = (tmp_path / "server.txt").read_text("utf-8")
    assert told.count("listening on") == 1
    assert told.count("opened: ") == told.count("client closed") == 3
    assert "another process listens" not in told
    assert "no client for 0.3 s; the server ends" in told
    assert sorted(name for name in os.listdir(tmp_path) if "shared" in name) == []


async def use_and_leave(bridge: Program, name: str) -> None:
    await use(bridge.stdio, name)
    await leave(bridge)


async def leave(bridge: Program) -> None:
    await bridge.stdio.sink.aclose()
    assert await bridge.stderr.rest() == []
    assert await bridge.wait() == 0


SLOW = """
import os, time
while not os.path.exists("go"):
    time.sleep(0.01)
"""


async def test_the_server_of_a_bridge_that_was_killed_meanwhile_serves_the_next_one(
    tmp_path: Path,
) -> None:
    write_toy(tmp_path)
    with (tmp_path / "toy.py").open("a", encoding="utf-8") as toy:
        toy.write(SLOW)
    path = str(tmp_path / "shared.sock")
    options = start_of(f"--unix {path}", "600")
    async with connecting(tmp_path, f"unix:{path}", *options) as first:
        while not (tmp_path / "server.txt").exists():  # noqa: ASYNC110  # made by a process
            await trio.sleep(0.01)
        first.process.kill()
        await first.wait()
        async with connecting(tmp_path, f"unix:{path}", *options) as second:
            await trio.sleep(0.2)  # It must not start another one.
            (tmp_path / "go").touch()
            await use_and_leave(second, "ada")
    (server,) = pids_of(f"--unix {path}")
    os.kill(server, signal.SIGTERM)
    await wait_gone(f"--unix {path}")
    assert (tmp_path / "server.txt").read_text("utf-8").count("listening on") == 1
    assert "shared.sock" not in os.listdir(tmp_path)


async def test_a_server_over_http_is_started_again_when_it_is_needed_again(tmp_path: Path) -> None:
    write_toy(tmp_path)
    path = str(tmp_path / "h.sock")
    options = start_of(f"--http unix:{path}")
    async with connecting(tmp_path, f"http+unix:{path}", *options) as bridge:
        params = {"_meta": MODERN, "name": "echo", "arguments": {"text": "m"}}
        for _ in range(2):
            await bridge.stdio.send("tools/call", params, 2)
            assert await bridge.stdio.text() == "m"
            while os.path.exists(path):  # noqa: ASYNC110, ASYNC240  # it has no session, and ends
                await trio.sleep(0.01)
        (tmp_path / "toy.py").unlink()
        await bridge.stdio.send("tools/call", params, 2)
        failed = await bridge.stdio.receive()
        assert "cannot connect to the server" in failed["error"]["message"]
        await bridge.stdio.sink.aclose()
        assert "ended with status 2" in await bridge.stderr.next()
        assert await bridge.wait() == 0


async def test_a_server_that_is_absent_is_exit_status_3(tmp_path: Path) -> None:
    async with connecting(tmp_path, "unix:missing.sock") as bridge:
        assert await bridge.stdio.lines.rest() == []
        assert "cannot connect to unix:missing.sock: " in await bridge.stderr.next()
        assert await bridge.wait() == 3


async def test_an_absent_server_over_http_is_an_error_for_each_request(tmp_path: Path) -> None:
    async with connecting(tmp_path, "http+unix:missing.sock") as bridge:
        answer = await bridge.stdio.initialize()
        assert "cannot connect to the server" in answer["error"]["message"]
        await bridge.stdio.sink.aclose()
        assert await bridge.wait() == 0


async def test_a_server_that_is_killed_is_exit_status_4(tmp_path: Path) -> None:
    async with serving(tmp_path, "--unix", "s.sock") as server:
        await server.stderr.next()
        async with connecting(tmp_path, "unix:s.sock") as bridge:
            await bridge.stdio.initialize()
            server.process.kill()
            assert await bridge.stdio.lines.rest() == []
            told = await bridge.stderr.next()
            assert told == "trio_mcp_session: the server has closed the connection"
            assert await bridge.wait() == 4


@pytest.mark.parametrize(
    "listen, address", [("--unix", "unix:s.sock"), ("--http", "http+unix:s.sock")]
)
async def test_a_bridge_that_is_killed_leaves_nothing_but_what_has_a_clock(
    listen: str, address: str, tmp_path: Path
) -> None:
    path = "unix:s.sock" if listen == "--http" else "s.sock"
    async with serving(
        tmp_path, listen, path, "--max-idle-time", "0.3", "--cleanup-interval", "0.1"
    ) as server:
        await server.stderr.next()
        async with connecting(tmp_path, address) as bridge:
            await use(bridge.stdio, "ada")
            bridge.process.kill()
            assert await bridge.wait() == -signal.SIGKILL
            ended = await server.stderr.until("ended")
        assert ended.endswith("ada, idle" if listen == "--http" else "ada, client closed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    "listen, address", [("--unix", "unix:s.sock"), ("--http", "http+unix:s.sock")]
)
async def test_a_signal_ends_bridge_and_session(
    number: signal.Signals, listen: str, address: str, tmp_path: Path
) -> None:
    path = "unix:s.sock" if listen == "--http" else "s.sock"
    async with serving(tmp_path, listen, path) as server:
        await server.stderr.next()
        async with connecting(tmp_path, address) as bridge:
            await bridge.stdio.initialize("ada")
            bridge.process.send_signal(number)
            assert await bridge.wait() == 0
        assert (await server.stderr.until("ended")).endswith("ada, client closed")


async def test_what_the_server_does_not_finish_is_said(tmp_path: Path) -> None:
    async with serving(tmp_path, "--http", "unix:s.sock") as server:
        await server.stderr.next()
        async with connecting(tmp_path, "http+unix:s.sock", "--drain-grace", "0.01") as bridge:
            await bridge.stdio.initialize()
            await bridge.stdio.call("wait_for", name="missing")
            await bridge.stdio.sink.aclose()
            assert "--drain-grace" in await bridge.stderr.next()
            assert await bridge.wait() == 0


async def test_a_token_goes_to_the_server(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a-token-of-the-test ada\n", "utf-8")
    (tmp_path / "token").write_text("a-token-of-the-test\n", "utf-8")
    options = ["--http", "unix:s.sock", "--token-file", "tokens"]
    sized = ["--token-file", "token", "--max-message-size", "100000"]
    async with serving(tmp_path, *options) as server:
        await server.stderr.next()
        async with connecting(tmp_path, "http+unix:s.sock") as bridge:
            refused = await bridge.stdio.initialize()
            assert "error" in refused
        async with connecting(tmp_path, "http+unix:s.sock", *sized) as bridge:
            await use_and_leave(bridge, "ada")


# Wrong usage, and what does not need a process.


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["nowhere"], "must be unix:PATH"),
        (["unix:x", "--drain-grace", "soon"], "must be a number of seconds, not 'soon'"),
        (["unix:x", "--start-timeout", "-1"], "must be a number of seconds, not '-1'"),
        (["unix:x", "--max-message-size", "0"], "must be a number of bytes, not '0'"),
        (["unix:x", "--start", "'"], "No closing quotation"),
        (["unix:x", "--start", " "], "must be a command, not empty"),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["connect", *arguments])
    assert told in capsys.readouterr().err


def options_of(*arguments: str) -> argparse.Namespace:
    return command.make_parser().parse_args(["connect", *arguments])


@pytest.mark.parametrize(
    "arguments, status, told",
    [
        (["unix:x", "--token-file", "t"], 2, "--token-file is for an address of HTTP"),
        (["unix:x", "--start-log", "l"], 2, "--start-log is for --start"),
        (["http://x.test", "--token-file", "/missing"], 1, "cannot read /missing: No such file"),
        (["http://x.test", "--token-file", os.devnull], 1, "must have one token"),
        (["http://x.test", "--token-file", "two"], 1, "must have one token"),
        (["http://x.test", "--token-file", "latin"], 1, "must have one token"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    arguments: list[str], status: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two").write_text("one two", "utf-8")
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(CommandFailed, match=told) as raised:
        run_connect.run(options_of(*arguments))
    assert raised.value.status == status


async def test_standard_input_that_is_closed_is_named(tmp_path: Path) -> None:
    script = f"exec {shlex.quote(sys.executable)} -m trio_mcp_session connect unix:x <&-"
    process = await trio.run_process(
        ["sh", "-c", script], capture_stderr=True, check=False, cwd=tmp_path
    )
    assert process.returncode == 1
    assert b"connect needs standard input and output: " in process.stderr


WITHOUT_CLIENT = """
import sys
sys.modules["httpx2"] = None
from trio_mcp_session.cli.command import main
raise SystemExit(main(["connect", *sys.argv[1:]]))
"""


async def test_only_an_address_of_http_needs_the_extra(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_CLIENT, "utf-8")
    async with running([str(script), "http://x.test"], tmp_path) as bridge:
        assert "An address of HTTP needs the extra 'connect'" in await bridge.stderr.next()
        assert await bridge.wait() == 1
    async with running([str(script), "unix:missing"], tmp_path) as bridge:
        assert await bridge.wait() == 3


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in run_connect._signals()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP in run_connect._signals()


class FakeBridge:
    stopped = 0

    async def run(self) -> HostEnding:
        raise NotImplementedError  # pragma: no cover

    def stop(self) -> None:
        self.stopped += 1


@asynccontextmanager
async def stopping(
    *numbers: int,
) -> AsyncIterator[tuple[_Stop, trio.CancelScope, trio.CancelScope]]:
    async def signals() -> AsyncIterator[int]:  # noqa: ASYNC900  # as those of Trio
        for number in numbers:
            yield number

    starting, everything = trio.CancelScope(), trio.CancelScope()
    stop = _Stop(starting, everything)
    await stop.wait(signals())
    yield stop, starting, everything


async def test_a_signal_during_the_start_cancels_it_and_a_bridge_made_meanwhile_ends() -> None:
    async with stopping(signal.SIGTERM, signal.SIGHUP) as (stop, starting, everything):
        assert starting.cancel_called
        assert not everything.cancel_called
        bridge = FakeBridge()
        stop.attach(bridge)
        assert bridge.stopped == 1
        assert stop.status == 0


async def test_a_second_signal_ends_everything() -> None:
    async with stopping(signal.SIGTERM, signal.SIGINT) as (stop, _, everything):
        assert everything.cancel_called
        assert stop.status == 128 + signal.SIGINT


def test_a_failure_of_the_program_itself_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: object) -> int:
        raise ExceptionGroup("many", [RuntimeError("a bug")])

    monkeypatch.setattr(run_connect, "_run", crash)
    monkeypatch.setattr(run_connect, "prepare_process", lambda **_: None)
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a bug")):
        run_connect.run(options_of("unix:x"))
