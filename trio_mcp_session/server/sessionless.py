"""Clients of 2025-11-25 and older that are served without sessions: each message for itself.

Over HTTP a server need not have sessions (*Streamable HTTP*, *Session management*). Then any of its
processes can serve any request, and nothing is kept between two requests: no handshake, no log
level, no subscriptions. What needs a session is refused, and not offered in ``initialize``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import attrs

from ..core.errors import McpError, ShuttingDown
from ..core.metrics import SessionCounters
from ..protocol import jsonrpc
from ..protocol.capabilities import without_sessions
from ..protocol.envelope import missing_envelope
from ..protocol.error_codes import METHOD_NOT_FOUND
from ..protocol.handshake import initialize_result, read_initialize
from ..protocol.jsonrpc import Batch, Message, Notification, Request
from ..protocol.methods import DISCOVER
from ..sessions.failures import FAILURES, contain
from .batch import BatchSink
from .request import InFlightRequest
from .request_owner import RequestOwner
from .session_methods import SESSION_METHODS

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget
    from ..core.identity import Principal
    from ..core.peer import Party
    from ..protocol.eras import ServedEras
    from ..protocol.revisions import Revision
    from ..sessions.manager import SessionManager
    from .mcp_server import McpServer
    from .sink import MessageSink


@final
@attrs.define(eq=False, repr=False)
class SessionlessClient(RequestOwner):
    """The client that sent one message, and the owner of the requests in it.

    Its requests share queue and limits with requests of 2026-07-28 over HTTP.
    """

    server: McpServer
    eras: ServedEras
    """Which revisions are served to it."""
    revision: Revision  # pyright: ignore[reportIncompatibleMethodOverride]  # here it is a field
    """The revision of the message."""
    principal: Principal | None
    budget: ByteBudget  # pyright: ignore[reportIncompatibleMethodOverride]  # here it is a field
    """What counts the bytes of its requests."""
    party: Party | None = None
    """What its requests are counted by."""
    counters: SessionCounters = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.counters = self.server.stateless.counters

    def __repr__(self) -> str:
        return f"<SessionlessClient of {self.server.manager!r}>"

    # The owner of requests.

    @property
    def manager(self) -> SessionManager:
        """See `RequestOwner.manager`."""
        return self.server.manager

    @property
    def default_principal(self) -> Principal | None:
        """See `RequestOwner.default_principal`."""
        return self.principal

    def why_it_ends(self) -> str:
        """See `RequestOwner.why_it_ends`."""
        return str(ShuttingDown())

    def report(self, error: Exception) -> None:
        """See `RequestOwner.report`."""
        self.server.stateless.report(error)

    def complete_result(self, method: str, result: object, *, keepable: bool) -> Mapping[str, Any]:
        """See `RequestOwner.complete_result`."""
        return self.server.served.complete_result(method, result, keepable=keepable)

    def session_missed(self, method: str, name: object) -> None:
        """See `RequestOwner.session_missed`."""
        self.server.served.notices.session_missed_without_sessions(method, name)

    # Its message.

    def take(self, message: Message | Batch, sink: MessageSink) -> InFlightRequest | None:
        """Serve the message. Not a checkpoint, and never raises.

        Args:
            message: The message. Each element of a batch is valid.
            sink: Takes the answers.

        Returns:
            The request, if the message is one for the application.
        """
        if isinstance(message, Batch):
            gathered = BatchSink.of(message, sink, self.budget)
            for one in message.messages:
                self.take(one, gathered)
        elif isinstance(message, Request):
            return self._request(message, sink)
        elif isinstance(message, Notification):
            self._notification(message, sink)
        else:
            self.violation("a response that matches no open request")
        return None

    def _request(self, request: Request, sink: MessageSink) -> InFlightRequest | None:
        method = request.method
        if method == "ping":
            if self.server.request_watch() is None:
                self.send_result(sink, jsonrpc.encode_result(request.id, None))
            else:
                self._observed(request, sink).answer(None)
        elif method == "initialize":
            self._initialize(request, sink)
        elif method == DISCOVER and self.eras.modern:
            self.violation("server/discover without an envelope")
            self.refuse(request.id, sink, missing_envelope())
        elif method in SESSION_METHODS:
            what = f"{method} needs a session, and this endpoint serves requests without sessions"
            self.refuse(request.id, sink, McpError(METHOD_NOT_FOUND, what))
        else:
            queue = self.server.stateless.open_queue()
            return queue.admit(
                request, sink, principal=self.principal, owner=self, party=self.party
            )
        return None

    def _observed(self, request: Request, sink: MessageSink) -> InFlightRequest:
        """Return a request that is answered here, after reporting it to the instrumentation."""
        in_flight = InFlightRequest(self, request, sink)
        if (watch := self.server.request_watch()) is not None:
            watch.begin(in_flight)
        return in_flight

    def _initialize(self, request: Request, sink: MessageSink) -> None:
        try:
            handshake = read_initialize(request.params)
        except McpError as error:
            self.violation("initialize with bad parameters")
            self.refuse(request.id, sink, error)
            return
        in_flight = self._observed(request, sink)
        application = self.server.served.get()
        revision = handshake.revision
        try:
            result = initialize_result(
                revision,
                application.server_info,
                without_sessions(application.capabilities(revision)),
                application.instructions,
            )
        except FAILURES as error:  # the application describes itself
            in_flight.handler_name = "capabilities of the application"
            in_flight.crash(contain(error))
        else:
            in_flight.answer(result)

    def _notification(self, notification: Notification, sink: MessageSink) -> None:
        """Run the application's handler. Requests are not cancelled: ids are not unique here."""
        if not self.wants_notification(self.server.served.get(), notification.method):
            return
        queue = self.server.stateless.open_queue()
        if not queue.admit_notification(notification, sink, owner=self, party=self.party):
            self.counters.dropped += 1
