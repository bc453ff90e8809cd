"""What a client says in its session, or beside it, message by message (all revisions).

The reader of a connection calls `receive` for each frame. Nothing here waits and nothing here
runs the application: pings, cancellations and answers take effect at once and in order, whatever
the handlers are doing. What to do with which message is section 16 of the protocol's decision
tables: the functions below follow its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio
from msgspec import UnsetType

from ..core.errors import McpError, ShuttingDown
from ..protocol import jsonrpc
from ..protocol.discovery import DISCOVER
from ..protocol.envelope import is_modern, missing_envelope
from ..protocol.error_codes import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
)
from ..protocol.handshake import (
    Handshake,
    initialize_result,
    not_initialized,
    read_initialize,
)
from ..protocol.jsonrpc import Batch, Invalid, Message, Notification, Request, RequestId, Response
from ..protocol.logging import read_level
from .batches import BatchOutlet
from .outlet import Outlet
from .requests import InFlightRequest
from .stateless_checks import discover, open_envelope

if TYPE_CHECKING:
    from .session import Session


@final
@attrs.define(eq=False)
class Opening:
    """An ``initialize`` that is being answered, and what the client sent behind it.

    It counts as work: a drain, or a client that has nothing more to say, waits for its answer.
    """

    request_id: RequestId
    outlet: Outlet
    handshake: Handshake
    since: float = attrs.field(factory=trio.current_time, init=False)
    held: list[tuple[Request | Notification, Outlet]] = attrs.field(
        factory=list[tuple[Request | Notification, Outlet]], init=False
    )

    def uses(self, request_id: RequestId) -> bool:
        """Tell whether an answer to a request of this id is owed here."""
        return request_id == self.request_id or any(
            isinstance(message, Request) and message.id == request_id for message, _ in self.held
        )

    def succeed(self, session: Session) -> None:
        """Answer, then take what waited."""
        try:
            frame = jsonrpc.encode_result(self.request_id, self._result(session))
        except Exception as error:  # noqa: BLE001  # the application may say anything of itself
            # The answer is the session's end, which fails what is open.
            session._crashed(error)
            session._report(error)
            return
        session._opening = None
        session._send_result(self.outlet, frame)
        for message, outlet in self.held:
            if isinstance(message, Notification):
                _notification(session, message, outlet)
            elif session._reason is None:
                _admit(session, message, outlet)  # Also in a drain, which began after it came.
        session._end_work()

    def _result(self, session: Session) -> Mapping[str, Any]:
        application = session._manager._served()
        revision = self.handshake.revision
        return initialize_result(
            revision,
            application.server_info,
            application.capabilities(revision),
            application.instructions,
        )

    def cancel(self, request_id: object) -> bool:
        """Strike out a request that waits; ``initialize`` itself cannot be cancelled.

        Returns:
            Whether there was such a request.
        """
        known_id = jsonrpc.read_id(request_id)
        for number, (message, outlet) in enumerate(self.held):
            if isinstance(message, Request) and message.id == known_id:
                del self.held[number]
                outlet.send_no_result()
                return True
        return False

    def fail(self, session: Session, code: int, text: str) -> None:
        """Answer everything with an error."""
        _refuse(session, self.request_id, self.outlet, McpError(code, text))
        for message, outlet in self.held:
            if isinstance(message, Request):
                _refuse(session, message.id, outlet, McpError(code, text))
        session._end_work()


def receive(session: Session, frame: bytes, outlet: Outlet) -> None:
    """Take one frame of a session's client. Not a checkpoint, and never raises.

    Args:
        session: The session that the frame belongs to.
        frame: One message, without framing.
        outlet: Where the answers go.
    """
    limits = session._manager.config.limits
    message = jsonrpc.decode(frame, max_nesting=limits.max_nesting, max_batch=limits.max_batch)
    receive_message(session, message, len(frame), outlet)


def receive_message(session: Session, message: Message | Batch, size: int, outlet: Outlet) -> None:
    """Take one message that has been decoded already. Not a checkpoint, and never raises.

    Args:
        session: The session that the message belongs to.
        message: The message.
        size: Bytes that it came in.
        outlet: Where the answers go.
    """
    counters = session._counters
    counters.messages_received += 1
    counters.bytes_received += size
    dispatch(session, message, outlet)


def refuse_frame(session: Session, what: str, outlet: Outlet) -> None:
    """Answer a frame that could not even be taken. Not a checkpoint."""
    session._counters.messages_received += 1
    dispatch(session, Invalid(what, PARSE_ERROR), outlet)


def dispatch(session: Session, message: Message | Batch, outlet: Outlet) -> None:
    """Take one message of a session's client. Not a checkpoint, and never raises."""
    opening = session._opening
    if isinstance(message, Request):
        _request(session, message, outlet)
    elif isinstance(message, Notification):
        if opening is not None and message.method != "notifications/cancelled":
            _hold(session, opening, message, outlet)
        else:
            _notification(session, message, outlet)
    elif isinstance(message, Response):
        if session._questions is None or not session._questions.resolve(message):
            session._violation("an answer that nobody waits for")
    elif isinstance(message, Batch):
        _batch(session, message, outlet)
    else:
        session._violation(message.what)
        if message.answer:
            _refuse(session, message.id, outlet, McpError(message.code, message.what))


