"""Standard streams that are not read, closed, or printed to at the wrong time: real programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.cli.programs import BOTH, SERVE, HttpClient, Program, Way, connect_unix, running
from tests.helpers import initialize

SERVER = """
import logging, os, sys, warnings
print("printed at import", flush=FLUSH)
from trio_mcp_session import RequestContext, Router, run_http, run_stdio

router = Router("toy", "1")


@router.tool()
async def fail(ctx: RequestContext) -> str:
    raise ValueError("a detail")


@router.tool()
async def chat(ctx: RequestContext, how: str) -> str:
    text = 1_000 * ("x" * 99 + "\\n")
    match how:
        case "print":
            print(text, end="")
        case "stderr":
            sys.stderr.write(text)
        case "bytes":
            sys.stdout.buffer.write(text.encode())
            sys.stdout.flush()
        case "logging":
            for line in text.splitlines():
                logging.getLogger("chat").error(line)
        case "warnings":
            for number in range(1_000):
                warnings.warn(f"{number} {'x' * 99}")
    return "done"


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        run_stdio(router)
    else:
        run_http(router, "127.0.0.1:0", log_level="info")
"""

BUFFERED = {"PYTHONUNBUFFERED": ""}


def write_server(folder: Path, *, flush: bool = False) -> None:
    (folder / "toy.py").write_text(SERVER.replace("FLUSH", str(flush)), "utf-8")


def command_of(way: Way) -> list[str]:
    return SERVE if way == "serve" else ["toy.py", "stdio"]


async def fail_often(program: Program) -> None:
    """Let it write the traceback of 100 crashes."""
    for number in range(1, 101):
        await program.stdio.call("fail", number)
        assert (await program.stdio.receive())["result"]["isError"]


# Standard error that nothing reads.


@BOTH
async def test_tracebacks_that_nothing_reads_block_nothing(way: Way, tmp_path: Path) -> None:
    """The 65th one did."""
    write_server(tmp_path)
    async with running(command_of(way), tmp_path, BUFFERED) as program:
        await program.stdio.initialize()
        await fail_often(program)
        await program.stdio.sink.aclose()
        assert await program.wait() == 0
        told = await program.stderr.rest()
    assert sum("ValueError: a detail" in line for line in told) > 20


@BOTH
@pytest.mark.parametrize("how", ["print", "stderr", "bytes", "logging", "warnings"])
async def test_output_of_a_handler_that_nothing_reads_blocks_nothing(
    way: Way, how: str, tmp_path: Path
) -> None:
    write_server(tmp_path)
    async with running(command_of(way), tmp_path, BUFFERED) as program:
        await program.stdio.initialize()
        for number in range(1, 4):
            await program.stdio.call("chat", number, how=how)
            assert await program.stdio.text() == "done"
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0


@pytest.mark.parametrize("way", ["serve", "run_http"])
async def test_an_http_server_whose_standard_error_nothing_reads(way: str, tmp_path: Path) -> None:
    write_server(tmp_path)
    command = [*SERVE, "--http", "0"] if way == "serve" else ["toy.py", "http"]
    async with running(command, tmp_path) as program:
        await _use_over_http(program)


async def _use_over_http(program: Program) -> None:
    told = await program.stderr.until("listening on")
    client = await HttpClient.connect(told[told.index("listening on") :])
    async with client.wire:
        await client.initialize()
        for how in ("print", "logging", "stderr") * 4:
            assert await client.call("chat", how=how) == "done"
        program.process.send_signal(signal.SIGTERM)
    assert await program.wait() == 0


async def test_a_reader_that_comes_late_is_told_how_much_was_dropped(tmp_path: Path) -> None:
    write_server(tmp_path)
    async with running(SERVE, tmp_path) as program:
        await program.stdio.initialize()
        for number in range(1, 16):
            await program.stdio.call("chat", number, how="print")
            assert await program.stdio.text() == "done"
        line = await program.stderr.until("were dropped here")
        assert line.startswith("trio_mcp_session: standard error was not read in time; ")
        await program.stdio.call("chat", 99, how="print")
        assert await program.stdio.text() == "done"
        await program.stdio.sink.aclose()
        assert (await program.stderr.rest())[-1].endswith("client closed")


async def test_the_last_line_of_a_forced_end_arrives_at_a_late_reader(tmp_path: Path) -> None:
    """It is written although more output waits than there is room for."""
    write_server(tmp_path)
    stuck = (tmp_path / "toy.py").read_text("utf-8") + (
        "\n\n@router.tool()\nasync def stay(ctx: RequestContext) -> str:\n"
        "    import trio\n    print(900 * ('y' * 99 + chr(10)), end='')\n"
        "    with trio.CancelScope(shield=True):\n        await trio.sleep_forever()\n"
    )
    (tmp_path / "toy.py").write_text(stuck, "utf-8")
    async with running([*SERVE, "--shutdown-timeout", "0.5"], tmp_path) as program:
        await program.stdio.initialize()
        await program.stdio.call("stay")
        await program.stderr.until("yyy")
        program.process.send_signal(signal.SIGTERM)
        told = await program.stderr.rest()
        assert await program.wait() == 128 + signal.SIGTERM
    ends = [number for number, line in enumerate(told) if "did not end: session" in line]
    assert len(ends) == 1
    assert told[ends[0] + 1] == "trio_mcp_session: all tasks:"
    assert any("tools/call, request 1, tool 'stay'" in line for line in told[ends[0] :])


# Printing at import.


@pytest.mark.parametrize("unbuffered", ["1", ""])
async def test_serve_guards_standard_output_before_it_imports_the_module(
    unbuffered: str, tmp_path: Path
) -> None:
    write_server(tmp_path, flush=True)
    async with running(SERVE, tmp_path, {"PYTHONUNBUFFERED": unbuffered}) as program:
        assert "result" in await program.stdio.initialize()
        assert await program.stderr.next() == "printed at import"


async def test_what_was_printed_before_run_stdio_goes_to_standard_error(tmp_path: Path) -> None:
    write_server(tmp_path)
    async with running(["toy.py", "stdio"], tmp_path, BUFFERED) as program:
        assert "result" in await program.stdio.initialize()
        assert await program.stderr.next() == "printed at import"


async def test_what_was_printed_before_goes_there_also_if_nothing_reads(tmp_path: Path) -> None:
    """It is in the buffer of standard output, and would be flushed into a pipe that is full."""
    write_server(tmp_path)
    text = (tmp_path / "toy.py").read_text("utf-8")
    fill = "os.set_blocking(2, False)\nos.write(2, bytes(2**20))\nos.set_blocking(2, True)\n"
    (tmp_path / "toy.py").write_text(text.replace("from trio", f"{fill}from trio", 1), "utf-8")
    async with running(["toy.py", "stdio"], tmp_path, BUFFERED) as program:
        assert "result" in await program.stdio.initialize()


# Closed streams.


def run_closed(
    folder: Path, command: list[str], redirect: str
) -> subprocess.CompletedProcess[bytes]:
    write_server(folder)
    message = json.dumps(initialize(0)).encode() + b"\n"
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, *command],
        input=message,
        capture_output=True,
        cwd=folder,
        timeout=50,
        check=False,
        env=os.environ | BUFFERED,
    )


@BOTH
@pytest.mark.parametrize("redirect, name", [("<&-", "input"), (">&-", "output")])
def test_a_closed_stream_of_the_protocol_is_refused_with_a_sentence(
    way: Way, redirect: str, name: str, tmp_path: Path
) -> None:
    result = run_closed(tmp_path, command_of(way), redirect)
    assert result.returncode == 1
    (line,) = [one for one in result.stderr.decode().splitlines() if one != "printed at import"]
    needs = "--stdio needs" if way == "serve" else "run_stdio() needs"
    assert line == (
        f"trio_mcp_session: {needs} standard input and output: standard {name} was closed when the "
        "process started"
    )


@BOTH
def test_a_closed_standard_error_changes_nothing_for_the_client(way: Way, tmp_path: Path) -> None:
    result = run_closed(tmp_path, command_of(way), "2>&-")
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["id"] == 0
    assert result.returncode == 0


async def test_an_http_server_without_any_standard_stream(tmp_path: Path) -> None:
    """No socket gets the number of a closed stream: a handler would print to a client."""
    write_server(tmp_path)
    path = tmp_path / "socket"
    script = (
        "import os, sys\n"
        "os.execv('/bin/sh', ['sh', '-c', 'exec \"$@\" <&- >&- 2>&-', 'sh', sys.executable]"
        " + sys.argv[1:])"
    )
    command = ["-c", script, *SERVE, "--unix", str(path)]
    async with running(command, tmp_path, BUFFERED) as program:
        while not path.exists():  # noqa: ASYNC110  # another process makes it
            await trio.sleep(0.01)
        client = await connect_unix(f"listening on unix {path}")
        async with client.sink:
            await client.initialize()
            for how in ("print", "stderr", "bytes"):
                await client.call("chat", how=how)
                assert await client.text() == "done"
        program.process.send_signal(signal.SIGTERM)
        assert await program.wait() == 0
