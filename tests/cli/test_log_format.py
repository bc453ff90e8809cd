"""How programs write their log records."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from trio_mcp_session import JsonLogFormatter
from trio_mcp_session.cli import logs
from trio_mcp_session.cli.log_format import LineFormatter, make_formatter
from trio_mcp_session.cli.logs import configure_logging, start_logging
from trio_mcp_session.cli.screen import Screen
from trio_mcp_session.transports.bounded_stderr import OutputWriter


def record_of(message: str, *args: object, **more: object) -> logging.LogRecord:
    record = logging.LogRecord("app", logging.WARNING, "", 0, message, args, None)
    record.created = 1_750_000_000.25
    vars(record).update(more)
    return record


CONTEXT = {
    "mcp_session": "0123abcd",
    "mcp_request_id": 7,
    "mcp_method": "tools/call",
    "mcp_principal": None,
}


@pytest.mark.parametrize(
    "context, told",
    [
        ({}, "told"),
        (dict.fromkeys(CONTEXT), "told"),
        (CONTEXT, "told [tools/call 7, session 0123abcd]"),
        (CONTEXT | {"mcp_request_id": "a\nb"}, r"told [tools/call 'a\nb', session 0123abcd]"),
        (CONTEXT | {"mcp_request_id": None}, "told [tools/call, session 0123abcd]"),
        (
            {"mcp_session": "0123abcd", "mcp_principal": "4567ef01"},
            "told [session 0123abcd, principal 4567ef01]",
        ),
    ],
)
def test_a_line_ends_with_its_session_and_request(context: dict[str, object], told: str) -> None:
    assert LineFormatter("%(message)s").format(record_of("told", **context)) == told


def test_a_line_does_not_repeat_a_session() -> None:
    record = record_of("header 0123abcd opened", mcp_session="0123abcd")
    assert LineFormatter("%(message)s").format(record) == "header 0123abcd opened"


def test_a_stack_is_indented_and_escaped() -> None:
    record = record_of("told", stack_info="one\n  two\x1b[2J")
    assert LineFormatter("%(message)s").format(record) == "told\n    one\n      two\\x1b[2J"


def test_a_record_as_json() -> None:
    line = JsonLogFormatter().format(record_of("%s\n\ud83d", "told", **CONTEXT))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2025-06-15T15:06:40.250+00:00",
        "level": "WARNING",
        "logger": "app",
        "message": "told\n\ud83d",
        "session": "0123abcd",
        "request_id": 7,
        "method": "tools/call",
    }


def test_a_traceback_and_a_stack_as_json() -> None:
    error = ValueError("a detail")
    exc_info = (type(error), error, None)
    record = record_of("told", exc_info=exc_info, stack_info="the stack")
    told = json.loads(JsonLogFormatter().format(record))
    assert told["exception"].endswith("ValueError: a detail")
    assert told["stack"] == "the stack"
    assert "session" not in told


@pytest.mark.parametrize("name, kind", [("text", LineFormatter), ("json", JsonLogFormatter)])
def test_the_formatter_of_a_name(name: Any, kind: type) -> None:
    assert type(make_formatter(name)) is kind


def test_an_unknown_log_format_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^log_format must be 'text' or 'json', not 'xml'$"):
        make_formatter(cast("Any", "xml"))


# The root logger of `run_stdio` and `run_http`.


@contextmanager
def empty_root() -> Iterator[logging.Logger]:
    """The root logger without handlers, also without pytest's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def test_without_options_logging_stays() -> None:
    with empty_root() as root:
        configure_logging(None, None)
        assert root.handlers == []


@pytest.mark.parametrize(
    "level, log_format, level_then, kind",
    [
        ("debug", None, logging.DEBUG, LineFormatter),
        (None, "json", logging.INFO, JsonLogFormatter),
        ("error", "text", logging.ERROR, LineFormatter),
    ],
)
def test_a_root_logger_without_handlers(
    level: Any, log_format: Any, level_then: int, kind: type
) -> None:
    with empty_root() as root:
        configure_logging(level, log_format)
        (handler,) = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        assert type(handler.formatter) is kind
        assert root.level == level_then


def test_handlers_of_the_program_stay_and_get_the_format() -> None:
    with empty_root() as root:
        stream = io.StringIO()
        own = logging.StreamHandler(stream)
        root.addHandler(own)
        root.setLevel(logging.ERROR)
        configure_logging("warning", None)
        assert (root.handlers, own.formatter, root.level) == ([own], None, logging.WARNING)
        configure_logging(None, "json")
        logging.getLogger("app").warning("told")
        assert json.loads(stream.getvalue())["message"] == "told"
        assert root.level == logging.WARNING


@pytest.mark.parametrize("log_format, kind", [("json", JsonLogFormatter), ("text", type(None))])
def test_handlers_that_the_module_of_the_command_has_made(log_format: Any, kind: type) -> None:
    with empty_root() as root:
        own = logging.StreamHandler(io.StringIO())
        root.addHandler(own)
        root.setLevel(logging.ERROR)
        start_logging("info", Screen(io.StringIO()), log_format)
        assert (root.handlers, type(own.formatter), root.level) == ([own], kind, logging.ERROR)


def test_an_unknown_log_level_is_refused() -> None:
    with empty_root():
        expected = "^log_level must be one of debug, info, warning, error, not 'loud'$"
        with pytest.raises(ValueError, match=expected):
            configure_logging(cast("Any", "loud"), None)


def test_the_note_about_dropped_output_has_the_format_of_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with empty_root():
        writer = OutputWriter()
        monkeypatch.setattr(logs, "installed_writer", lambda: writer)
        configure_logging(None, "text")
        assert writer.describe_drop(2, 10, 1).startswith("trio_mcp_session: standard error was not")
        configure_logging(None, "json")
        line = writer.describe_drop(2, 10, 1)
        assert line.endswith("\n")
        told = json.loads(line)
        assert (told["level"], told["dropped_bytes"]) == ("WARNING", 10)
        assert "10 bytes (1 lines) were dropped here" in told["message"]
