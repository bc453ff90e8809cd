"""`serve --workers`: several processes, and the process that starts them."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, final

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.cli.programs import HttpClient, Program, running
from tests.helpers import initialize, modern
from tests.transports.http.modern import headers_of
from trio_mcp_session.cli.command import main, make_parser
from trio_mcp_session.cli.workers import Supervisor, Worker, become_worker, parse_number

FILES = Path(__file__).parents[2] / "docs" / "deploy"

APP = """
import os
from trio_mcp_session import Elicitation, InputRequired, RequestContext, Router

router = Router("toy", "1.0")
SCHEMA = {"type": "object", "properties": {}}


@router.tool()
async def process() -> int:
    return os.getpid()


@router.tool()
async def ask(ctx: RequestContext) -> str | InputRequired:
    if ctx.request_state is None:
        return InputRequired(Elicitation("?", SCHEMA, key="one"), state=os.getpid())
    return f"{ctx.request_state} {os.getpid()}"
"""


def options(*arguments: str) -> argparse.Namespace:
    return make_parser().parse_args(["serve", "toy:router", *arguments])


# Options.


@pytest.mark.parametrize(
    "given, why",
    [
        (["--print-proxy", "nginx", "--http", "8000"], "--print-proxy needs --workers"),
        (["--workers", "2"], "--workers is for --http, without --stdio"),
        (["--workers", "2", "--http", "0", "--stdio"], "--workers is for --http, without --stdio"),
        (["--workers", "2", "--http", "0", "--tcp", "0"], "--workers is for --http, without --tcp"),
        (["--workers", "2", "--http", "0", "--unix", "x"], "without --unix"),
        (["--workers", "2", "--http", "0", "--reload"], "without --reload"),
        (
            ["--workers", "2", "--http", "0", "--end-when-unused", "60"],
            "without --end-when-unused",
        ),
        (["--workers", "2", "--http", "0", "--watch"], "without --watch"),
        (
            ["--workers", "2", "--http", "0", "--reuse-port", "--stateless"],
            "without --reuse-port",
        ),
        (["--workers", "2", "--http", "unix:/x"], "--http unix:/x needs {node} in the path"),
        (["--workers", "2", "--http", "65535"], "there are not enough ports behind it"),
        (
            ["--workers", "2", "--http", "0", "--node", "x" * 31],
            f"--node {'x' * 31} is too long for {'x' * 31}-1",
        ),
        (
            ["--workers", "2", "--http", "0", "--print-proxy", "nginx"],
            "--print-proxy needs a port in --http",
        ),
        (
            ["--workers", "2", "--http", "8000", "--http", "9000", "--print-proxy", "nginx"],
            "--print-proxy needs one --http, not several",
        ),
    ],
)
def test_options_of_workers_that_are_refused(
    given: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "toy:router", *given]) == 2
    assert why in capsys.readouterr().err


def test_a_proxy_is_not_configured_for_processes_with_tls(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = "trio_mcp_session.cli.http_security._check_certificate"
    monkeypatch.setattr(checked, lambda _: None)
    given = ["--workers", "2", "--http", "8000", "--print-proxy", "nginx", "--tls-cert", "x"]
    assert main(["serve", "toy:router", *given]) == 2
    assert "--print-proxy is for processes without --tls-cert" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "²", ""])
def test_a_number_of_processes_that_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number of at least 1"):
        parse_number(text)


@pytest.mark.parametrize("keys", [None, 5])
def test_what_a_process_is_told(keys: int | None) -> None:
    worker = Worker(index=1, ready=4, keys=keys, sockets=(6, 7))
    assert Worker.parse(str(worker)) == worker


@pytest.mark.parametrize(
    "given, node, admin",
    [
        ([], "n2", "None"),
        (["--node", "web", "--admin", "9000"], "web-2", "127.0.0.1:9001"),
        (["--admin", "[::1]:0"], "n2", "[::1]:0"),
    ],
)
def test_the_options_of_one_process(given: list[str], node: str, admin: str) -> None:
    changed = options("--workers", "2", "--http", "8000", *given)
    become_worker(changed, Worker(1, 4, 5, (6, 7)))
    assert (changed.node, str(changed.admin)) == (node, admin)
    assert changed.http == ["fd:6", "fd:7"]
    assert changed.request_state_key_file == "fd:5"


def test_a_key_file_is_left_to_the_processes() -> None:
    changed = options("--workers", "2", "--http", "8000", "--request-state-key-file", "keys")
    become_worker(changed, Worker(0, 4, None, (6,)))
    assert (changed.node, changed.request_state_key_file) == ("n1", "keys")


# Configurations of proxies.


@pytest.mark.parametrize("proxy, file", [("nginx", "nginx.conf"), ("haproxy", "haproxy.cfg")])
def test_the_printed_configuration_is_the_one_of_the_documentation(
    proxy: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--http", "127.0.0.1:8801", "--workers", "3", "--print-proxy", proxy]
    assert main(["serve", "not_imported:router", *given]) == 0
    assert capsys.readouterr().out == (FILES / file).read_text("utf-8")


@pytest.mark.parametrize(
    "proxy, lines",
    [
        ("nginx", ["    server unix:/run/web-2.sock max_fails=0;", "    location @web-2 {"]),
        ("haproxy", ["  server web-2 unix@/run/web-2.sock", "backend web-2"]),
    ],
)
def test_proxies_of_unix_sockets(
    proxy: str, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--http", "unix:/run/{node}.sock", "--workers", "2", "--node", "web"]
    assert main(["serve", "toy:router", *given, "--print-proxy", proxy]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert all(line in printed for line in lines)


# The process that starts the others, in virtual time.


@final
@attrs.define(eq=False)
class FakeProcess:
    """What is seen of a process; it ends when a test says so."""

    pid: int
    serves: bool
    returncode: int | None = None
    terminated: int = 0
    ended: trio.Event = attrs.field(factory=trio.Event)

    def terminate(self) -> None:
        self.terminated += 1

    def end(self, returncode: int) -> None:
        self.returncode = returncode
        self.ended.set()

    async def wait(self) -> None:
        await self.ended.wait()

    async def receive_some(self, _: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.serves:
            return b"\n"
        await self.ended.wait()
        return b""


@attrs.define(eq=False)
class FakeSeat:
    """Starts such processes; each serves, unless it is told otherwise."""

    label: str
    pids: Iterator[int]
    serves: bool = True
    started: list[tuple[float, FakeProcess]] = attrs.field(factory=list)
    restarted: trio.Event = attrs.field(factory=trio.Event)

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Any]:
        process = FakeProcess(next(self.pids), self.serves)
        self.started.append((trio.current_time(), process))
        await trio.lowlevel.checkpoint()
        self.restarted.set()
        yield process, process

    @property
    def now(self) -> FakeProcess:
        return self.started[-1][1]


@final
@attrs.define(eq=False)
class Place:
    """Two seats, and what is said of them."""

    seats: list[FakeSeat]
    said: list[str]
    status: int | None = None

    async def end(self, seat: int, returncode: int) -> None:
        self.seats[seat].now.end(returncode)
        await wait_all_tasks_blocked()


@asynccontextmanager
async def supervised(*, serve: bool = True) -> AsyncIterator[Place]:
    place = Place(
        [FakeSeat(f"n{number}", itertools.count(100 * number), serve) for number in (1, 2)], []
    )
    seats: Any = place.seats

    async def run() -> None:
        place.status = await Supervisor(seats, place.said.append).run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        yield place


async def test_a_process_that_ends_is_replaced_and_reported(autojump_clock: MockClock) -> None:
    async with supervised() as place:
        assert sorted(place.said) == ["node n1 is process 100", "node n2 is process 200"]
        await trio.sleep(10)
        await place.end(0, -9)
        assert place.said[2:] == [
            "node n1 (process 100) has ended with status 137; starting it again",
            "node n1 is process 101",
        ]
        signal.raise_signal(signal.SIGTERM)
        await wait_all_tasks_blocked()
        for number in (0, 1):
            assert place.seats[number].now.terminated == 1
            await place.end(number, 0)
    assert place.status == 0
    assert len(place.said) == 4


async def test_processes_that_end_at_once_are_replaced_more_and_more_slowly(
    autojump_clock: MockClock,
) -> None:
    async with supervised() as place:
        seat = place.seats[0]
        for _ in range(9):
            seat.restarted = trio.Event()
            await place.end(0, 1)
            await seat.restarted.wait()
            await wait_all_tasks_blocked()
        times = [time for time, _ in seat.started]
        waits = [after - before for before, after in itertools.pairwise(times)]
        assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
        assert "node n1 (process 100) has ended with status 1; starting it again in 0.5 s" in (
            place.said
        )
        signal.raise_signal(signal.SIGINT)
        await wait_all_tasks_blocked()
        await place.end(0, 0)
        await place.end(1, 3)
    assert place.status == 3


async def test_a_signal_ends_the_waiting_for_a_process(autojump_clock: MockClock) -> None:
    async with supervised() as place:
        await place.end(0, 1)
        signal.raise_signal(signal.SIGTERM)
        await wait_all_tasks_blocked()
        await place.end(1, 0)
        assert len(place.seats[0].started) == 1
    assert place.status == 0


async def test_an_application_that_never_serves_ends_all(autojump_clock: MockClock) -> None:
    async with supervised(serve=False) as place:
        await place.end(0, 0)
        assert place.said == [
            "node n1 (process 100) has ended with status 0, and has never served; ending"
        ]
        assert place.seats[1].now.terminated == 1
        await place.end(1, -15)
    assert place.status == 1


async def test_signals_are_passed_on(autojump_clock: MockClock) -> None:
    async with supervised() as place:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
            await wait_all_tasks_blocked()
        # A terminal that closes sends it several times.
        assert [seat.now.terminated for seat in place.seats] == [3, 3]
        await place.end(0, -15)
        await place.end(1, 0)
    assert place.status == 128 + 15


async def test_a_process_that_starts_gets_the_signals_that_came(autojump_clock: MockClock) -> None:
    class SlowSeat(FakeSeat):
        @asynccontextmanager
        async def process(self) -> AsyncIterator[Any]:
            await trio.sleep(1)
            async with super().process() as both:
                yield both

    seats: Any = [SlowSeat("n1", itertools.count(100))]
    statuses: list[int] = []
    said: list[str] = []

    async def run() -> None:
        statuses.append(await Supervisor(seats, said.append).run())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(2)
        assert seats[0].now.terminated == 1
        seats[0].now.end(-15)
    # It had not begun to serve, so that it had nothing to drain.
    assert statuses == [0]


# Real processes, hence in real time.


@asynccontextmanager
async def serving(folder: Path, *given: str) -> AsyncIterator[tuple[Program, list[str]]]:
    """Serve with two processes; return what they say, in the order of their labels."""
    (folder / "toy.py").write_text(APP, "utf-8")
    command = ["-m", "trio_mcp_session", "serve", "toy:router", "--workers", "2", *given]
    async with running(command, folder) as program:
        lines = [await program.stderr.next() for _ in range(4)]
        yield program, sorted(line for line in lines if "is process" in line)


def free_ports() -> int:
    """The first of two free ports."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            try:
                with socket.create_server(("127.0.0.1", port + 1)):
                    return port
            except OSError:  # pragma: no cover  # the machine decides
                continue


