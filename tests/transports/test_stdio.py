"""The client at standard input and output: real processes, real pipes, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.helpers import brief, error, initialize, notification, request, result
from tests.transports.processes import ServerProcess, command, started

CONVERSATION = b"".join(
    msgspec.json.encode(message) + b"\n"
    for message in (
        initialize("hello"),
        notification("notifications/initialized"),
        request(1, "tools/list"),
        request(2, "tools/call", {"name": "shout", "arguments": {"text": "stray"}}),
        request(3, "ping"),
    )
)


def answers_in(output: bytes) -> dict[object, Any]:
    """The answers by id; there is nothing else on standard output."""
    messages = [json.loads(line) for line in output.splitlines()]
    assert all(one["jsonrpc"] == "2.0" for one in messages)
    return {one["id"]: one for one in messages}


def assert_all_answered(output: bytes) -> None:
    answers = answers_in(output)
    assert set(answers) == {"hello", 1, 2, 3}
    assert all("result" in one for one in answers.values())


# The end of input.


async def test_a_conversation_over_stdio_sends_prints_to_standard_error() -> None:
    async with started() as server:
        await server.establish()
        assert (await server.ask(1, "ping")) == result(1)
        # What is printed goes to standard error.
        answer = await server.ask(2, "tools/call", {"name": "shout", "arguments": {"text": "!!"}})
        assert answer["result"]["content"][0]["text"] == "!!"
        await server.close_stdin()
        assert await server.rest() == []
        status, (report,) = await server.wait()
    assert status == 0
    assert (report["transport"], report["reason"]) == ("stdio", "client closed")
    assert "!!\n" in server.complaints


async def test_the_end_with_a_call_in_flight() -> None:
    async with started() as server:
        await server.establish()
        await server.send(request(1, "wait", {"for": "ever"}), request(2, "ping"))
        await server.close_stdin()
        assert [brief(one) for one in await server.rest()] == [result(2), error(1, -32603)]
        status, (report,) = await server.wait()
    assert (status, report["reason"]) == (0, "client closed")


@pytest.mark.parametrize("said", [b"", b"\n\n", CONVERSATION])
async def test_requests_sent_before_the_end_of_stdin_are_all_answered(said: bytes) -> None:
    async with started() as server:
        await server.send_raw(said)
        await server.close_stdin()
        answers = await server.rest()
        expected = {"hello", 1, 2, 3} if said == CONVERSATION else set()
        assert {one["id"] for one in answers} == expected
        status, _ = await server.wait()
    assert status == 0


# What standard input and output may be.


def run(stdin: Any, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command("run", {}),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=True,
        timeout=50,
    )


def test_from_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "conversation.jsonl"
    path.write_bytes(CONVERSATION)
    with path.open("rb") as file:
        done = run(file)
    assert_all_answered(done.stdout)
    assert b"stray" in done.stderr


def test_from_a_regular_file_to_another(tmp_path: Path) -> None:
    path, output = tmp_path / "conversation.jsonl", tmp_path / "answers.jsonl"
    path.write_bytes(CONVERSATION)
    with path.open("rb") as file, output.open("wb") as answers:
        run(file, answers)
    assert_all_answered(output.read_bytes())


def test_from_a_file_without_a_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "conversation.jsonl"
    path.write_bytes(CONVERSATION + b'{"jsonrpc":"2.0","id":4,"method":"ping"}')
    with path.open("rb") as file:
        done = run(file)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert error(4, -32700) in [brief(one) for one in lines]
    assert {one.get("id") for one in lines} == {"hello", 1, 2, 3, 4}


def test_an_empty_stdin_ends_the_server_without_output() -> None:
    done = run(subprocess.DEVNULL)
    assert done.stdout == b""
    # A client that never sent anything is not reported.
    assert done.stderr == b""


def test_stdin_and_stdout_may_be_the_null_device() -> None:
    run(subprocess.DEVNULL, subprocess.DEVNULL)


def test_one_socket_may_be_stdin_and_stdout() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(CONVERSATION)
        ours.shutdown(socket.SHUT_WR)
        run(theirs, theirs)
        theirs.close()
        output = b""
        while more := ours.recv(65536):
            output += more
    assert_all_answered(output)


@pytest.mark.parametrize("redirect", ["<&-", ">&-"])
def test_a_closed_stdin_or_stdout_is_refused_with_a_sentence(redirect: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", *command("run", {})],
        input=b"",
        capture_output=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        b"trio_mcp_session: run_stdio() needs standard input and output: standard "
    )
    assert done.stderr.endswith(b" was closed when the process started\n")


# Signals.


async def until_draining(server: ServerProcess) -> None:
    """Ask until it is refused: the signal has arrived then."""
    for number in range(100_000):
        answer = await server.ask(f"try {number}", "tools/list")
        if "error" in answer:
            assert answer == error(f"try {number}", -32603, "server is shutting down")
            return
    raise AssertionError("it went on serving")  # pragma: no cover  # the test has failed


signals = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"]
)


@signals
async def test_a_signal_drains_the_stdio_server(number: int) -> None:
    async with started() as server:
        await server.establish()
        await server.send(request(1, "wait", {"for": "it"}))
        await server.ask(0, "ping")
        server.process.send_signal(number)
        await until_draining(server)
        # What runs may finish; pings and notifications still pass.
        assert await server.ask(2, "ping") == result(2)
        await server.send(notification("notifications/release", {"for": "it"}))
        assert await server.receive() == result(1, {"waited": "it"})
        assert await server.rest() == []
        status, (report,) = await server.wait()
        await server.close_stdin()
    assert (status, report["reason"]) == (0, "shutdown")


@signals
async def test_a_drain_has_a_grace(number: int) -> None:
    async with started("run", {"cleanup": {"drain_grace": 0.05}}) as server:
        await server.establish()
        await server.send(request(1, "wait", {"for": "ever"}))
        await server.ask(0, "ping")
        server.process.send_signal(number)
        (answer,) = await server.rest()
        assert answer == error(1, -32603, "Session has ended: shutdown")
        status, (report,) = await server.wait()
        await server.close_stdin()
    assert (status, report["reason"]) == (0, "shutdown")


@signals
async def test_a_signal_ends_an_idle_stdio_server_at_once(number: int) -> None:
    async with started() as server:
        await server.establish()
        server.process.send_signal(number)
        assert await server.rest() == []
        status, _ = await server.wait()
        await server.close_stdin()
    assert status == 0


@signals
async def test_a_second_signal_does_not_wait(number: int) -> None:
    async with started("run", {"cleanup": {"drain_grace": 1000}}) as server:
        await server.establish()
        await server.send(request(1, "wait", {"for": "ever"}))
        await server.ask(0, "ping")
        server.process.send_signal(number)
        await until_draining(server)
        server.process.send_signal(number)
        # Its last words are written all the same.
        (answer,) = await server.rest()
        assert brief(answer) == error(1, -32603)
        status, (report,) = await server.wait()
        await server.close_stdin()
    assert status == 128 + number
    assert report["reason"] in {"cancelled", "shutdown"}


# As a part of a larger program.

LARGER = """
import os, sys, trio
from trio_mcp_session import *

