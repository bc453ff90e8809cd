"""What a request belongs to, and where it runs."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from msgspec import UnsetType

from ..core.errors import McpError, PeerViolation, SendFailed, SessionError
from ..protocol import jsonrpc
from ..protocol.results import NO_CACHE, complete_result
from .failures import FAILURES, contain

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..core.metrics import SessionCounters
    from ..core.reasons import TerminationReason
    from ..protocol.jsonrpc import RequestId
    from .manager import SessionManager
    from .outlet import Outlet

T = TypeVar("T")

logger: Final = logging.getLogger("trio_mcp_session")


class Room(Protocol):
    """Where handlers run."""

    def _spawn(self, async_fn: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        """Start a task there. Not a checkpoint."""
        ...

    def _context(self) -> Context:
        """Return the context variables that a handler begins with."""
        ...


class RequestOwner(ABC):
    """Counts what its requests do, and hears of what goes wrong with them.

    `Session` is one. Requests of 2026-07-28 belong to no session on the wire: over HTTP their owner
    serves any number of clients, and knows none of them. Nothing here is a checkpoint.
    """

    __slots__ = ()

    _manager: SessionManager
    _counters: SessionCounters

    @abstractmethod
    def _begin_work(self) -> None:
        """Learn that another request has begun."""

    @abstractmethod
    def _end_work(self) -> None:
        """Learn that a request is over."""

    @abstractmethod
    def _why_it_ends(self) -> str:
        """Say why a request is cut off for which nobody else has said it."""

    @property
    @abstractmethod
    def _acts_for(self) -> Principal | None:
        """On whose behalf requests are made that bring no principal of their own."""

    @property
    def termination_reason(self) -> TerminationReason | None:
        """Why it ends or has ended, where that is something that only it does; None otherwise."""
        return None

    def _end_what_came_late(self) -> None:
        """End what was opened for a client whose own end has ended all the rest already."""
        return  # Only who stands for a client has an end that others share.

    @abstractmethod
    def _report(self, error: Exception) -> None:
        """Log an error, and tell whoever listens of it."""

    def _send_result(self, outlet: Outlet, frame: bytes) -> None:
        """Send the answer to a request. A transport that fails is reported, and loses it."""
        try:
            outlet.send_result(frame)
        except FAILURES as error:  # a transport may be anybody's
            self._send_failed(contain(error))
        else:
            self._counters.messages_sent += 1
            self._counters.bytes_sent += len(frame)

    def _send_no_result(self, outlet: Outlet) -> None:
        """Tell the transport that a request gets no answer."""
        try:
            outlet.send_no_result()
        except FAILURES as error:  # a transport may be anybody's
            self._send_failed(contain(error))

    def _refuse(self, request_id: RequestId | UnsetType, outlet: Outlet, error: McpError) -> None:
        """Answer a request that is not taken, with an error."""
        self._counters.errors += 1
        self._send_result(
            outlet, jsonrpc.encode_error(request_id, error.code, error.message, error.data)
        )

    def _send_message(self, outlet: Outlet, frame: bytes) -> bool | None:
        """Send something else for a request.

        Returns:
            Whether there was room for it. None where the transport failed: that was reported, and
            it must not be tried again.
        """
        try:
            taken = outlet.send_message(frame)
        except FAILURES as error:  # a transport may be anybody's
            self._send_failed(contain(error))
            return None
        if taken:
            self._counters.messages_sent += 1
            self._counters.bytes_sent += len(frame)
        return taken

    def _send_failed(self, error: Exception) -> None:
        self._counters.dropped += 1
        report = SendFailed()
        report.__cause__ = error
        self._report(report)

    def _for_each(self, items: Iterable[T], action: Callable[[T], object]) -> None:
        """Do something with each item, also when it fails for some: failures are reported.

        Raises:
            BaseException: What has to go on (see `separate`), after the last item.
        """
        onward: BaseException | None = None
        for item in items:
            try:
                action(item)
            except BaseException as error:  # noqa: BLE001, ASYNC103  # reported, or raised below
                try:
                    self._report(contain(error))
                except BaseException as raised:  # noqa: BLE001, ASYNC103  # raised below
                    onward = onward or raised
        if onward is not None:
            raise onward

    def _dress(self, method: str, result: object, *, keepable: bool) -> Mapping[str, Any]:
        """Add to the result of a modern request what the server says of itself and of it."""
        application = self._manager._served()
        hint = application.cache_hint(method) if keepable else NO_CACHE
        return complete_result(method, result, application.server_info, hint)

    def _violation(self, what: str) -> None:
        """Count what a peer did wrong, and tell of it."""
        self._counters.bad_input += 1
        self._report(PeerViolation(what))

    def _log(self, error: Exception) -> None:
        """Write one log record of an error: what failed, the class, the text and the traceback.

        A log that fails changes nothing.
        """
        # What a peer does wrong must not fill a disk.
        level = logging.DEBUG if isinstance(error, PeerViolation) else logging.ERROR
        if not logger.isEnabledFor(level):
            return
        traced = error.__cause__ or (None if error.__traceback__ is None else error)
        write_log(level, "%s: %s", repr(self), describe(error), error=traced)


def write_log(level: int, text: str, *args: object, error: BaseException | None = None) -> None:
    """Write a log record. A log handler or filter that raises changes nothing."""
    try:
        logger.log(level, text, *args, exc_info=error)
    except FAILURES as failure:  # a log handler may be anybody's
        contain(failure)  # There is no other place to tell of it.


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
