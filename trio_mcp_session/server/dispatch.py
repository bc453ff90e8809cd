"""Decides what to do with each message of a client (all revisions).

The reader of a connection calls `receive` for each frame. The functions in this module neither wait
nor run a handler. So pings, cancellations and answers take effect at once and in order, whatever
the handlers are doing. The functions follow the rows of section 16 of the protocol's decision
tables.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

import msgspec
from msgspec import UnsetType

from ..core.errors import McpError
from ..protocol import jsonrpc
from ..protocol.envelope import is_modern, missing_envelope
from ..protocol.eras import served_eras
from ..protocol.error_codes import INTERNAL_ERROR
from ..protocol.jsonrpc import Batch, Invalid, Message, Notification, Request, Response
from ..protocol.methods import DISCOVER, LISTEN, TASK_METHODS
from ..sessions.failures import FAILURES, contain
from .batch import BatchSink
from .client_connection import ClientConnection, client_of
from .initialize import initialize
from .mcp_server import server_of
from .modern import admit, is_violation, open_envelope
from .request import InFlightRequest
from .session_methods import SESSION_METHODS, serve
from .sink import MessageSink, SessionSink

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session
    from .pending_initialize import HeldMessage, PendingInitialize


def receive(session: Session, frame: bytes, sink: MessageSink) -> None:
    """Take one frame of the client of a session that `accept` opened.

    Not a checkpoint, and never raises: an invalid frame is answered, counted and reported. Pass the
    frames in the order in which the client sent them.

    Args:
        session: The session that the frame belongs to.
        frame: One JSON-RPC message, or a batch, in UTF-8, without framing.
        sink: Takes the answers: the sink that `accept` was given, or one for this frame only.
    """
    receive_frame(_client_or_former(session, sink), frame, sink)


def _client_or_former(session: Session, sink: MessageSink) -> ClientConnection:
    """Return the connection of a session; for one that has let it go, one that refuses requests."""
    if not session._had_client:
        return client_of(session)
    server = server_of(cast("SessionManager", session._manager))
    eras = served_eras(server.served.get(), None)
    return ClientConnection(session, server, cast("SessionSink", sink), eras)


def receive_frame(client: ClientConnection, frame: bytes, sink: MessageSink) -> None:
    """Take one frame of a client, as `receive` does. Not a checkpoint, and never raises."""
    limits = client.manager.config.limits
    message = jsonrpc.decode(
        frame,
        max_nesting=limits.max_nesting,
        max_batch=limits.max_batch,
        max_values=limits.max_values,
    )
    receive_message(client, message, len(frame), sink)


def receive_message(
    client: ClientConnection,
    message: Message | Batch,
    size: int,
    sink: MessageSink,
) -> None:
    """Take one decoded message. Not a checkpoint, and never raises.

    Args:
        client: The connection that the message came on.
        message: The message.
        size: Its size in bytes.
        sink: Takes the answers.
    """
    counters = client.counters
    counters.messages_received += 1
    counters.bytes_received += size
    dispatch(client, message, sink)


def refuse_frame(client: ClientConnection, message: Invalid, sink: MessageSink) -> None:
    """Answer a frame that could not be received. Not a checkpoint."""
    client.counters.messages_received += 1
    dispatch(client, message, sink)


def dispatch(client: ClientConnection, message: Message | Batch, sink: MessageSink) -> None:
    """Take one message of a session's client. Not a checkpoint, and never raises."""
    pending = client.pending
    if isinstance(message, Request):
        _request(client, message, sink)
    elif isinstance(message, Notification):
        if pending is not None and message.method != "notifications/cancelled":
            _hold(client, pending, message, sink)
        else:
            _notification(client, message, sink)
    elif isinstance(message, Response):
        if client.outgoing is None or not client.outgoing.resolve(message):
            client.violation("a response that matches no open request")
    elif isinstance(message, Batch):
        _batch(client, message, sink)
    else:
        client.violation(message.what)
        if message.answer:
            client.refuse(message.id, sink, McpError(message.code, message.what))
        elif client.outgoing is not None and not isinstance(message.answers, UnsetType):
            # Otherwise the task that has asked would wait until its timeout.
            client.outgoing.resolve(Response(message.answers, error=_unreadable(message.what)))


def _unreadable(what: str) -> dict[str, object]:
    """Return the error that stands for a malformed answer of the client."""
    return {"code": INTERNAL_ERROR, "message": f"the client's answer cannot be used: {what}"}


def _request(client: ClientConnection, request: Request, sink: MessageSink) -> None:
    method = request.method
    if is_modern(request.params) or not client.eras.legacy:
        _stateless(client, request, sink)
        return
    if method == "ping":
        # Not activity: clients ping to keep a connection, not because they use the session.
        if (watch := client.server.request_watch()) is None:
            client.send_result(sink, jsonrpc.encode_result(request.id, None))
        else:
            in_flight = InFlightRequest(client, request, sink)
            watch.begin(in_flight)
            in_flight.answer(None)
        return
    why_not = client.session._why_it_refuses()
    if why_not is not None:
        client.refuse(request.id, sink, McpError(INTERNAL_ERROR, why_not))
    elif client.stateless_requests is not None and client.stateless_requests.clashes(request.id):
        client.request_queue().refuse_clash(request, sink)
    elif method == "initialize":
        initialize(client, request, sink, partial(_take_held, client))
    elif method == DISCOVER and client.eras.modern:
        client.violation("server/discover without an envelope")
        client.refuse(request.id, sink, missing_envelope())
    elif client.pending is not None:
        _hold(client, client.pending, request, sink)
    elif client.revision is None:
        client.violation("a request before initialize")
        client.refuse(request.id, sink, client.eras.no_session())
    else:
        _admit(client, request, sink)


