"""POST: a message of the client, or (2025-03-26) a batch of them."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio
from msgspec import UNSET, UnsetType

from ...core.errors import McpError, OpeningRateExceeded, SessionRejected
from ...core.ids import SessionKind
from ...core.reasons import TerminationReason
from ...protocol import jsonrpc
from ...protocol.envelope import PROTOCOL_VERSION, is_modern, missing_envelope
from ...protocol.eras import ServedEras
from ...protocol.handshake import read_initialize
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
from ...protocol.revisions import STATELESS_REVISIONS
from ...server.accept import accept_client
from ...server.busy import NO_MEMORY
from ...server.client_connection import client_of
from ...server.dispatch import receive_message
from .batches import check_batch
from .body import NoRoomForBody, read_body
from .checks import check_content, check_version, http_error_of
from .headers import RequestHeaders
from .http_error import HttpError, too_often
from .json_response import respond
from .request_stream import RequestStream
from .scope_checks import check_missed, check_scopes
from .session_sink import SessionSink
from .session_streams import SessionStreams, streams_of
from .sessionless_post import serve_sessionless
from .stateless_post import budget_of, serve_stateless
from .whole_answer import respond_whole

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
    # While the request waits, or runs, neither its body nor a second reference to its parameters
    # stays here: what serves the message has the only one, until it hands it on.
    message, size = await _read_message(endpoint, request)
    headers = request.headers
    if isinstance(message, Invalid):
        hint = f"the option: SessionLimits.{message.setting}" if message.setting else ""
        raise HttpError(400, message.what, code=message.code, request_id=message.id, hint=hint)
    request.note_message(message)
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
    if endpoint.options.stateless:
        serving = serve_sessionless(endpoint, request, message, size, _id_to_answer(message))
        del message
        await serving
        return
    if isinstance(message, Request) and message.method == "initialize":
        await _initialize(endpoint, request, message, size)
        return
    if headers.session_id is None and isinstance(message, Request):
        raise http_error_of(endpoint.eras.no_session(), message.id)
    session = endpoint.session_of(request)
    streams = streams_of(session)
    if isinstance(message, Batch):
        check_batch(session.protocol_version, message)
    check_scopes(endpoint, request, message)
    request_id = _id_to_answer(message)
    source = request.source()
    if request_id is None:
        sink = SessionSink(streams, source)
        receive_message(client_of(session), message, size, sink)
        with suppress(OSError):  # The client may have left.
            await respond(request.send, 202)
    else:
        stream = RequestStream(
            streams,
            request_id=request_id,
            source=source,
            may_stream=request.forms.events,
            receive=request.receive,
        )
        answering = _answer(endpoint, request, session, message, size, stream)
        del message
        await answering


async def _read_message(endpoint: Endpoint, request: HttpRequest) -> tuple[Message | Batch, int]:
    """Return the decoded message of the client, and its size in bytes.

    Raises:
        HttpError: The request is refused for its headers, or its body cannot be read.
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
    except NoRoomForBody as refused:
        request_id = jsonrpc.unread(NO_MEMORY, refused.head).id
        raise endpoint.unavailable(NO_MEMORY, request_id, refused.size) from None
    check_content(headers)
    _ = request.forms  # It may be refused for them, before its message is looked at.
    message = jsonrpc.decode(
        body,
        max_nesting=limits.max_nesting,
        max_batch=limits.max_batch,
        max_values=limits.max_values,
    )
    return message, len(body)


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
        raise _unknown_message()
    return True


def _no_envelope(headers: RequestHeaders, message: Message | Batch, eras: ServedEras) -> HttpError:
    """Return the error of a message without an envelope, where there are no sessions."""
    version = headers.protocol_version
    request_id = message.id if isinstance(message, Request) else UNSET
    if isinstance(message, Request) and message.method == "initialize":
        return http_error_of(eras.no_envelope(message), request_id)
    if not isinstance(message, (Request, Notification)):
        return _unknown_message()
    if version is not None:
        return http_error_of(eras.unsupported_header(version), request_id)
    if isinstance(message, Notification):
        return http_error_of(mismatch("MCP-Protocol-Version"))
    return http_error_of(eras.no_session(), request_id)


def _unknown_message() -> HttpError:
    return HttpError(400, "Protocol version 2026-07-28 allows neither batches nor client responses")


async def _initialize(
    endpoint: Endpoint, request: HttpRequest, message: Request, size: int
) -> None:
    """Open a session for the client. Nothing is left of it where that fails.

    Raises:
        HttpError: The session is refused, or there is one already.
    """
    # Clients repeat an id that is dead, or empty, when they begin anew. Only a live one is refused.
    if request.headers.session_id is not None and endpoint.find_session(request) is not None:
        raise HttpError(400, "Session is already initialized", request_id=message.id)
    endpoint.check_initialize_size(size, message.id)
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
    except OpeningRateExceeded as exceeded:
        raise too_often(str(exceeded), exceeded.retry_after, message.id) from exceeded
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
        await respond_whole(
            request.send,
            reply.answer,
            request.forms,
            partial(budget_of, endpoint, request),
            headers=named,
        )
    except trio.Cancelled:
        session.terminate(TerminationReason.CANCELLED)
        raise
    except OSError:
        # No client knows the session's id.
        session.terminate(TerminationReason.CLIENT_CLOSED)
    finally:
        streams.end_response()


async def _answer(
    endpoint: Endpoint,
    request: HttpRequest,
    session: Session,
    message: Message | Batch,
    size: int,
    stream: RequestStream,
) -> None:
    """Let the session answer. A client that leaves meanwhile ends nothing."""
    streams, request_id = stream.streams, stream.request_id
    streams.begin_response()
    try:
        receive_message(client_of(session), message, size, stream)
        del message
        response = await stream.decided()
        if response is None:
            assert stream.answer is not None
            check_missed(endpoint, request, stream.source, request_id)
            # The budget of the session is made when it is needed: short answers do not need it.
            await respond_whole(request.send, stream.answer, request.forms, lambda: stream.budget)
        else:
            await response.run(request.send)
    except OSError:
        pass  # The client has left.
    finally:
        streams.end_response()
        stream.response_over()


def _id_to_answer(message: Message | Batch) -> RequestId | UnsetType | None:
    """Return under which id an answer is expected; None where none is."""
    if isinstance(message, Request):
        return message.id
    if isinstance(message, Batch) and any(isinstance(one, Request) for one in message.messages):
        return UNSET
    return None
