"""What a client says in its session, or beside it, message by message (all revisions).

The reader of a connection calls `receive` for each frame. Nothing here waits and nothing here
runs the application: pings, cancellations and answers take effect at once and in order, whatever
the handlers are doing. What to do with which message is section 16 of the protocol's decision
tables: the functions below follow its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.errors import HandlerCrashed, McpError, ShuttingDown
from ..protocol import jsonrpc
from ..protocol.discovery import DISCOVER
from ..protocol.envelope import is_modern, missing_envelope
from ..protocol.eras import BOTH, ServedEras
from ..protocol.error_codes import INTERNAL_ERROR, PARSE_ERROR
from ..protocol.jsonrpc import Batch, Invalid, Message, Notification, Request, RequestId, Response
from ..protocol.subscription_messages import LISTEN
from .batches import BatchOutlet
from .era_notices import modern_client_came
from .failures import FAILURES, contain
from .initialize import Opening, initialize
from .outlet import Outlet
from .own_methods import OWN_METHODS
from .requests import InFlightRequest
from .stateless_checks import discover, is_violation, open_envelope

if TYPE_CHECKING:
    from .session import Session


def receive(session: Session, frame: bytes, outlet: Outlet, eras: ServedEras = BOTH) -> None:
    """Take one frame of a session's client. Not a checkpoint, and never raises.

    Args:
        session: The session that the frame belongs to.
        frame: One message, without framing.
        outlet: Where the answers go.
        eras: What is served to this client.
    """
    limits = session._manager.config.limits
    message = jsonrpc.decode(frame, max_nesting=limits.max_nesting, max_batch=limits.max_batch)
    receive_message(session, message, len(frame), outlet, eras)


def receive_message(
    session: Session,
    message: Message | Batch,
    size: int,
    outlet: Outlet,
    eras: ServedEras = BOTH,
) -> None:
    """Take one message that has been decoded already. Not a checkpoint, and never raises.

    Args:
        session: The session that the message belongs to.
        message: The message.
        size: Bytes that it came in.
        outlet: Where the answers go.
        eras: What is served to this client.
    """
    counters = session._counters
    counters.messages_received += 1
    counters.bytes_received += size
    dispatch(session, message, outlet, eras)


def finish_opening(session: Session) -> None:
    """Answer ``initialize``, then take what the client sent behind it. Not a checkpoint."""
    opening = session._opening
    assert opening is not None
    if not opening.answer(session):
        return
    session._opening = None

    def take(held: tuple[Request | Notification, Outlet]) -> None:
        message, outlet = held
        if isinstance(message, Notification):
            _notification(session, message, outlet)
        elif session._reason is None:
            _admit(session, message, outlet)  # Also in a drain, which began after it came.

    try:
        session._for_each(opening.held, take)
    finally:
        session._end_work()


def refuse_frame(session: Session, what: str, outlet: Outlet) -> None:
    """Answer a frame that could not even be taken. Not a checkpoint."""
    session._counters.messages_received += 1
    dispatch(session, Invalid(what, PARSE_ERROR), outlet)


def dispatch(
    session: Session, message: Message | Batch, outlet: Outlet, eras: ServedEras = BOTH
) -> None:
    """Take one message of a session's client. Not a checkpoint, and never raises."""
    opening = session._opening
    if isinstance(message, Request):
        _request(session, message, outlet, eras)
    elif isinstance(message, Notification):
        if opening is not None and message.method != "notifications/cancelled":
            _hold(session, opening, message, outlet)
        else:
            _notification(session, message, outlet)
    elif isinstance(message, Response):
        if session._questions is None or not session._questions.resolve(message):
            session._violation("an answer that nobody waits for")
    elif isinstance(message, Batch):
        _batch(session, message, outlet, eras)
    else:
        session._violation(message.what)
        if message.answer:
            session._refuse(message.id, outlet, McpError(message.code, message.what))


def _request(session: Session, request: Request, outlet: Outlet, eras: ServedEras) -> None:
    method = request.method
    if is_modern(request.params) or not eras.legacy:
        _stand_alone(session, request, outlet, eras)
        return
    if method == "ping":
        # No activity: clients ping to keep a connection, not because they use the session.
        session._send_result(outlet, jsonrpc.encode_result(request.id, None))
        return
    if session._reason is not None or session._drain_reason is not None:
        session._refuse(request.id, outlet, McpError(INTERNAL_ERROR, str(ShuttingDown())))
    elif session._stateless_gate is not None and session._stateless_gate.clashes(request.id):
        session._requests().refuse_clash(request, outlet)
    elif method == "initialize":
        initialize(session, request, outlet)
    elif method == DISCOVER and eras.modern:
        session._violation("server/discover without an envelope")
        session._refuse(request.id, outlet, missing_envelope())
    elif session._opening is not None:
        _hold(session, session._opening, request, outlet)
    elif session._revision is None:
        session._violation("a request before initialize")
        session._refuse(request.id, outlet, eras.no_session())
    else:
        _admit(session, request, outlet)