def _stateless(client: ClientConnection, request: Request, sink: MessageSink) -> None:
    """Take a request of 2026-07-28, which needs no handshake; the client may have made one."""
    why_not = client.session._why_it_refuses()
    # In a drain, clients can still ask for the tasks that it waits for.
    if why_not is not None and (
        request.method not in TASK_METHODS or client.session._reason is not None
    ):
        client.refuse(request.id, sink, McpError(INTERNAL_ERROR, why_not))
        return
    application = client.server.served.get()
    try:
        envelope = open_envelope(application, request, client.eras)
    except McpError as error:
        if is_violation(error):
            client.violation("a modern request that is not complete")
        client.refuse(request.id, sink, error)
        return
    except FAILURES as error:  # the application is asked what it serves
        _crash(client, request, sink, contain(error), "handles_request of the application")
        return
    if _too_often(client, request, sink):
        return
    client.server.served.notices.modern_client_came()
    client.session._handshake_done()
    client.session._touch()
    if client.has_in_flight(request.id):
        client.request_queue().refuse_clash(request, sink)
    else:
        admit(client.server, client, request, sink, envelope)


def _admit(client: ClientConnection, request: Request, sink: MessageSink) -> None:
    """Take a request of an established session."""
    client.session._handshake_done()
    if _too_often(client, request, sink):
        return
    queue = client.requests
    if (
        request.method not in SESSION_METHODS
        or request.method in client.server.served.own_methods
        or (queue is not None and queue.clashes(request.id))
    ):
        client.request_queue().admit(request, sink)
    else:
        client.session._touch()
        _answer(client, request, sink)


def _too_often(client: ClientConnection, request: Request, sink: MessageSink) -> bool:
    """Refuse a request that is sent too often; return whether it was."""
    rates = client.server.rates
    refusal = None if rates is None else rates.refusal(client.session, request.method)
    if refusal is not None:
        client.refuse(request.id, sink, refusal)
    return refusal is not None


def _hold(
    client: ClientConnection,
    pending: PendingInitialize,
    message: Request | Notification,
    sink: MessageSink,
) -> None:
    """Hold a message that came before ``initialize`` is answered, until it is."""
    if len(pending.held) < client.manager.config.limits.max_queued and pending.hold(
        message, sink, client.budget
    ):
        return
    if isinstance(message, Request):
        client.refuse(message.id, sink, McpError(INTERNAL_ERROR, "Server is busy: opening"))
    else:
        client.counters.dropped += 1


def _notification(client: ClientConnection, notification: Notification, sink: MessageSink) -> None:
    method = notification.method
    if method == "notifications/cancelled":
        request_id = notification.params.get("requestId")
        if _cancel_first(client, request_id):
            client.counters.cancelled += 1
        stateless = client.stateless_requests
        if stateless is not None and stateless.cancel(request_id):
            client.counters.cancelled += 1
        return
    if client.revision is None or client.session._reason is not None:
        return
    client.session._touch()
    if method == "notifications/initialized":
        client.session._handshake_done()
    if not client.wants_notification(client.server.served.get(), method):
        return
    if not client.request_queue().admit_notification(notification, sink):
        client.counters.dropped += 1


def _cancel_first(client: ClientConnection, request_id: object) -> bool:
    """Cancel a request of the session, or one that waits behind ``initialize``."""
    if client.pending is not None:
        return client.pending.cancel(client, request_id)
    return client.requests is not None and client.requests.cancel(request_id)


def _take_held(client: ClientConnection, held: HeldMessage) -> None:
    """Handle a message that was held until ``initialize`` was answered."""
    message, sink = held
    if message.frame:  # It was held undecoded.
        message = msgspec.structs.replace(message, params=jsonrpc.decode_again(message.frame))
    if isinstance(message, Notification):
        _notification(client, message, sink)
    elif client.session._reason is None:
        _admit(client, message, sink)  # Also in a drain, since that began after the message came.


def _batch(client: ClientConnection, batch: Batch, sink: MessageSink) -> None:
    what = None
    if client.revision is None or not client.revision.batches:
        what = "batches are not part of this session's protocol version"
    elif any(isinstance(one, Request) and one.method == "initialize" for one in batch.messages):
        what = "initialize must not be part of a batch"
    elif any(isinstance(one, Request) and one.method == LISTEN for one in batch.messages):
        what = "a subscription must not be part of a batch"  # It would delay the batch.
    if what is not None:
        dispatch(client, Invalid(what), sink)
        return
    gathered = BatchSink.of(batch, sink, client.budget)
    for message in batch.messages:
        dispatch(client, message, gathered)


def _answer(
    client: ClientConnection,
    request: Request,
    sink: MessageSink,
) -> None:
    """Answer a request that the session itself serves."""
    in_flight = InFlightRequest(client, request, sink)
    if (watch := client.server.request_watch()) is not None:
        watch.begin(in_flight)
    try:
        serve(client, request)
    except McpError as error:
        in_flight.fail(error.code, error.message, error.data)
    except FAILURES as error:  # the application is asked what it offers
        in_flight.handler_name = "capabilities of the application"
        in_flight.crash(contain(error))
    else:
        client.counters.requests += 1
        in_flight.answer(None)


def _crash(
    client: ClientConnection, request: Request, sink: MessageSink, error: Exception, name: str
) -> None:
    """Answer a request that the application failed to describe or to classify."""
    crashed = InFlightRequest(client, request, sink)
    crashed.handler_name = name
    crashed.crash(error)
