from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from trio_mcp_session.transports.refusal_log import (
    INTERVAL,
    LONGEST_TEXT,
    LONGEST_VALUE,
    MOST_KINDS,
    RefusalLog,
    quoted,
    shown,
)

logger = logging.getLogger("tests.refusals")


@pytest.fixture
def log() -> RefusalLog:
    return RefusalLog(logger)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


async def test_a_refusal_is_logged_with_its_value_and_its_hint(
    log: RefusalLog, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    log.report(
        "HTTP 403", "Host is not allowed", "GET /mcp", value="evil.example", hint="to accept it: x"
    )
    log.report("HTTP 404", "Not found", "GET /", level=logging.INFO)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "HTTP 403 for GET /mcp: Host is not allowed: 'evil.example'; to accept it: x")
    ]
    caplog.clear()
    caplog.set_level(logging.INFO)
    log.report("HTTP 405", "Method not allowed", "PUT /", level=logging.INFO)
    assert lines(caplog) == ["HTTP 405 for PUT /: Method not allowed"]


async def test_a_kind_is_logged_once_a_minute_with_the_number_of_the_others(
    log: RefusalLog, caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    for _ in range(1000):
        log.report("HTTP 403", "no", "GET /")
    assert lines(caplog) == ["HTTP 403 for GET /: no"]
    mock_clock.jump(INTERVAL - 0.1)
    log.report("HTTP 403", "no", "GET /")
    assert lines(caplog) == []
    mock_clock.jump(0.1)
    log.report("HTTP 403", "no", "GET /")
    assert lines(caplog) == ["HTTP 403 for GET /: no (1000 more in the last 60 s)"]
    mock_clock.jump(INTERVAL)
    log.report("HTTP 403", "no", "GET /")
    assert lines(caplog) == ["HTTP 403 for GET /: no"]


async def test_kinds_are_told_apart_up_to_a_number(
    log: RefusalLog, caplog: pytest.LogCaptureFixture, mock_clock: MockClock
) -> None:
    texts = [f"text {number}" for number in range(1000)]
    for text in texts:
        log.report("HTTP 400", text, "POST /")
    # All others are one kind, and its first refusal is logged.
    assert lines(caplog) == [f"HTTP 400 for POST /: {text}" for text in texts[: MOST_KINDS + 1]]
    log.report("HTTP 406", texts[20], "POST /")
    assert lines(caplog) == ["HTTP 406 for POST /: text 20"]
    assert len(log._kinds["HTTP 400"]) == MOST_KINDS + 1
    # A minute later all of them may be logged again, and make room for new ones.
    mock_clock.jump(INTERVAL)
    log.report("HTTP 400", "new", "POST /")
    assert lines(caplog) == ["HTTP 400 for POST /: new"]
    assert list(log._kinds["HTTP 400"]) == ["new"]


async def test_texts_of_clients_are_shortened_and_escaped(
    log: RefusalLog, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    log.report("HTTP 400", "x\n" * 10_000, "GET /\x1b[2J", value="\r\n2026 ERROR é" + "y" * 10_000)
    (line,) = lines(caplog)
    assert "\n" not in line
    assert "\x1b" not in line
    assert r"GET /\x1b[2J: x\nx\n" in line
    assert r"'\r\n2026 ERROR \xe9yyy" in line
    assert len(line) < 2 * (LONGEST_TEXT + LONGEST_VALUE) + 100
    (kind,) = log._kinds["HTTP 400"]
    assert len(kind) == LONGEST_TEXT


def test_a_short_printable_text_is_shown_as_it_is() -> None:
    assert shown("Grüße", 5) == "Grüße"
    assert shown("Grüße", 4) == "Grüß…"
    assert quoted("é") == r"'\xe9'"
    assert quoted("x" * (LONGEST_VALUE + 1)) == "'" + "x" * LONGEST_VALUE + "'…"


async def test_reporting_has_no_checkpoints(log: RefusalLog, autojump_clock: MockClock) -> None:
    with trio.testing.assert_no_checkpoints():
        log.report("HTTP 400", "no", "GET /")
