"""Why a program ends that served the client at standard input and output."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli import shifted
from tests.cli.programs import TOY, Program, running, serving
from tests.helpers import initialize, notification, request
from trio_mcp_session import CleanupConfig, TerminationReason
from trio_mcp_session.cli.endings import explain_ending, print_to_stderr

BEGINNING = "trio_mcp_session: the session over stdio has ended: "
SILENT = {
    TerminationReason.CLIENT_CLOSED,
    TerminationReason.CANCELLED,
    TerminationReason.SHUTDOWN,
}

# What is said.


@pytest.mark.parametrize("reason", TerminationReason)
def test_whatever_is_not_the_clients_doing_is_said(reason: TerminationReason) -> None:
    line = explain_ending(reason, CleanupConfig())
    assert (line is None) is (reason in SILENT)
    if line is not None:
        assert line.startswith(BEGINNING)
        assert "\n" not in line


@pytest.mark.parametrize(
    "reason, settings, why",
    [
        (
            "IDLE",
            {"connection_idle_time": 90},
            "the client was quiet for 90 s (connection_idle_time)",
        ),
        (
            "HANDSHAKE_TIMEOUT",
            {"connection_handshake_timeout": 7.5},
            "the client did not finish its handshake within 7.5 s (connection_handshake_timeout)",
        ),
        (
            "LIFETIME",
            {"max_session_time": 5},
            "the session has reached the end of its lifetime (max_session_time)",
        ),
        ("UNRESPONSIVE", {}, "the client did not read for 30 s (send_timeout)"),
        (
            "UNRESPONSIVE",
            {"ping_interval": 10, "send_timeout": 5},
            (
                "the client did not read for 5 s (send_timeout), or did not answer 3 pings "
                "(ping_strikes)"
            ),
        ),
        (
            "TRANSPORT_FAILED",
            {},
            "standard input or output failed, or standard output has no reader",
        ),
        ("EVICTED", {}, "reason: evicted"),
        ("CRASHED", {}, "reason: crashed"),
    ],
)
def test_the_setting_is_named(reason: str, settings: dict[str, Any], why: str) -> None:
    clocks = CleanupConfig(**settings)
    assert explain_ending(TerminationReason[reason], clocks) == BEGINNING + why


def test_without_standard_error_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_to_stderr("one")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        print_to_stderr("two")
    with monkeypatch.context() as patch:
        stream = io.StringIO()
        stream.close()
        patch.setattr(sys, "stderr", stream)
        print_to_stderr("three")
    assert capsys.readouterr() == ("", "one\n")


# A program on a clock that a signal turns.

PROGRAM = f"""{TOY}
import json, sys
from pathlib import Path
from trio_mcp_session import CleanupConfig, SessionConfig, run_stdio

