"""The log of programs: where records go, and the records of sessions that open and end."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from ..core.ids import short_hash
from ..core.reasons import TerminationReason
from ..sessions.hooks import SessionHooks
from ..transports.bounded_stderr import describe_drop, installed_writer
from .log_format import LogFormat, make_formatter, members_of
from .screen import Screen
from .watch import name_of

if TYPE_CHECKING:
    from ..sessions.session import Session

ProgramLogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
"""The lowest level that a program logs."""

LEVELS: Final[tuple[ProgramLogLevel, ...]] = ("debug", "info", "warning", "error")

logger: Final = logging.getLogger("trio_mcp_session.serve")


@final
class ScreenHandler(logging.Handler):
    """Prints log messages on a screen, above the table of sessions."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen: Final = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        try:
            self._screen.print(self.format(record))
        except Exception:  # noqa: BLE001  # as the handlers of logging do
            self.handleError(record)


def start_logging(level: str, screen: Screen, log_format: LogFormat = "text") -> None:
    """Log the records of this library and of the application.

    If the module of the application has configured logging, its level and its handlers stay;
    with ``json`` they get that format.
    """
    handler = ScreenHandler(screen)
    handler.setFormatter(make_formatter(log_format))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if log_format == "json":
        _use_format(log_format)


def configure_logging(level: ProgramLogLevel | None, log_format: LogFormat | None) -> None:
    """Configure the root logger of a program, if one of the two is given.

    Without handlers, the root logger gets one for standard error, and the level *info*. A format
    is set on all of its handlers.

    Raises:
        ValueError: The level is not one of `LEVELS`, or the format not one of `FORMATS`.
    """
    if level is None and log_format is None:
        return
    if level not in (None, *LEVELS):
        raise ValueError(f"log_level must be one of {', '.join(LEVELS)}, not {level!r}")
    formatter = make_formatter("text" if log_format is None else log_format)
    root = logging.getLogger()
    if not root.handlers:
        to_stderr = logging.StreamHandler()
        to_stderr.setFormatter(formatter)
        root.addHandler(to_stderr)
        root.setLevel(logging.INFO)
    if level is not None:
        root.setLevel(level.upper())
    if log_format is not None:
        _use_format(log_format)


def _use_format(log_format: LogFormat) -> None:
    """Set a format on all root handlers, and on the line that says how much was dropped."""
    formatter = make_formatter(log_format)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
    writer = installed_writer()
    if writer is not None and log_format == "json":
        writer.describe_drop = _drop_as_json


def _drop_as_json(number: int, size: int, lines: int) -> str:
    text = describe_drop(number, size, lines).strip()
    # Made directly: a factory of the application must not run in the thread that writes.
    record = logging.LogRecord(logger.name, logging.WARNING, "", 0, text, None, None)
    return json.dumps(members_of(record) | {"dropped_bytes": size}) + "\n"


async def _created(session: Session) -> None:  # noqa: ASYNC124  # a hook
    logger.info("%s opened: %s over %s", _short(session), name_of(session), session.transport.name)


async def _terminated(session: Session, reason: TerminationReason) -> None:  # noqa: ASYNC124  # a hook
    logger.info("%s ended: %s, %s", _short(session), name_of(session), reason.value)


def _short(session: Session) -> str:
    # Not the id: without authentication it gives access.
    return f"{session.kind.value} {short_hash(session.session_id)}"


LOGGING: Final = SessionHooks(on_session_created=_created, on_session_terminated=_terminated)
"""Hooks that log the beginning and the end of sessions. The library logs errors itself."""