async def session_at(port: int) -> str:
    """Open a session; return its id."""
    client = await HttpClient.connect(f"listening on http://127.0.0.1:{port}/mcp")
    async with client.wire as wire:
        answer = await wire.request("POST", initialize())
        return answer.headers["mcp-session-id"]


async def test_each_process_has_an_address_and_a_label(tmp_path: Path) -> None:
    port = free_ports()
    async with serving(tmp_path, "--http", str(port)) as (program, said):
        for index in (0, 1):
            assert (await session_at(port + index)).startswith(f"n{index + 1}.")
        # The clients of a process that is killed wait for the next one at the same address.
        pid = int(said[0].rpartition(" ")[2])
        os.kill(pid, signal.SIGKILL)
        assert (await session_at(port)).startswith("n1.")
        assert f"n1 (process {pid}) has ended with status 137" in await program.stderr.until("n1")
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


async def test_all_processes_recognise_the_state_that_one_has_signed(tmp_path: Path) -> None:
    port = free_ports()
    async with serving(tmp_path, "--http", str(port)) as (_, said):
        pids = [line.rpartition(" ")[2] for line in said]
        able: dict[str, Any] = {"elicitation": {}}
        params: dict[str, Any] = {"name": "ask", "arguments": {}}
        results = []
        for at in (port, port + 1):
            client = await HttpClient.connect(f"listening on http://127.0.0.1:{at}/mcp")
            async with client.wire as wire:
                message = modern(1, "tools/call", params, capabilities=able)
                answer = await wire.request("POST", message, headers_of(message))
                results.append(answer.json["result"])
                state = results[0]["requestState"]
                params |= {"requestState": state, "inputResponses": {"one": {"action": "decline"}}}
        assert results[1]["content"][0]["text"] == " ".join(pids)


