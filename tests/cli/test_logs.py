from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.cli.terminal import Terminal
from tests.helpers import LATEST
from trio_mcp_session import (
    ClientInfo,
    Router,
    SessionManager,
    Transport,
    connect_memory,
    open_session_manager,
)
from trio_mcp_session.cli.log_format import LineFormatter
from trio_mcp_session.cli.logs import LOGGING, start_logging
from trio_mcp_session.cli.screen import Screen
from trio_mcp_session.cli.text import Style
from trio_mcp_session.core.ids import short_hash

MALLORY = ClientInfo(client_id="mallory\x1b[2J\n2026 ERROR forged")


@contextmanager
def logging_to(screen: Screen, level: str = "info") -> Iterator[None]:
    """Log as a program does that has configured nothing else."""
    root = logging.getLogger()
    handlers, old_level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        start_logging(level, screen)
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(old_level)


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


def messages(log: io.StringIO) -> list[str]:
    """The lines without the time, ids without their randomness."""
    lines = []
    for line in log.getvalue().splitlines():
        if line.startswith("20"):
            level, kind, _, rest = line.split(None, 2)[2].split(None, 3)
            lines.append(f"{level} {kind} {rest}")
        else:
            lines.append(line)
    return lines


async def test_sessions_that_open_and_end(log: io.StringIO) -> None:
    with logging_to(Screen(log, Style()), "info"):
        async with open_session_manager(hooks=LOGGING) as manager:
            await manager.create_session(MALLORY, transport=Transport("tcp"))
    assert messages(log) == [
        r"INFO handle opened: mallory\x1b[2J\n2026 ERROR forged over tcp",
        r"INFO handle ended: mallory\x1b[2J\n2026 ERROR forged, shutdown",
    ]


async def test_no_log_holds_an_id(log: io.StringIO) -> None:
    with logging_to(Screen(log, Style()), "debug"):
        async with open_session_manager(hooks=LOGGING) as manager:
            session = await manager.create_session()
    assert session.session_id not in log.getvalue()
    assert f"handle {short_hash(session.session_id)} opened" in log.getvalue()


async def test_crashes_with_their_tracebacks(log: io.StringIO) -> None:
    async def crash() -> None:
        raise ValueError("bad\n2026 INFO forged\x1b[2J")

    with logging_to(Screen(log, Style()), "warning"):
        async with open_session_manager(hooks=LOGGING) as manager:
            session = await manager.create_session()
            session.start_soon(crash, name="crash")
            await session.wait_terminated()
    first, *traceback = messages(log)
    assert first.startswith("ERROR <Session ")
    # One line, whatever the error says.
    assert "task 'crash' of a session crashed: ValueError: bad\\n2026 INFO forged" in first
    assert traceback[0] == "    Traceback (most recent call last):"
    assert traceback[-2:] == ["    ValueError: bad", "    2026 INFO forged\\x1b[2J"]
    assert all(line.startswith("    ") for line in traceback)


async def talk_nonsense(manager: SessionManager) -> None:
    client = await connect_memory(manager)
    await client.send(
        b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"%s",'
        b'"capabilities":{},"clientInfo":{"name":"ada","version":"1"}}}' % LATEST.encode()
    )
    await client.receive()
    await client.send(b"nonsense")
    await client.receive()
    await wait_all_tasks_blocked()
    await client.aclose()


@pytest.mark.parametrize("level, told", [("debug", True), ("info", False)])
async def test_bad_input_fills_no_disk(
    level: str, told: bool, log: io.StringIO, autojump_clock: MockClock
) -> None:
    with logging_to(Screen(log, Style()), level):
        async with open_session_manager(Router("x"), hooks=LOGGING) as manager:
            await talk_nonsense(manager)
    assert any(line.startswith("DEBUG <Session ") for line in messages(log)) is told
    assert not any(line.startswith("ERROR") for line in messages(log))


async def test_logs_scroll_above_the_table() -> None:
    terminal = Terminal()
    screen = Screen(terminal, Style(live=True))
    with logging_to(screen, "info"):
        screen.draw(["the table"])
        logging.getLogger("somebody").warning("something")
        await trio.lowlevel.checkpoint()
    assert terminal.lines[0].endswith("WARNING something")
    assert terminal.lines[1:] == ["the table", ""]


def test_a_message_that_cannot_be_formatted_ends_nothing(
    log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to(Screen(log, Style()), "info"):
        logging.getLogger("somebody").warning("%d", "no number")
    assert "--- Logging error ---" in capsys.readouterr().err
    assert log.getvalue() == ""


def test_long_messages_are_logged_whole() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "y" * 5_000 + "\r", None, None)
    assert LineFormatter("%(message)s").format(record) == "y" * 5_000 + "\\r"