def _request(session: Session, request: Request, outlet: Outlet) -> None:
    method = request.method
    if is_modern(request.params):
        _stand_alone(session, request, outlet)
        return
    if method == "ping":
        # No activity: clients ping to keep a connection, not because they use the session.
        session._send_result(outlet, jsonrpc.encode_result(request.id, None))
        return
    if session._reason is not None or session._drain_reason is not None:
        _refuse(session, request.id, outlet, McpError(INTERNAL_ERROR, str(ShuttingDown())))
    elif session._stateless_gate is not None and session._stateless_gate.clashes(request.id):
        session._requests().refuse_clash(request, outlet)
    elif method == "initialize":
        _initialize(session, request, outlet)
    elif method == DISCOVER:
        session._violation("server/discover without an envelope")
        _refuse(session, request.id, outlet, missing_envelope())
    elif session._opening is not None:
        _hold(session, session._opening, request, outlet)
    elif session._revision is None:
        session._violation("a request before initialize")
        _refuse(session, request.id, outlet, not_initialized())
    else:
        _admit(session, request, outlet)


def _stand_alone(session: Session, request: Request, outlet: Outlet) -> None:
    """Take a request that needs no handshake (2026-07-28): there may be one all the same."""
    if session._reason is not None or session._drain_reason is not None:
        _refuse(session, request.id, outlet, McpError(INTERNAL_ERROR, str(ShuttingDown())))
        return
    application = session._manager._served()
    try:
        envelope = open_envelope(application, request)
    except McpError as error:
        session._violation("a request that cannot stand for itself")
        _refuse(session, request.id, outlet, error)
        return
    session._handshake_done()
    session._touch()
    if _is_taken(session, request.id):
        session._requests().refuse_clash(request, outlet)
    elif request.method == DISCOVER:
        session._counters.requests += 1
        discover(application, InFlightRequest.of(session, request, outlet, envelope))
    else:
        session._stateless_requests().admit(request, outlet, envelope)


def _is_taken(session: Session, request_id: RequestId) -> bool:
    """Tell whether a request of this id is in flight on the connection, of whatever kind."""
    return (session._opening is not None and session._opening.uses(request_id)) or any(
        gate.clashes(request_id) for gate in session._gates()
    )


def _admit(session: Session, request: Request, outlet: Outlet) -> None:
    """Take a request of an established session."""
    session._handshake_done()
    gate = session._gate
    own = _OWN_METHODS.get(request.method)
    if own is None or (gate is not None and gate.clashes(request.id)):
        session._requests().admit(request, outlet)
    else:
        session._touch()
        _answer(session, request, outlet, own)


