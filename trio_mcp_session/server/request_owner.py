"""Owners of requests: they count, send and report for the requests that they own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio
from msgspec import UnsetType

from ..core.errors import HandlerCrashed, McpError, NoChannel, PeerViolation, SendFailed
from ..protocol import jsonrpc
from ..sessions.endings import BATCH
from ..sessions.failures import FAILURES, contain

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget
    from ..core.identity import Principal
    from ..core.metrics import SessionCounters
    from ..core.peer import Party
    from ..core.reasons import TerminationReason
    from ..protocol.envelope import Envelope
    from ..protocol.jsonrpc import RequestId
    from ..protocol.revisions import Revision
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session
    from ..sessions.tasks import AsyncFn
    from .application import Application
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
    """An object that is busy while requests are open. `Session` is one."""

    def _begin_work(self) -> None:
        """Count a request that has begun. Not a checkpoint."""
        ...

    def _end_work(self) -> None:
        """Count a request that is over. Not a checkpoint."""
        ...


class RequestOwner(ABC):
    """Counts, sends and reports for its requests. Only `ask_client` is a checkpoint.

    `ClientConnection` is one, for the requests of its client. Requests over HTTP without a session
    belong to no connection: `StatelessRequests` owns those of all clients of 2026-07-28, and a
    `SessionlessClient` those of one message of an earlier revision.
    """

    __slots__ = ()

    counters: SessionCounters

    @property
    @abstractmethod
    def manager(self) -> SessionManager:
        """The manager of its session, or of the server."""

    @property
    def session(self) -> Session | None:
        """The session of the connection; None if requests belong to no session."""
        return None

    @property
    def revision(self) -> Revision | None:
        """The protocol version of the connection's session; None without one."""
        return None

    @property
    def log_severity(self) -> int | None:
        """The lowest level of log messages that the session's client wants; None for none."""
        return None

    @property
    @abstractmethod
    def default_principal(self) -> Principal | None:
        """The principal of requests without one."""

    @property
    def termination_reason(self) -> TerminationReason | None:
        """Why the session of the connection ends or has ended; None while it is live."""
        return None

    @property
    @abstractmethod
    def budget(self) -> ByteBudget:
        """What counts the bytes of requests that come without a budget of their own."""

    def end_late_sessions(self) -> None:
        """End sessions opened for an unauthenticated client after its own session ended."""
        return  # Other sessions end only with a session.

    @abstractmethod
    def why_it_ends(self) -> str:
        """Return the error text for a request that ends without an answer."""

    @abstractmethod
    def report(self, error: Exception) -> None:
        """Log an error, and send it to event streams and hooks."""

    @abstractmethod
    def complete_result(self, method: str, result: object, *, keepable: bool) -> Mapping[str, Any]:
        """Complete the result of a stateless request with the fields that the protocol adds."""

    @abstractmethod
    def session_missed(self, method: str, name: object) -> None:
        """Log, once for each manager, that a handler used ``ctx.session`` without a session."""

    async def ask_client(
        self,
        sink: MessageSink,  # noqa: ARG002  # for owners that have a client
        method: str,  # noqa: ARG002
        params: Mapping[str, Any] | None,  # noqa: ARG002
        timeout: float | None,  # noqa: ARG002, ASYNC109  # the client is told when it is over
    ) -> Any:
        """Send a request to the client on the given sink, and await the answer.

        A checkpoint.

        Raises:
            NoChannel: There is no connection to a client; see `OutgoingRequests.ask` for others.
        """
        await trio.lowlevel.checkpoint()
        raise NoChannel

    # Sending.

    def send_result(self, sink: MessageSink, frame: bytes) -> None:
        """Send the answer to a request. If the transport fails, it is lost; that is reported."""
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
        """Send another message for a request.

        Returns:
            Whether there was room for it. None if the transport failed: this was reported; do not
            try again.
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
        """Answer a request that is refused with an error."""
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

    def wants_notification(self, application: Application, method: str) -> bool:
        """Return whether the application handles a notification; a failure of it is reported."""
        try:
            return application.handles_notification(method)
        except FAILURES as error:  # the application is asked what it serves
            report = HandlerCrashed(method, "handles_notification of the application")
            report.__cause__ = contain(error)
            self.report(report)
            return False

    def violation(self, what: str) -> None:
        """Count and report what a peer did wrong."""
        self.counters.bad_input += 1
        self.report(PeerViolation(what))

    def queue_rests(self, queue: RequestQueue) -> None:  # noqa: B027  # most owners keep it
        """Called when a queue has had nothing to do for a while. Not a checkpoint."""

    async def for_each_in_batches(self, items: Sequence[T], action: Callable[[T], object]) -> None:
        """Do as `for_each`, and let other tasks run in between.

        A checkpoint only if there are many items. It cannot be cancelled: each item gets its call.
        """
        for start in range(0, len(items), BATCH):
            if start:
                await trio.lowlevel.cancel_shielded_checkpoint()
            self.for_each(items[start : start + BATCH], action)

    def for_each(self, items: Iterable[T], action: Callable[[T], object]) -> None:
        """Call a function for each item; failures are reported, and the other items still follow.

        Raises:
            BaseException: What has to propagate (see `separate`), after the last item.
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
        party: Party | None = None,
        budget: ByteBudget | None = None,
    ) -> InFlightRequest:
        """Run a request, queue it, or refuse it; return it."""

    @abstractmethod
    def stateless_queue(self) -> RequestQueue | None:
        """Return the queue in which the ids of its requests are unique; None where they are not."""