seen = []

async def told(session, reason):
    seen.append((session.principal, session.transport.name, reason.value))

async def main():
    router = Router("r")
    async with open_session_manager(router{settings}) as manager:
        {body}

trio.run(main)
"""


def run_larger(body: str, *, settings: str = "", stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        [sys.executable, "-c", LARGER.format(body=body, settings=settings)],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_it_tells_why_the_session_ended() -> None:
    output = run_larger(
        """reason = await serve_stdio(manager)
        print(reason)""",
        stdin=CONVERSATION[: CONVERSATION.index(b"\n") + 1],
    )
    # The first line is the protocol's, the other one is printed when the streams are back.
    answer, reason = output.splitlines()
    assert json.loads(answer)["id"] == "hello"
    assert reason == b"TerminationReason.CLIENT_CLOSED"


def test_serve_stdio_gives_its_session_the_principal() -> None:
    output = run_larger(
        """await serve_stdio(manager, principal=Principal("me"))
        print(seen == [(Principal("me"), "stdio", "client closed")])""",
        settings=", hooks=SessionHooks(on_session_terminated=told)",
        stdin=CONVERSATION,
    )
    assert output.splitlines()[-1] == b"True"


def test_serve_stdio_on_a_drained_manager_answers_and_raises() -> None:
    output = run_larger(
        """await manager.drain()
        try:
            await serve_stdio(manager)
        except SessionRejected as refusal:
            print(refusal)""",
        stdin=CONVERSATION,
    )
    answer, refusal = output.splitlines()
    assert brief(json.loads(answer)) == error("hello", -32603)
    assert refusal == b"server is shutting down"


def test_a_cancelled_serve_stdio_ends_its_session() -> None:
    read_fd, write_fd = os.pipe()
    with open(write_fd, "wb"), open(read_fd, "rb") as silent:
        program = LARGER.format(
            settings="",
            body="""with trio.move_on_after(0.01) as scope:
            await serve_stdio(manager)
        print(scope.cancelled_caught, manager.sessions(), manager.statistics().ended)
        assert os.get_blocking(0)""",
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdin=silent,
            capture_output=True,
            check=True,
            timeout=50,
        )
    assert done.stdout.startswith(b"True [] ")
    assert b"CANCELLED" in done.stdout


def threads_of(pid: int) -> int | None:
    """How many threads a process has, where the system tells."""
    tasks = Path(f"/proc/{pid}/task")
    return len(list(tasks.iterdir())) if tasks.exists() else None


async def test_pipes_use_no_threads_beyond_those_of_run_stdio() -> None:
    async with started() as server:
        await server.establish()
        # The main thread, the writer of standard error, and the watch of the event loop.
        assert threads_of(server.process.pid) in {3, None}
        await server.close_stdin()