def _stand_alone(session: Session, request: Request, outlet: Outlet, eras: ServedEras) -> None:
    """Take a request that needs no handshake (2026-07-28): there may be one all the same."""
    if session._reason is not None or session._drain_reason is not None:
        session._refuse(request.id, outlet, McpError(INTERNAL_ERROR, str(ShuttingDown())))
        return
    application = session._manager._served()
    try:
        envelope = open_envelope(application, request, eras)
    except McpError as error:
        if is_violation(error):
            session._violation("a request that cannot stand for itself")
        session._refuse(request.id, outlet, error)
        return
    except FAILURES as error:  # the application is asked what it serves
        _crash(session, request, outlet, contain(error), "handles_request of the application")
        return
    modern_client_came(session._manager, application)
    session._handshake_done()
    session._touch()
    if _is_taken(session, request.id):
        session._requests().refuse_clash(request, outlet)
    elif request.method == DISCOVER:
        session._counters.requests += 1
        discover(application, InFlightRequest.of(session, request, outlet, envelope))
    elif request.method == LISTEN:
        session._manager._listens.admit(
            InFlightRequest.of(session, request, outlet, envelope), session._stateless_requests()
        )
    else:
        session._stateless_requests().admit(request, outlet, envelope)


def _is_taken(session: Session, request_id: RequestId) -> bool:
    """Tell whether a request of this id is in flight on the connection, of whatever kind."""
    opening, gate, beside = session._opening, session._gate, session._stateless_gate
    return (
        (opening is not None and opening.uses(request_id))
        or (gate is not None and gate.clashes(request_id))
        or (beside is not None and beside.clashes(request_id))
    )


def _admit(session: Session, request: Request, outlet: Outlet) -> None:
    """Take a request of an established session."""
    session._handshake_done()
    gate = session._gate
    own = OWN_METHODS.get(request.method)
    if own is None or (gate is not None and gate.clashes(request.id)):
        session._requests().admit(request, outlet)
    else:
        session._touch()
        _answer(session, request, outlet, own)


def _hold(
    session: Session, opening: Opening, message: Request | Notification, outlet: Outlet
) -> None:
    """Keep what came while ``initialize`` is being answered, for the moment when it is."""
    if len(opening.held) < session._manager.config.limits.max_queued:
        opening.held.append((message, outlet))
    elif isinstance(message, Request):
        session._refuse(message.id, outlet, McpError(INTERNAL_ERROR, "Server is busy: opening"))
    else:
        session._counters.dropped += 1


def _notification(session: Session, notification: Notification, outlet: Outlet) -> None:
    method = notification.method
    if method == "notifications/cancelled":
        request_id = notification.params.get("requestId")
        for waiting in (session._opening or session._gate, session._stateless_gate):
            if waiting is not None and waiting.cancel(request_id):
                session._counters.cancelled += 1
        return
    if session._revision is None or session._reason is not None:
        return
    session._touch()
    if method == "notifications/initialized":
        session._handshake_done()
    application = session._manager._served()
    try:
        wanted = application.handles_notification(method)
    except FAILURES as error:  # the application is asked what it serves
        report = HandlerCrashed(method, "handles_notification of the application")
        report.__cause__ = contain(error)
        session._report(report)
        return
    if wanted and not session._requests().admit_notification(notification, outlet):
        session._counters.dropped += 1


def _batch(session: Session, batch: Batch, outlet: Outlet, eras: ServedEras) -> None:
    what = None
    if session._revision is None or not session._revision.batches:
        what = "batches are not part of this session's protocol version"
    elif any(isinstance(one, Request) and one.method == "initialize" for one in batch.messages):
        what = "initialize must not be part of a batch"
    elif any(isinstance(one, Request) and one.method == LISTEN for one in batch.messages):
        what = "a subscription must not be part of a batch"  # The batch would wait for its end.
    if what is not None:
        dispatch(session, Invalid(what), outlet)
        return
    gathered = BatchOutlet.of(batch, outlet)
    for message in batch.messages:
        dispatch(session, message, gathered, eras)


def _answer(
    session: Session,
    request: Request,
    outlet: Outlet,
    method: Callable[[Session, Request], None],
) -> None:
    """Answer a request that the session itself serves."""
    try:
        method(session, request)
    except McpError as error:
        session._refuse(request.id, outlet, error)
    except FAILURES as error:  # the application is asked what it offers
        _crash(session, request, outlet, contain(error), "capabilities of the application")
    else:
        session._counters.requests += 1
        session._send_result(outlet, jsonrpc.encode_result(request.id, None))


def _crash(session: Session, request: Request, outlet: Outlet, error: Exception, name: str) -> None:
    """Answer a request about which the application failed to say something."""
    crashed = InFlightRequest.of(session, request, outlet)
    crashed.handler_name = name
    crashed.crash(error)