async def test_unix_sockets_of_several_processes(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef", "utf-8")
    given = ["--http", f"unix:{tmp_path}/{{node}}.sock", "--request-state-key-file", str(keys)]
    async with serving(tmp_path, *given) as (program, _):
        assert [(tmp_path / f"n{number}.sock").exists() for number in (1, 2, 3)] == [
            True,
            True,
            False,
        ]
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0
    assert not (tmp_path / "n1.sock").exists()


async def test_an_application_that_cannot_be_loaded_ends_the_command(tmp_path: Path) -> None:
    command = ["-m", "trio_mcp_session", "serve", "missing:router", "--workers", "2"]
    async with running([*command, "--http", "0"], tmp_path) as program:
        told = await program.stderr.rest()
        assert await program.wait() == 2
    assert any("has ended with status 2, and has never served; ending" in line for line in told)


async def test_an_address_in_use_ends_the_command(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = ["-m", "trio_mcp_session", "serve", "toy:router", "--workers", "1"]
        async with running([*command, "--http", address], tmp_path) as program:
            told = await program.stderr.next()
            assert told.startswith(f"trio_mcp_session: cannot listen on http {address}: ")
            assert await program.wait() == 1


async def test_the_processes_drain_when_the_one_that_started_them_is_killed(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, "--http", "0") as (program, _):
        program.process.kill()
        assert [("draining" in line) for line in await program.stderr.rest()] == [True, True]
