"""The log of `serve`: sessions that open and end, and their errors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, final

from ..core.reasons import TerminationReason
from ..sessions.hooks import SessionHooks
from .screen import Screen
from .text import escape
from .watch import name_of

if TYPE_CHECKING:
    from ..sessions.session import Session

LEVELS: Final = ("debug", "info", "warning", "error")
FORMAT: Final = "%(asctime)s %(levelname)-7s %(message)s"

logger: Final = logging.getLogger("trio_mcp_session.serve")


@final
class LineFormatter(logging.Formatter):
    """Formats each message as one line, with control characters escaped.

    A traceback follows on indented lines, so that no text of a peer looks like a record.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is logging's
        """Escape control characters and line ends."""
        return escape(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  # the name is logging's
        """Indent a traceback, so that its text cannot look like a log message."""
        text = super().formatException(ei)
        return "\n".join(f"    {escape(line)}" for line in text.splitlines())


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


def start_logging(level: str, screen: Screen) -> None:
    """Log the records of this library and of the application."""
    handler = ScreenHandler(screen)
    handler.setFormatter(LineFormatter(FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler])


async def _created(session: Session) -> None:  # noqa: ASYNC124  # a hook
    logger.info("%s opened: %s over %s", _short(session), name_of(session), session.transport.name)


async def _terminated(session: Session, reason: TerminationReason) -> None:  # noqa: ASYNC124  # a hook
    logger.info("%s ended: %s, %s", _short(session), name_of(session), reason.value)


def _short(session: Session) -> str:
    # Only a part of the id: without authentication the whole id gives access.
    return f"{session.kind.value} {session.session_id[:6]}"


LOGGING: Final = SessionHooks(on_session_created=_created, on_session_terminated=_terminated)
"""Hooks that log the beginning and the end of sessions. The library logs errors itself."""
