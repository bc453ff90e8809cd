"""How processes end for signals, clients and deadlines, whatever tasks and threads do."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, assert_never

import pytest
import trio

from tests.cli.programs import BOTH, SERVE, HttpClient, Program, Way, running
from tests.helpers import initialize
from trio_mcp_session.cli.shutdown import CLIENT_LEFT_TIMEOUT

TERM, INT = signal.SIGTERM, signal.SIGINT

SERVER = """
import logging, sys, threading, time
import trio
from trio_mcp_session import (
    CleanupConfig, HandleKind, RequestContext, Router, SessionConfig, run_http, run_stdio,
)

router = Router("toy", "1")


@router.tool()
async def echo(ctx: RequestContext, text: str) -> str:
    return text


@router.tool()
async def block_thread(ctx: RequestContext) -> str:
    print("begun", file=sys.stderr, flush=True)
    await trio.to_thread.run_sync(threading.Event().wait)
    return "never"


@router.tool()
async def leave_thread(ctx: RequestContext) -> str:
    threading.Thread(target=threading.Event().wait, name="left behind").start()
    print("begun", file=sys.stderr, flush=True)
    return "it runs"


@router.tool()
async def spin(ctx: RequestContext) -> str:
    print("begun", file=sys.stderr, flush=True)
    while True:
        pass


@router.tool()
async def doze(ctx: RequestContext) -> str:
    print("begun", file=sys.stderr, flush=True)
    while True:  # A signal that comes just before a sleep is handled after it.
        time.sleep(0.1)


@router.tool()
async def refuse_to_end(ctx: RequestContext) -> str:
    print("begun", file=sys.stderr, flush=True)
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
    return "never"


@router.tool()
async def work(ctx: RequestContext, seconds: float) -> str:
    print("begun", file=sys.stderr, flush=True)
    await trio.sleep(seconds)
    return "done"


def main() -> None:
    logging.basicConfig(level="DEBUG", format="%(message)s")
    config = SessionConfig(cleanup=CleanupConfig(**eval(sys.argv[2])))
    if sys.argv[1] == "stdio":
        run_stdio(router, config=config)
    else:
        run_http(router, "127.0.0.1:0", config=config)
    print("it returned", file=sys.stderr)


if __name__ == "__main__":
    main()