settings = json.loads(Path("settings.json").read_text("utf-8"))
run_stdio(router, config=SessionConfig(cleanup=CleanupConfig(**settings)))
"""


@asynccontextmanager
async def on_a_shifted_clock(folder: Path, settings: str = "{}") -> AsyncIterator[Program]:
    (folder / "program.py").write_text(PROGRAM, "utf-8")
    (folder / "settings.json").write_text(settings, "utf-8")
    async with running([shifted.__file__, "program.py"], folder) as program:
        assert await program.stderr.next() == "ready"
        yield program


def turn(program: Program) -> None:
    program.process.send_signal(signal.SIGUSR1)


@pytest.mark.parametrize("says", ["nothing", "pings"])
async def test_run_stdio_lives_through_two_quiet_days(says: str, tmp_path: Path) -> None:
    async with on_a_shifted_clock(tmp_path) as program:
        await program.stdio.initialize()
        for number in range(4):
            turn(program)
            assert await program.stderr.next() == "later"
            if says == "pings":
                await program.stdio.send("ping", number=100 + number)
                assert (await program.stdio.receive())["id"] == 100 + number
        await program.stdio.call("echo", text="good morning")
        assert await program.stdio.text() == "good morning"
        await program.stdio.sink.aclose()
        assert await program.stderr.rest() == ["a stray print"]
        assert await program.wait() == 0


async def test_run_stdio_waits_two_days_for_the_first_word(tmp_path: Path) -> None:
    async with on_a_shifted_clock(tmp_path) as program:
        for _ in range(4):
            turn(program)
            assert await program.stderr.next() == "later"
        await program.stdio.initialize()
        await program.stdio.call("echo", text="good morning")
        assert await program.stdio.text() == "good morning"
        await program.stdio.sink.aclose()
        assert await program.stderr.rest() == ["a stray print"]
        assert await program.wait() == 0


@pytest.mark.parametrize(
    "settings, shakes_hands, why",
    [
        (
            '{"connection_idle_time": 3600}',
            True,
            "the client was quiet for 3600 s (connection_idle_time)",
        ),
        (
            '{"connection_handshake_timeout": 60}',
            False,
            "the client did not finish its handshake within 60 s (connection_handshake_timeout)",
        ),
        (
            '{"max_session_time": 7200}',
            True,
            "the session has reached the end of its lifetime (max_session_time)",
        ),
    ],
)
async def test_run_stdio_says_which_clock_ended_it(
    settings: str, shakes_hands: bool, why: str, tmp_path: Path
) -> None:
    async with on_a_shifted_clock(tmp_path, settings) as program:
        if shakes_hands:
            await program.stdio.initialize()
        turn(program)
        told = await program.stderr.rest()
        assert [line for line in told if line != "later"] == [BEGINNING + why]
        assert await program.stdio.lines.rest() == []
        assert await program.wait() == 0


# The command.


@pytest.mark.parametrize(
    "options, why",
    [
        (
            ["--connection-handshake-timeout", "0.25"],
            "the client did not finish its handshake within 0.25 s (connection_handshake_timeout)",
        ),
        (
            ["--connection-idle-time", "0.25"],
            "the client was quiet for 0.25 s (connection_idle_time)",
        ),
        (
            ["--max-session-time", "0.25"],
            "the session has reached the end of its lifetime (max_session_time)",
        ),
    ],
)
async def test_the_command_says_which_clock_ended_it(
    options: list[str], why: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, "--stdio", "--cleanup-interval", "0", *options) as program:
        assert await program.stderr.until(BEGINNING.strip()) == BEGINNING + why
        await program.stderr.rest()
        assert await program.wait() == 0


async def test_the_command_says_that_the_client_did_not_read(tmp_path: Path) -> None:
    async with serving(tmp_path, "--stdio", "--send-timeout", "0.25") as program:
        await program.stdio.initialize()
        await program.stdio.call("echo", text="x" * 1_000_000)
        line = await program.stderr.until(BEGINNING.strip())
        assert line == f"{BEGINNING}the client did not read for 0.25 s (send_timeout)"
        await program.stderr.rest()
        assert await program.wait() == 0


async def test_a_client_that_writes_10_mib_before_it_reads_is_reported_by_the_command(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, "--stdio", "--send-timeout", "0.25") as program:
        await program.stdio.initialize()
        pings = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n' * 1000
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(10 * 2**20 // len(pings)):  # pragma: no branch  # it ends before
                await program.stdio.sink.send_all(pings)
        line = await program.stderr.until(BEGINNING.strip())
        assert line == f"{BEGINNING}the client did not read for 0.25 s (send_timeout)"
        await program.stderr.rest()
        assert await program.wait() == 0


# The end of the input.


async def test_running_calls_are_answered_after_the_end_of_the_input(tmp_path: Path) -> None:
    """``printf ... | server``: all of the input is there, and its end, before a handler runs."""
    async with serving(tmp_path, "--stdio", "--eof-grace", "20") as program:
        lines = [
            json.dumps(initialize(0)),
            json.dumps(notification("notifications/initialized")),
            json.dumps(request(1, "tools/call", {"name": "wait_for", "arguments": {"name": "go"}})),
            json.dumps(request(2, "tools/call", {"name": "echo", "arguments": {"text": "hi"}})),
        ]
        await program.stdio.sink.send_all("\n".join([*lines, ""]).encode())
        await program.stdio.sink.aclose()
        assert (await program.stdio.receive())["id"] == 0
        assert await program.stdio.text() == "hi"
        (tmp_path / "go").touch()
        assert await program.stdio.text() == "it is there"
        assert await program.stdio.lines.rest() == []
        await program.stderr.rest()
        assert await program.wait() == 0


async def test_a_client_that_closes_both_ends_is_noticed_at_once(tmp_path: Path) -> None:
    # The test would be given up long before this grace is over.
    async with serving(tmp_path, "--stdio", "--eof-grace", "1000") as program:
        await program.stdio.initialize()
        await program.stdio.call("wait_for", name="never")
        await program.stdio.sink.aclose()
        assert program.process.stdout is not None
        await program.process.stdout.aclose()
        await program.stderr.rest()
        assert await program.wait() == 0
