"""The connection of a session to its client: protocol state, requests and messages."""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from math import inf
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from ..core.errors import McpError, NoChannel, ShuttingDown
from ..core.ids import SessionKind
from ..core.instrumentation import RequestOutcome
from ..core.lifecycle_states import SessionState
from ..core.log_level import SEVERITY
from ..core.reasons import TerminationReason
from ..protocol import jsonrpc
from ..protocol.error_codes import INTERNAL_ERROR
from ..protocol.handshake import initialize_result
from ..protocol.methods import SET_LEVEL, is_declared
from ..sessions.failures import FAILURES, contain
from .keep_alive import KeepAlive
from .observed_question import ask_observed
from .outgoing import OutgoingRequests
from .request_owner import ModernOwner
from .request_queue import RequestQueue

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget
    from ..core.identity import Principal
    from ..core.metrics import SessionCounters
    from ..core.peer import Party
    from ..core.reasons import EndingReason
    from ..protocol.envelope import Envelope
    from ..protocol.eras import ServedEras
    from ..protocol.jsonrpc import Request, RequestId
    from ..protocol.revisions import Revision
    from ..sessions.manager import SessionManager
    from ..sessions.manager_server import RunningRequests
    from ..sessions.session import Session
    from .mcp_server import McpServer
    from .pending_initialize import PendingInitialize
    from .request import InFlightRequest
    from .request_owner import TaskSpawner
    from .sink import MessageSink, SessionSink