"""

STUCK = pytest.mark.parametrize("tool", ["block_thread", "spin", "doze", "refuse_to_end"])


def options_of(clocks: Mapping[str, float]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in clocks.items()]


@asynccontextmanager
async def server(way: Way, folder: Path, **clocks: float) -> AsyncIterator[Program]:
    """Run the server with its client at standard input and output."""
    (folder / "toy.py").write_text(SERVER, "utf-8")
    match way:
        case "serve":
            command = [*SERVE, "--log-level=debug", *options_of(clocks)]
        case "run_stdio":
            command = ["toy.py", "stdio", repr(clocks)]
        case _:  # pragma: no cover  # there is no other
            assert_never(way)
    async with running(command, folder) as program:
        await program.stdio.initialize()
        yield program


async def begin(program: Program, tool: str, **arguments: float) -> None:
    """Call a tool, and wait until it has begun."""
    await program.stdio.call(tool, 1, **arguments)
    await program.stderr.until("begun")


async def seconds_to_end(program: Program) -> float:
    began = time.monotonic()
    await program.wait()
    return time.monotonic() - began


async def interrupt_until_it_ends(program: Program) -> None:
    """Send SIGINT three times; more often where the system makes one of two of them."""
    while program.process.poll() is None:
        program.process.send_signal(INT)
        with trio.move_on_after(0.05):
            await program.wait()


async def last_line(program: Program) -> str:
    (line,) = [one for one in await program.stderr.rest() if "did not end" in one]
    return line


# What ends by itself.


@BOTH
@pytest.mark.parametrize("number", [TERM, INT])
async def test_a_signal_ends_an_idle_server_at_once(
    way: Way, number: signal.Signals, tmp_path: Path
) -> None:
    async with server(way, tmp_path) as program:
        program.process.send_signal(number)
        assert await seconds_to_end(program) < 3
        assert program.process.returncode == 0
        told = await program.stderr.rest()
    assert ("it returned" in told) == (way == "run_stdio")


@BOTH
async def test_a_signal_with_a_call_in_flight_ends_within_9_seconds(
    way: Way, tmp_path: Path
) -> None:
    """In real time, with the defaults: `docker stop` kills after 10."""
    async with server(way, tmp_path) as program:
        await begin(program, "work", seconds=1000)
        program.process.send_signal(TERM)
        assert await seconds_to_end(program) < 9
        assert program.process.returncode == 0
        assert "error" in await program.stdio.receive()


@BOTH
@pytest.mark.parametrize("second", [TERM, INT])
async def test_a_second_signal_cancels(way: Way, second: signal.Signals, tmp_path: Path) -> None:
    async with server(way, tmp_path, retire_grace=1000) as program:
        await begin(program, "work", seconds=1000)
        program.process.send_signal(TERM)
        # It is retiring: what exists is served.
        await program.stdio.call("echo", number=2, text="still there")
        assert await program.stdio.text() == "still there"
        program.process.send_signal(second)
        assert await program.wait() == 128 + second
        told = await program.stderr.rest()
    assert not any("Traceback" in line or "did not end" in line for line in told)


@BOTH
async def test_the_answer_to_a_call_of_a_second_reaches_a_client_that_only_reads(
    way: Way, tmp_path: Path
) -> None:
    """``printf '...' | server`` is such a client."""
    async with server(way, tmp_path) as program:
        await program.stdio.call("work", seconds=1)
        await program.stdio.sink.aclose()
        assert await program.stdio.text() == "done"
        assert await program.wait() == 0


@BOTH
@pytest.mark.parametrize("how", ["reads no more", "reads no more, then closes", "is gone"])
async def test_a_client_that_is_gone_ends_it_at_once(way: Way, how: str, tmp_path: Path) -> None:
    """No grace is waited for: nothing could be answered."""
    async with server(way, tmp_path, eof_grace=1000, drain_grace=1000) as program:
        await begin(program, "work", seconds=1000)
        if how == "is gone":
            await program.stdio.sink.aclose()
        await program.stdio.lines.stream.aclose()
        if how == "reads no more, then closes":
            await program.stdio.sink.aclose()
        assert await program.wait() == 0


@BOTH
async def test_a_signal_after_end_of_file_does_not_wait_for_calls(way: Way, tmp_path: Path) -> None:
    async with server(way, tmp_path, eof_grace=1000, drain_grace=1000) as program:
        await begin(program, "work", seconds=1000)
        await program.stdio.sink.aclose()
        await program.stderr.until("the client has left")
        program.process.send_signal(TERM)
        assert await seconds_to_end(program) < CLIENT_LEFT_TIMEOUT + 2
        assert program.process.returncode == 0


# What has to be ended.


@BOTH
@STUCK
async def test_the_third_signal_ends_the_process(way: Way, tool: str, tmp_path: Path) -> None:
    async with server(way, tmp_path, shutdown_timeout=1000) as program:
        await begin(program, tool)
        await interrupt_until_it_ends(program)
        assert program.process.returncode == 128 + INT
        line = await last_line(program)
    assert line.startswith("trio_mcp_session: process ended by SIGINT (third signal); ")
    assert re.search(r"session \S{6}… \(tools/call\)", line)
    assert ("thread 'wait from tools/call'" in line) == (tool == "block_thread")
    in_loop = re.search(r"event loop in (\w+) \(toy\.py:\d+\)", line)
    assert (in_loop and in_loop[1]) == (tool if tool in ("spin", "doze") else None)


@BOTH
async def test_three_times_control_c_shows_no_traceback(way: Way, tmp_path: Path) -> None:
    async with server(way, tmp_path) as program:
        await begin(program, "refuse_to_end")
        await interrupt_until_it_ends(program)
        assert program.process.returncode == 130
        assert not any("Traceback" in line for line in await program.stderr.rest())


@BOTH
@STUCK
async def test_the_deadline_of_a_shutdown_ends_the_process(
    way: Way, tool: str, tmp_path: Path
) -> None:
    async with server(way, tmp_path, shutdown_timeout=0.5) as program:
        await begin(program, tool)
        program.process.send_signal(TERM)
        assert await program.wait() == 128 + TERM
        line = await last_line(program)
    assert line.startswith("trio_mcp_session: process ended by the deadline of its shutdown; ")
    assert "(tools/call)" in line


@BOTH
async def test_end_of_file_starts_the_deadline_too(way: Way, tmp_path: Path) -> None:
    async with server(way, tmp_path, shutdown_timeout=0.5) as program:
        await begin(program, "block_thread")
        await program.stdio.sink.aclose()
        assert await program.wait() == 1
        assert "thread 'wait from tools/call'" in await last_line(program)


@BOTH
async def test_a_session_that_ends_for_a_clock_starts_the_deadline_too(
    way: Way, tmp_path: Path
) -> None:
    clocks = {"max_session_time": 0.2, "cleanup_interval": 0, "shutdown_timeout": 0.5}
    async with server(way, tmp_path, **clocks) as program:
        await begin(program, "block_thread")
        assert await program.wait() == 1
        assert "thread 'wait from tools/call'" in await last_line(program)


@BOTH
async def test_a_signal_after_end_of_file_shortens_the_deadline(way: Way, tmp_path: Path) -> None:
    async with server(way, tmp_path, shutdown_timeout=1000) as program:
        await begin(program, "block_thread")
        await program.stdio.sink.aclose()
        await program.stderr.until("the client has left")
        program.process.send_signal(TERM)
        assert await seconds_to_end(program) < CLIENT_LEFT_TIMEOUT + 2
        assert program.process.returncode == 128 + TERM


async def test_a_thread_that_python_would_wait_for(tmp_path: Path) -> None:
    """The deadline of the command holds until its process has ended."""
    async with server("serve", tmp_path, shutdown_timeout=0.5) as program:
        await begin(program, "leave_thread")
        await program.stdio.sink.aclose()
        assert await program.wait() == 1
        assert "thread 'left behind'" in await last_line(program)


async def test_a_deadline_that_is_off(tmp_path: Path) -> None:
    async with server("run_stdio", tmp_path, shutdown_timeout=float("1e9")) as program:
        await begin(program, "block_thread")
        program.process.send_signal(TERM)
        with trio.move_on_after(0.5) as scope:
            await program.wait()
        assert scope.cancelled_caught
        await interrupt_until_it_ends(program)
        assert program.process.returncode == 130


# Over HTTP.


@asynccontextmanager
async def http_server(
    way: Literal["serve", "run_http"], folder: Path, **clocks: float
) -> AsyncIterator[tuple[Program, str]]:
    (folder / "toy.py").write_text(SERVER, "utf-8")
    command = (
        [*SERVE, "--http", "0", *options_of(clocks)]
        if way == "serve"
        else ["toy.py", "http", repr(clocks)]
    )
    async with running(command, folder) as program:
        yield program, await program.stderr.until("listening on")


HTTP = pytest.mark.parametrize("way", ["serve", "run_http"])


@HTTP
async def test_a_process_is_replaced_without_cutting_its_clients(
    way: Literal["serve", "run_http"], tmp_path: Path
) -> None:
    async with http_server(way, tmp_path, retire_grace=1000) as (program, told):
        client, newcomer = [await HttpClient.connect(told) for _ in range(2)]
        async with client.wire, newcomer.wire:
            await client.initialize()
            program.process.send_signal(TERM)
            await program.stderr.until("SIGTERM: retiring for up to 1000 s")
            for text in ("one", "two"):
                assert await client.call("echo", text=text) == text
            answer = await newcomer.wire.request("POST", initialize(0))
            assert (answer.status, "retry-after" in answer.headers) == (503, True)
            # The last one is gone, and so is the process.
            assert (await client.wire.request("DELETE", headers=client.headers)).status == 204
            await program.stderr.until("SIGTERM: draining for up to 3 s")
        assert await program.wait() == 0


@HTTP
async def test_over_http_the_third_signal_ends_the_process(
    way: Literal["serve", "run_http"], tmp_path: Path
) -> None:
    async with http_server(way, tmp_path) as (program, told):
        client = await HttpClient.connect(told)
        async with client.wire:
            await client.initialize()
            await client.begin_call("block_thread")
            await program.stderr.until("begun")
            await interrupt_until_it_ends(program)
            assert program.process.returncode == 130
            assert "thread 'wait from tools/call'" in await last_line(program)
