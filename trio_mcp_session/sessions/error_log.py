"""Log records of errors. A log handler that raises changes nothing else."""

from __future__ import annotations

import logging
from typing import Final

from ..core.errors import PeerViolation, SessionError
from .failures import FAILURES, contain

logger: Final = logging.getLogger("trio_mcp_session")


def write_log(level: int, text: str, *args: object, error: BaseException | None = None) -> None:
    """Write a log record. A log handler or filter that raises changes nothing."""
    try:
        logger.log(level, text, *args, exc_info=error)
    except FAILURES as failure:  # log handlers and filters are the application's
        contain(failure)  # There is no other place to report it.


def log_error(source: object, error: Exception) -> None:
    """Write one record of an error: its source, what failed, the class, the text, the traceback.

    Args:
        source: The object where it happened; the record begins with its ``repr``.
        error: What happened. What a peer does wrong is logged at level *debug*, so that a peer
            cannot fill the disk.
    """
    level = logging.DEBUG if isinstance(error, PeerViolation) else logging.ERROR
    if not logger.isEnabledFor(level):
        return
    traced = error.__cause__ or (None if error.__traceback__ is None else error)
    write_log(level, "%s: %s", repr(source), describe(error), error=traced)


def describe(error: Exception) -> str:
    """Return an error as a log line shows it: what failed, the class and the text."""
    if not isinstance(error, SessionError):
        return _class_and_text(error)
    cause = error.__cause__
    return str(error) if cause is None else f"{error}: {_class_and_text(cause)}"


def _class_and_text(error: BaseException) -> str:
    name = type(error).__name__
    try:
        text = str(error)
    except FAILURES as failure:  # its ``__str__`` is the application's
        text = f"<its text raised {type(contain(failure)).__name__}>"
    return f"{name}: {text}" if text else name
