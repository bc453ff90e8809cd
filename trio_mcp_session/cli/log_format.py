"""How log records are written: as lines for people, or as JSON for programs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias, final

from ..application.log_context import FIELDS
from .text import escape, indented

LogFormat: TypeAlias = Literal["text", "json"]
"""How a program writes its log: lines for people, or one JSON object on each line."""

FORMATS: Final[tuple[LogFormat, ...]] = ("text", "json")
FORMAT: Final = "%(asctime)s %(levelname)-7s %(message)s"

_PREFIX: Final = "mcp_"


@final
class LineFormatter(logging.Formatter):
    """Formats each message as one line, with escaped text of peers and an indented traceback.

    The session, request and principal of a record follow in brackets, if the message does not name
    them.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is logging's
        """Escape control characters and line ends."""
        return escape(super().formatMessage(record) + _context_of(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  # the name is logging's
        """Indent a traceback, so that its text cannot look like a log message."""
        return indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  # the name is logging's
        """Indent a stack or a tree of tasks."""
        return indented(stack_info)


def _context_of(record: logging.LogRecord) -> str:
    """Return what is known of a record's request and session, in brackets."""
    parts: list[str] = []
    method = getattr(record, "mcp_method", None)
    request_id = getattr(record, "mcp_request_id", None)
    if method is not None:
        parts.append(method if request_id is None else f"{method} {request_id!r}")
    for name in ("session", "principal"):
        value = getattr(record, _PREFIX + name, None)
        if value is not None and value not in record.message:
            parts.append(f"{name} {value}")
    return f" [{', '.join(parts)}]" if parts else ""


@final
class JsonLogFormatter(logging.Formatter):
    """Formats each log record as one line of JSON.

    The members are ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, and where there is
    something to say ``session``, ``request_id``, ``method``, ``principal`` (see
    `LogContextFilter`), ``exception`` (a traceback) and ``stack``. The line is ASCII. ``run_stdio``
    and ``run_http`` use it with ``log_format="json"``, the command with ``--log-format json``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        members = members_of(record)
        for field in FIELDS:
            value = getattr(record, field, None)
            if value is not None:
                members[field.removeprefix(_PREFIX)] = value
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            members["stack"] = record.stack_info
        # ASCII: the text of a peer may hold half of a surrogate pair, which no encoding takes.
        return json.dumps(members)


def members_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the members that the JSON of every record has."""
    time = datetime.fromtimestamp(record.created, UTC)
    return {
        "time": time.isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
    }


def make_formatter(log_format: LogFormat) -> logging.Formatter:
    """Return the formatter for a format.

    Raises:
        ValueError: The format is not one of `FORMATS`.
    """
    match log_format:
        case "text":
            return LineFormatter(FORMAT)
        case "json":
            return JsonLogFormatter()
        case _:
            raise ValueError(f"log_format must be 'text' or 'json', not {log_format!r}")
