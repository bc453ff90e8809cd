"""POST: a message of the client, or (2025-03-26) a batch of them."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio
from msgspec import UNSET, UnsetType

from ...core.errors import McpError, SessionRejected
from ...core.ids import SessionKind
from ...core.reasons import TerminationReason
from ...protocol import jsonrpc
from ...protocol.envelope import PROTOCOL_VERSION, is_modern, missing_envelope
from ...protocol.eras import ServedEras
from ...protocol.handshake import initialize_too_large, read_initialize
from ...protocol.header_agreement import mismatch
from ...protocol.jsonrpc import (
    Batch,
    Invalid,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
)
from ...protocol.media_types import is_json
from ...protocol.revisions import STATELESS_REVISIONS
from ...server.accept import accept_client
from ...server.busy import NO_MEMORY
from ...server.client_connection import client_of
from ...server.dispatch import receive_message
from .body import NoRoomForBody, read_body
from .checks import check_accept, check_version, http_error_of
from .headers import RequestHeaders
from .http_error import HttpError
from .json_response import JSON, respond, respond_within
from .request_stream import RequestStream
from .session_streams import SessionStreams, streams_of
from .stateless_post import budget_of, serve_stateless

if TYPE_CHECKING:
    from ...sessions.session import Session
    from .endpoint import Endpoint
    from .http_request import HttpRequest


async def serve_post(endpoint: Endpoint, request: HttpRequest) -> None:
    """Take a message of the client, and answer it. A checkpoint where it has to wait.

    Raises:
        HttpError: The message is refused before it reaches a session.
        ClientLeft: It never came.
    """
    limits = endpoint.manager.config.limits
    headers = request.headers
    try:
        body = await read_body(
            request.receive,
            headers,
            max_size=limits.max_message_size,
            # A scope with a deadline is a tenth of all that a short call costs.
            timeout=None if request.body_at_hand else endpoint.options.body_timeout,
            budget=partial(budget_of, endpoint, request),
        )
    except NoRoomForBody:
        raise endpoint.unavailable(NO_MEMORY, UNSET) from None
    if not is_json(headers.content_type or ""):
        raise HttpError(415, "Content-Type must be application/json")
    check_accept(headers, "application/json", "text/event-stream")
    size = len(body)
    message = jsonrpc.decode(
        body,
        max_nesting=limits.max_nesting,
        max_batch=limits.max_batch,
        max_values=limits.max_values,
    )
    # While the request waits, or runs, neither its body nor a second reference to its parameters
    # stays here: `serving` has the only one, until it hands it on.
    del body
    serving = _serve_message(endpoint, request, message, size)
    del message
    await serving


async def _serve_message(
    endpoint: Endpoint, request: HttpRequest, message: Message | Batch, size: int
) -> None:
    """Take a decoded message of the client, and answer it."""
    headers = request.headers
    if isinstance(message, Invalid):
        raise HttpError(400, message.what, code=message.code, request_id=message.id)
    if isinstance(message, Request) and is_modern(message.params):
        serving = serve_stateless(endpoint, request, message, size)
        del message
        await serving
        return
    if _is_dropped(headers, message, endpoint.eras):
        with suppress(OSError):  # The client may have left.
            await respond(request.send, 202)
        return
    if not endpoint.eras.legacy:
        raise _no_envelope(headers, message, endpoint.eras)
    check_version(headers, endpoint.eras)
    if isinstance(message, Request) and message.method == "initialize":
        await _initialize(endpoint, request, message, size)
        return
    if headers.session_id is None and isinstance(message, Request):
        raise http_error_of(endpoint.eras.no_session(), message.id)
    session = endpoint.session_of(request)
    streams = streams_of(session)
    if isinstance(message, Batch):
        _check_batch(session, message)
    request_id = _id_to_answer(message)
    if request_id is None:
        receive_message(client_of(session), message, size, streams)
        with suppress(OSError):  # The client may have left.
            await respond(request.send, 202)
    else:
        stream = RequestStream(streams, request_id=request_id)
        answering = _answer(request, session, message, size, stream)
        del message
        await answering


def _is_dropped(headers: RequestHeaders, message: Message | Batch, eras: ServedEras) -> bool:
    """Return whether a message is a notification of 2026-07-28, which has no effect over HTTP.

    Requests are not cancelled by id there: ids of different clients are unrelated.

    Raises:
        HttpError: 400, its envelope or its header says 2026-07-28, and that is wrong.
    """
    if isinstance(message, Notification) and is_modern(message.params):
        version = message.params["_meta"][PROTOCOL_VERSION]
        try:
            eras.check_stateless(str(version))
        except McpError as error:
            raise http_error_of(error) from error
        return True
    if not eras.modern or headers.protocol_version not in STATELESS_REVISIONS:
        return False
    if isinstance(message, Request):
        raise http_error_of(missing_envelope(), message.id)
    if not isinstance(message, Notification):
        raise _no_such_message()
    return True


def _no_envelope(headers: RequestHeaders, message: Message | Batch, eras: ServedEras) -> HttpError:
    """Return the error of a message without an envelope, where there are no sessions."""
    version = headers.protocol_version
    request_id = message.id if isinstance(message, Request) else UNSET
    if isinstance(message, Request) and message.method == "initialize":
        return http_error_of(eras.no_envelope(message), request_id)
    if not isinstance(message, (Request, Notification)):
        return _no_such_message()
    if version is not None:
        return http_error_of(eras.unsupported(version), request_id)
    if isinstance(message, Notification):
        return http_error_of(mismatch("MCP-Protocol-Version"))
    return http_error_of(eras.no_session(), request_id)


def _no_such_message() -> HttpError:
    return HttpError(400, "Protocol version 2026-07-28 allows neither batches nor client responses")


async def _initialize(
    endpoint: Endpoint, request: HttpRequest, message: Request, size: int
) -> None:
    """Open a session for the client. Nothing is left of it where that fails.

    Raises:
        HttpError: The session is refused, or there is one already.
    """
    if request.headers.session_id is not None:
        endpoint.session_of(request)
        raise HttpError(400, "Session is already initialized", request_id=message.id)
    limit = endpoint.manager.config.limits.max_initialize_size
    if size > limit:
        too_large = initialize_too_large(limit)
        raise HttpError(413, too_large.message, code=too_large.code, request_id=message.id)
    try:
        read_initialize(message.params)
    except McpError as error:
        # For HTTP, the request was served.
        raise HttpError(200, error.message, code=error.code, request_id=message.id) from error
    streams = SessionStreams(endpoint)
    try:
        session = await accept_client(
            endpoint.manager,
            streams,
            endpoint.eras,
            kind=SessionKind.HEADER,
            transport=request.transport,
            principal=request.principal,
        )
    except SessionRejected as rejection:
        raise endpoint.unavailable(str(rejection), message.id) from rejection
    streams.session = session
    reply = RequestStream(streams, request_id=message.id, may_stream=False)
    streams.begin_response()
    try:
        receive_message(client_of(session), message, size, reply)
        await reply.decided()
        assert reply.answer is not None
        opened = isinstance(answer := jsonrpc.decode(reply.answer), Response) and (
            answer.error is UNSET
        )
        named = ((b"mcp-session-id", session.session_id.encode()),) if opened else ()
        await respond(request.send, 200, reply.answer, (JSON, *named))
    except trio.Cancelled:
        session.terminate(TerminationReason.CANCELLED)
        raise
    except OSError:
        # No client knows the session's id.
        session.terminate(TerminationReason.CLIENT_CLOSED)
    finally:
        streams.end_response()


async def _answer(
    request: HttpRequest,
    session: Session,
    message: Message | Batch,
    size: int,
    stream: RequestStream,
) -> None:
    """Let the session answer. A client that leaves meanwhile ends nothing."""
    streams = stream.streams
    streams.begin_response()
    try:
        receive_message(client_of(session), message, size, stream)
        del message
        response = await stream.decided()
        if response is None:
            assert stream.answer is not None
            await respond_within(stream.budget, request.send, 200, stream.answer, (JSON,))
        else:
            await response.run(request.send)
    except OSError:
        pass  # The client has left.
    finally:
        streams.end_response()


def _id_to_answer(message: Message | Batch) -> RequestId | UnsetType | None:
    """Return under which id an answer is expected; None where none is."""
    if isinstance(message, Request):
        return message.id
    if isinstance(message, Batch) and any(isinstance(one, Request) for one in message.messages):
        return UNSET
    return None


def _check_batch(session: Session, batch: Batch) -> None:
    """Refuse a batch as a whole where any of it is wrong.

    Raises:
        HttpError: 400.
    """
    if (revision := client_of(session).revision) is None or not revision.batches:
        raise HttpError(400, "Batches are not part of this session's protocol version")
    for message in batch.messages:
        if isinstance(message, Invalid):
            raise HttpError(400, f"The batch contains an invalid message: {message.what}")
        if isinstance(message, Request) and message.method == "initialize":
            raise HttpError(400, "initialize must not be part of a batch")
        if isinstance(message, (Request, Notification)) and is_modern(message.params):
            raise HttpError(400, "Messages of 2026-07-28 must not be part of a batch")