def _initialize(session: Session, request: Request, outlet: Outlet) -> None:
    if session._revision is not None:
        session._violation("a second initialize")
        _refuse(
            session, request.id, outlet, McpError(INVALID_REQUEST, "Session is already initialized")
        )
        return
    try:
        handshake = read_initialize(request.params)
    except McpError as error:
        session._violation("initialize with bad parameters")
        _refuse(session, request.id, outlet, error)
        return
    session._revision = handshake.revision
    session.client = handshake.client
    session._opening = Opening(request.id, outlet, handshake)
    session._may_open = True
    session._begin_work()
    session._touch()
    session._manager._store._watcher.watch(session)
    session._wake()


def _hold(
    session: Session, opening: Opening, message: Request | Notification, outlet: Outlet
) -> None:
    """Keep what came while ``initialize`` is being answered, for the moment when it is."""
    if len(opening.held) < session._manager.config.limits.max_queued:
        opening.held.append((message, outlet))
    elif isinstance(message, Request):
        _refuse(session, message.id, outlet, McpError(INTERNAL_ERROR, "Server is busy: opening"))
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
    wanted = application.handles_notification(method)
    if wanted and not session._requests().admit_notification(notification, outlet):
        session._counters.dropped += 1


def _batch(session: Session, batch: Batch, outlet: Outlet) -> None:
    what = None
    if session._revision is None or not session._revision.batches:
        what = "batches are not part of this session's protocol version"
    elif any(isinstance(one, Request) and one.method == "initialize" for one in batch.messages):
        what = "initialize must not be part of a batch"
    if what is not None:
        dispatch(session, Invalid(what), outlet)
        return
    gathered = BatchOutlet.of(batch, outlet)
    for message in batch.messages:
        dispatch(session, message, gathered)


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
        _refuse(session, request.id, outlet, error)
    else:
        session._counters.requests += 1
        session._send_result(outlet, jsonrpc.encode_result(request.id, None))


def _refuse(
    session: Session, request_id: RequestId | UnsetType, outlet: Outlet, error: McpError
) -> None:
    session._counters.errors += 1
    session._send_result(
        outlet, jsonrpc.encode_error(request_id, error.code, error.message, error.data)
    )


def _set_level(session: Session, request: Request) -> None:
    if "logging" not in _capabilities(session):
        raise McpError(METHOD_NOT_FOUND, "Method not found")
    session._log_severity = read_level(request.params)


def _subscribe(session: Session, request: Request) -> None:
    uri = _resource(session, request)
    if session._resources is None:
        session._resources = set()
    limit = session._manager.config.limits.max_subscriptions
    if uri not in session._resources and len(session._resources) >= limit:
        raise McpError(INVALID_PARAMS, f"No more than {limit} resources can be subscribed to")
    session._resources.add(uri)


def _unsubscribe(session: Session, request: Request) -> None:
    uri = _resource(session, request)
    if session._resources is not None:
        session._resources.discard(uri)


def _resource(session: Session, request: Request) -> str:
    if not _capabilities(session).get("resources", {}).get("subscribe"):
        raise McpError(METHOD_NOT_FOUND, "Method not found")
    uri = request.params.get("uri")
    if not isinstance(uri, str):
        raise McpError(INVALID_PARAMS, "uri must be a string")
    return uri


def _capabilities(session: Session) -> Mapping[str, Any]:
    assert session._revision is not None
    return session._manager._served().capabilities(session._revision)


_OWN_METHODS: Final[Mapping[str, Callable[[Session, Request], None]]] = {
    "logging/setLevel": _set_level,
    "resources/subscribe": _subscribe,
    "resources/unsubscribe": _unsubscribe,
}
"""Requests about the session itself, which its own state answers."""