@final
@attrs.define(eq=False, repr=False, weakref_slot=False)
class ClientConnection(ModernOwner):
    """The client of a session: what was agreed on, and its open requests and subscriptions.

    It implements `SessionClient`, the interface that the session uses, and owns the requests of the
    client. Requests of the session run in the session's nursery. Stateless requests on a pipe run
    in the manager's nursery, since they may be parked and then outlive the connection.
    """

    session: Session  # pyright: ignore[reportIncompatibleMethodOverride]  # here it is a field
    server: McpServer
    sink: SessionSink
    """Sends messages to the client outside of its requests."""
    eras: ServedEras
    """Which revisions are served to it."""

    counters: SessionCounters = attrs.field(init=False)
    """The session's counters, at hand for each message."""

    # What was agreed on.
    revision: Revision | None = attrs.field(  # pyright: ignore[reportIncompatibleMethodOverride]
        default=None, init=False
    )
    pending: PendingInitialize | None = attrs.field(default=None, init=False)
    refusal: McpError | None = attrs.field(default=None, init=False)
    """The error for ``initialize`` if the session ends before it is answered."""
    log_severity: int | None = attrs.field(default=None, init=False)
    resources: set[str] | None = attrs.field(default=None, init=False)

    # Made on first use.
    requests: RequestQueue | None = attrs.field(default=None, init=False)
    """The requests of the session."""
    stateless_requests: RequestQueue | None = attrs.field(default=None, init=False)
    """The stateless requests (2026-07-28)."""
    outgoing: OutgoingRequests | None = attrs.field(default=None, init=False)
    keep_alive: KeepAlive | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.counters = self.session._counters

    def __repr__(self) -> str:
        return f"<ClientConnection of {self.session!r}>"

    # The owner of requests.

    @property
    def manager(self) -> SessionManager:
        """The manager of its session."""
        return self.server.manager

    @property
    def default_principal(self) -> Principal | None:
        """See `RequestOwner.default_principal`."""
        return self.session._default_principal

    @property
    def termination_reason(self) -> TerminationReason | None:
        """See `RequestOwner.termination_reason`."""
        return self.session.termination_reason

    @property
    def budget(self) -> ByteBudget:
        """See `RequestOwner.budget`."""
        return self.session._byte_budget()

    def end_late_sessions(self) -> None:
        """See `RequestOwner.end_late_sessions`."""
        self.session._end_late_sessions()

    def why_it_ends(self) -> str:
        """See `RequestOwner.why_it_ends`."""
        return self.session._why_it_ends()

    def report(self, error: Exception) -> None:
        """See `RequestOwner.report`."""
        self.session._report(error)

    def complete_result(self, method: str, result: object, *, keepable: bool) -> Mapping[str, Any]:
        """See `RequestOwner.complete_result`."""
        return self.server.served.complete_result(method, result, keepable=keepable)

    def session_missed(self, method: str, name: object) -> None:
        """See `RequestOwner.session_missed`."""
        self.server.served.notices.session_missed(method, name)

    # Its requests.

    def request_queue(self) -> RequestQueue:
        """Return the queue of the session's requests."""
        if self.requests is None:
            session = self.session
            self.requests = self._new_queue(session, shares_ids=session.kind is SessionKind.HEADER)
        return self.requests

    def admit(
        self,
        message: Request,
        sink: MessageSink,
        envelope: Envelope,
        principal: Principal | None,
        party: Party | None = None,
        budget: ByteBudget | None = None,
    ) -> InFlightRequest:
        """See `ModernOwner.admit`: all its requests are of one party."""
        del party
        return self.stateless_queue().admit(message, sink, envelope, principal, budget=budget)

    def stateless_queue(self) -> RequestQueue:
        """See `ModernOwner.stateless_queue`."""
        if self.stateless_requests is None:
            self.stateless_requests = self._new_queue(self.server.stateless, shares_ids=False)
        return self.stateless_requests

    def _new_queue(self, spawner: TaskSpawner, *, shares_ids: bool) -> RequestQueue:
        limits = self.manager.config.limits
        return RequestQueue(
            self,
            self.session,
            spawner,
            self.server.served.get(),
            limits.max_in_flight,
            limits.max_queued,
            self.session._clocks.request_timeout,
            shares_ids=shares_ids,
            resting=self.server.resting,
        )

    def has_in_flight(self, request_id: RequestId) -> bool:
        """Return whether a request of this id is in flight on the connection, of either era."""
        pending, requests, stateless = self.pending, self.requests, self.stateless_requests
        return (
            (pending is not None and pending.uses(request_id))
            or (requests is not None and requests.clashes(request_id))
            or (stateless is not None and stateless.clashes(request_id))
        )

    def queue_rests(self, queue: RequestQueue) -> None:
        """See `RequestOwner.queue_rests`: the next request makes another one."""
        if queue is self.requests and queue.empty:
            self.requests = None

    def _queues(self) -> list[RequestQueue]:
        queues = (self.requests, self.stateless_requests)
        return [queue for queue in queues if queue is not None]

    def running_requests(self) -> RunningRequests:
        """See `SessionClient.running_requests`."""
        found: RunningRequests = {}
        for queue in self._queues():
            found |= queue.running_requests()
        return found

    @property
    def in_flight(self) -> int:
        """See `SessionClient.in_flight`."""
        return sum(queue.running for queue in self._queues())

    @property
    def queued(self) -> int:
        """See `SessionClient.queued`."""
        return sum(queue.queued for queue in self._queues())

    # Messages outside of requests.

    @property
    def protocol_version(self) -> str | None:
        """See `Session.protocol_version`."""
        return None if self.revision is None else self.revision.version

    @property
    def subscribed_resources(self) -> AbstractSet[str]:
        """See `Session.subscribed_resources`."""
        return frozenset(self.resources or ())

    def is_subscribed(self, uri: str) -> bool:
        """See `SessionClient.is_subscribed`."""
        return self.resources is not None and uri in self.resources

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """See `Session.notify`."""
        sink = self._reachable_sink()
        frame = self._encode_notification(method, params)
        await trio.lowlevel.checkpoint()
        self.session._check_live()
        while not (taken := self.send_message(sink, frame)):
            if taken is None:
                raise NoChannel("sending to the client failed")
            await sink.wait_writable()
            self.session._check_live()
            sink = self._reachable_sink()

    def notify_nowait(self, method: str, params: Mapping[str, Any] | None) -> bool:
        """See `Session.notify_nowait`."""
        return self._offer(self._reachable_sink(), self._encode_notification(method, params))

    def _encode_notification(self, method: str, params: Mapping[str, Any] | None) -> bytes:
        if self.manager._instruments:
            params = self.manager._instruments.notification_sent(method, params)
        return jsonrpc.encode_notification(method, params)

    async def ask(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        timeout: float | None,  # noqa: ASYNC109  # the client is told when it is over
    ) -> Any:
        """See `Session.ask`."""
        return await self.ask_client(self._reachable_sink(), method, params, timeout)

    async def ask_client(
        self,
        sink: MessageSink,
        method: str,
        params: Mapping[str, Any] | None,
        timeout: float | None,  # noqa: ASYNC109  # the client is told when it is over
    ) -> Any:
        """Send a request to the client on the given sink. A checkpoint.

        See `OutgoingRequests.ask`; the timeout is `CleanupConfig.question_timeout` by default.
        """
        if self.outgoing is None:
            limit = self.manager.config.limits.max_questions
            self.outgoing = OutgoingRequests(self, self.session, limit)
        if timeout is None:
            timeout = self.session._clocks.question_timeout
        instruments = self.manager._instruments
        if instruments:
            return await ask_observed(instruments, self.outgoing, method, params, sink, timeout)
        return await self.outgoing.ask(method, params, sink, timeout)

    def offer(self, frame: bytes) -> bool | None:
        """See `SessionClient.offer`."""
        # Before the handshake is finished, a client gets answers only.
        if (
            self.revision is None
            or self.pending is not None
            or self.session.state not in (SessionState.ACTIVE, SessionState.IDLE)
        ):
            return None
        return self._offer(self.sink, frame)

    @property
    def has_open_stream(self) -> bool:
        """See `SessionClient.has_open_stream`."""
        # Only the sink of a header session has this method: it carries several responses.
        return bool(getattr(self.sink, "has_open_stream", False))

    def _offer(self, sink: MessageSink, frame: bytes) -> bool:
        if self.send_message(sink, frame):
            return True
        self.counters.dropped += 1
        return False

    def _reachable_sink(self) -> MessageSink:
        if not self.sink.reachable:
            raise NoChannel
        return self.sink

    # Its clocks.

    @property
    def handshake_began(self) -> float | None:
        """See `SessionClient.handshake_began`."""
        return None if self.pending is None else self.pending.since

    def next_ping(self, quiet_since: float) -> float:
        """See `SessionClient.next_ping`."""
        last_ping = -inf if self.keep_alive is None else self.keep_alive.last_ping
        return max(quiet_since, last_ping) + self.session._clocks.ping_interval

    def ping_if_due(self, quiet_since: float, now: float) -> None:
        """See `SessionClient.ping_if_due`."""
        if now < self.next_ping(quiet_since):
            return
        if self.keep_alive is None:
            self.keep_alive = KeepAlive()
        if quiet_since > self.keep_alive.last_ping:
            self.keep_alive.missed = 0  # It was active since the ping, so it is not silent.
        self.keep_alive.last_ping = now
        session = self.session
        # Not a missed ping: there is no open stream to ping on, or no handshake yet.
        if self.sink.connected and session._nursery is not None:
            session.start_soon(self.keep_alive.ping, session, name="keep-alive ping", service=True)

    def session_is_idle(self) -> None:
        """See `SessionClient.session_is_idle`: idle workers end."""
        for queue in self._queues():
            queue.retire()

    # The order of opening and ending.

    def session_is_open(self) -> None:
        """See `SessionClient.session_is_open`: answers ``initialize``, then held messages."""
        pending = self.pending
        if pending is None:
            self.session._handshake_done()
        elif self._answer_initialize(pending):
            self.pending = None
            if pending.held_bytes:  # Each message is counted again when it is taken.
                self.budget.release(pending.held_bytes)
            try:
                self.for_each(pending.held, pending.take)
            finally:
                self.session._end_work()

    def _answer_initialize(self, pending: PendingInitialize) -> bool:
        """Answer ``initialize``; return whether that was possible."""
        application = self.server.served.get()
        revision = pending.handshake.revision
        try:
            capabilities = application.capabilities(revision)
            describe = getattr(application, "initialize_result", None)
            result: Mapping[str, Any] = (
                initialize_result(
                    revision,
                    application.server_info,
                    capabilities,
                    application.instructions,
                )
                if describe is None
                else describe(self.session)
            )
            frame = jsonrpc.encode_result(pending.request_id, result)
        except FAILURES as error:  # the application describes itself
            failure = contain(error)
            # Ending the session answers ``initialize``, as all that is open, with an error.
            self.session._crashed(failure)
            self.session._report(failure)
            return False
        level = self.manager.config.default_log_level
        # Another library has its own default.
        if (
            describe is None
            and level is not None
            and is_declared(SET_LEVEL.capability, capabilities)
        ):
            self.log_severity = SEVERITY[level]  # pyright: ignore[reportIncompatibleMethodOverride]
        self.send_result(pending.sink, frame)
        if pending.observed is not None:
            pending.observed.finished(RequestOutcome(result=result))
        return True

    def refuse_initialize(self, error: McpError) -> None:
        """End the session that opens, and answer ``initialize`` with an error. Not a checkpoint.

        Called in the lifespan of the session.
        """
        self.refusal = error
        self.session.terminate(TerminationReason.REQUESTED)

    def requests_end_soon(self, reason: EndingReason) -> None:
        """See `SessionClient.requests_end_soon`."""
        for queue in self._queues():
            queue.end_soon(reason)

    def drain_subscriptions(self) -> None:
        """See `SessionClient.drain_subscriptions`."""
        if self.stateless_requests is not None:
            self.stateless_requests.drain_subscriptions()

    def fail_pending(self) -> None:
        """See `SessionClient.fail_pending`."""
        message = f"Session has ended: {self.session._reason_to_end().value}"
        if self.stateless_requests is not None:
            self._fail_tasks()
            self.stateless_requests.end_subscriptions()
        pending, self.pending = self.pending, None
        try:
            if pending is not None:
                pending.fail(self, self.refusal or McpError(INTERNAL_ERROR, message))
        finally:
            if pending is not None:
                if pending.held_bytes:
                    self.budget.release(pending.held_bytes)
                self.session._end_work()
            for queue in self._queues():
                queue.fail_all(INTERNAL_ERROR, message)
            if self.outgoing is not None:
                self.outgoing.fail_all()

    def _fail_tasks(self) -> None:
        """Fail the tasks that end with this connection, before its subscriptions end.

        Their sessions end later, with the other sessions that belong to the connection only.
        """
        session = self.session
        if session.principal is None:
            why = (
                str(ShuttingDown())
                if self.manager._draining
                else f"the session of its client has ended: {session._reason_to_end().value}"
            )
            self.server.fail_tasks(session._default_principal, why)

    async def flush(self) -> None:
        """See `SessionClient.flush`."""
        await self.sink.finish()

    # Tasks outside of the session's nursery: those of stateless requests.

    def let_go(self) -> bool:
        """See `SessionClient.let_go`."""
        for queue in self._queues():
            self.server.resting.discard(queue)
        if self.pending or self.outgoing or not all(one.empty for one in self._queues()):
            return False
        # Only the sink of a header session has this: it carries several responses.
        if getattr(self.sink, "has_responses", False):
            return False
        self.requests = self.stateless_requests = self.outgoing = None
        return True

    @property
    def has_outside_tasks(self) -> bool:
        """See `SessionClient.has_outside_tasks`."""
        return self.stateless_requests is not None

    @property
    def outside_tasks(self) -> AbstractSet[trio.lowlevel.Task]:
        """See `SessionClient.outside_tasks`."""
        return frozenset() if self.stateless_requests is None else self.stateless_requests.tasks

    def cancel_outside_tasks(self) -> None:
        """See `SessionClient.cancel_outside_tasks`."""
        assert self.stateless_requests is not None
        self.stateless_requests.cancel_all()

    async def wait_outside_tasks(self) -> None:
        """See `SessionClient.wait_outside_tasks`."""
        if self.stateless_requests is not None:
            await self.stateless_requests.wait_empty()


def client_of(session: Session) -> ClientConnection:
    """Return the connection of a session.

    Raises:
        LookupError: The session has no connection: the application opened it.
    """
    # The engine's types do not know the server's: only this function narrows the type. It is called
    # more than once for each request, so not with `cast`, which is a call, too.
    connection: Any = session._connection
    if connection is None:
        raise LookupError("the session has no connection to a client")
    narrowed: ClientConnection = connection
    return narrowed
