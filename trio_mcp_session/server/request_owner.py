"""What a request belongs to: it counts, sends, and reports for its requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio
from msgspec import UnsetType

from ..core.errors import McpError, NoChannel, PeerViolation, SendFailed
from ..protocol import jsonrpc
from ..sessions.failures import FAILURES, contain

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..core.metrics import SessionCounters
    from ..core.reasons import TerminationReason
    from ..protocol.envelope import Envelope
    from ..protocol.jsonrpc import RequestId
    from ..protocol.revisions import Revision
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session
    from ..sessions.tasks import AsyncFn
    from .request import InFlightRequest
    from .request_queue import RequestQueue
    from .sink import MessageSink

T = TypeVar("T")


class TaskSpawner(Protocol):
    """Where handlers run."""

    def _spawn(self, async_fn: AsyncFn, *args: object, name: str) -> None:
        """Start a task there. Not a checkpoint."""
        ...

    def _context(self) -> Context:
        """Return the context variables that a handler begins with."""
        ...


class WorkCounter(Protocol):
    """What is busy while requests are open. `Session` is one."""

    def _begin_work(self) -> None:
        """Count a request that has begun. Not a checkpoint."""
        ...

    def _end_work(self) -> None:
        """Count a request that is over. Not a checkpoint."""
        ...


class RequestOwner(ABC):
    """Counts, sends and reports for its requests. Nothing here is a checkpoint.

    `ClientConnection` is one, for the requests of its client. Requests of 2026-07-28 over HTTP
    belong to no connection: `StatelessRequests` owns those of all clients.
    """

    __slots__ = ()

    counters: SessionCounters

    @property
    @abstractmethod
    def manager(self) -> SessionManager:
        """The manager of its session, or of the server."""

    @property
    def session(self) -> Session | None:
        """The session of the connection; None where requests belong to none."""
        return None

    @property
    def revision(self) -> Revision | None:
        """The protocol version that the session of the connection speaks; None without one."""
        return None

    @property
    def log_severity(self) -> int | None:
        """The least severe log messages that the session's client wants; None for none."""
        return None

    @property
    @abstractmethod
    def default_principal(self) -> Principal | None:
        """The principal of requests that bring none."""

    @property
    def termination_reason(self) -> TerminationReason | None:
        """Why the session of the connection ends or has ended; None while it lives."""
        return None

    def end_what_came_late(self) -> None:
        """End what was opened for an unauthenticated client whose session has ended before."""
        return  # Only a session's end ends other sessions.

    @abstractmethod
    def why_it_ends(self) -> str:
        """Return the answer to a request that is cut off without an answer."""

    @abstractmethod
    def report(self, error: Exception) -> None:
        """Log an error, and send it to event streams and hooks."""

    @abstractmethod
    def complete_result(self, method: str, result: object, *, keepable: bool) -> Mapping[str, Any]:
        """Add to the result of a modern request what the server says of itself and of it."""

    @abstractmethod
    def session_missed(self, method: str, name: object) -> None:
        """Log, once for a manager, that a handler used ``ctx.session`` and there is none."""

    async def ask_client(
        self,
        sink: MessageSink,  # noqa: ARG002  # for owners that have a client
        method: str,  # noqa: ARG002
        params: Mapping[str, Any] | None,  # noqa: ARG002
        timeout: float | None,  # noqa: ARG002, ASYNC109  # the client is told when it is over
    ) -> Any:
        """Send a request to the client, on the way that is given, and await the answer.

        A checkpoint.

        Raises:
            NoChannel: There is no connection to a client; see `OutgoingRequests.ask` for others.
        """
        await trio.lowlevel.checkpoint()
        raise NoChannel

    # Sending.

    def send_result(self, sink: MessageSink, frame: bytes) -> None:
        """Send the answer to a request. A transport that fails is reported, and loses it."""
        try:
            sink.send_result(frame)
        except FAILURES as error:  # transports may be the application's
            self._send_failed(contain(error))
        else:
            self.counters.messages_sent += 1
            self.counters.bytes_sent += len(frame)

    def send_no_result(self, sink: MessageSink) -> None:
        """Tell the transport that a request gets no answer."""
        try:
            sink.send_no_result()
        except FAILURES as error:  # transports may be the application's
            self._send_failed(contain(error))

    def send_message(self, sink: MessageSink, frame: bytes) -> bool | None:
        """Send something else for a request.

        Returns:
            Whether there was room for it. None where the transport failed: that was reported, and
            it must not be tried again.
        """
        try:
            taken = sink.send_message(frame)
        except FAILURES as error:  # transports may be the application's
            self._send_failed(contain(error))
            return None
        if taken:
            self.counters.messages_sent += 1
            self.counters.bytes_sent += len(frame)
        return taken

    def refuse(self, request_id: RequestId | UnsetType, sink: MessageSink, error: McpError) -> None:
        """Answer a request that is not taken, with an error."""
        self.counters.errors += 1
        self.send_result(
            sink, jsonrpc.encode_error(request_id, error.code, error.message, error.data)
        )

    def _send_failed(self, error: Exception) -> None:
        self.counters.dropped += 1
        report = SendFailed()
        report.__cause__ = error
        self.report(report)

    # Reporting.

    def violation(self, what: str) -> None:
        """Count and report what a peer did wrong."""
        self.counters.bad_input += 1
        self.report(PeerViolation(what))

    def for_each(self, items: Iterable[T], action: Callable[[T], object]) -> None:
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
                    self.report(contain(error))
                except BaseException as raised:  # noqa: BLE001, ASYNC103  # raised below
                    onward = onward or raised
        if onward is not None:
            raise onward


class ModernOwner(RequestOwner):
    """An owner of requests of 2026-07-28."""

    __slots__ = ()

    @abstractmethod
    def admit(
        self,
        message: jsonrpc.Request,
        sink: MessageSink,
        envelope: Envelope,
        principal: Principal | None,
    ) -> InFlightRequest:
        """Run a request, let it wait, or refuse it; return it."""

    @abstractmethod
    def subscription_queue(self) -> RequestQueue | None:
        """Return what the ids of subscriptions are taken in; None where ids may be shared."""
