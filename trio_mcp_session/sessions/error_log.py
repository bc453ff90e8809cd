"""Log records of errors. A log handler that raises changes nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, final

import attrs

from ..core.errors import PeerViolation, SessionError
from .failures import FAILURES, contain

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..core.ids import SessionId

logger: Final = logging.getLogger("trio_mcp_session")


@final
@attrs.frozen
class LogSubject:
    """The session that a log record is about, where another task writes the record."""

    session_id: SessionId
    principal: Principal | None


log_subject: Final[ContextVar[LogSubject]] = ContextVar("trio_mcp_session.log_subject")
"""Set while a record is written that is about a session."""


failure_watchers: Final[list[Callable[[str, BaseException], object]]] = []
"""Functions that are called with each failure that is logged, and with what the record says.

Tests use them to see every failure, whatever the log shows. They must not raise.
"""


def write_log(
    level: int,
    text: str,
    *args: object,
    error: BaseException | None = None,
    stack: str | None = None,
    log: logging.Logger = logger,
) -> None:
    """Write a log record. A log handler or filter that raises changes nothing.

    Args:
        level: The level of the record.
        text: The message, with places for ``args``.
        args: What is put into the message.
        error: An error whose traceback follows the message.
        stack: Lines that follow the message: a stack, or a tree of tasks.
        log: The logger.
    """
    if failure_watchers and error is not None and level >= logging.ERROR:
        for take in tuple(failure_watchers):
            take(text % args, error)
    _write(level, text, *args, error=error, stack=stack, log=log)


def _write(
    level: int,
    text: str,
    *args: object,
    error: BaseException | None,
    stack: str | None = None,
    log: logging.Logger = logger,
) -> None:
    try:
        if stack is None:
            log.log(level, text, *args, exc_info=error)
        elif log.isEnabledFor(level):
            place = (__file__, 0, text, args, None, "write_log", None, stack)
            log.handle(log.makeRecord(log.name, level, *place))
    except FAILURES as failure:  # log handlers and filters are the application's
        contain(failure)  # There is no other place to report it.


def log_error(source: object, error: Exception, subject: LogSubject | None = None) -> None:
    """Write one record of an error: its source, what failed, the class, the text, the traceback.

    Args:
        source: The object where it happened; the record begins with its ``repr``.
        error: What happened. What a peer does wrong is logged at level *debug*, so that a peer
            cannot fill the disk.
        subject: The session that it belongs to, for filters that add it to the record.
    """
    level = logging.DEBUG if isinstance(error, PeerViolation) else logging.ERROR
    if failure_watchers and level == logging.ERROR:
        for take in tuple(failure_watchers):
            take(f"{source!r}: {describe(error)}", error)
    if not logger.isEnabledFor(level):
        return
    traced = error.__cause__ or (None if error.__traceback__ is None else error)
    token = None if subject is None else log_subject.set(subject)
    try:
        _write(level, "%s: %s", repr(source), describe(error), error=traced)
    finally:
        if token is not None:
            log_subject.reset(token)


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
