"""GET: a stream for what the server sends on its own, or the rest of one that was cut."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ...core.errors import SessionTerminated
from ...server.busy import NO_MEMORY
from ..asgi import Receive
from .checks import check_events_accepted, check_version
from .client_left import wait_client_left
from .event_store import EventsPurged, UnknownEvent
from .http_error import HttpError
from .json_response import respond
from .session_log import StreamOver
from .session_streams import NoRoomForReplay, SessionStreams, streams_of
from .sse_response import SseResponse

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .http_request import HttpRequest


async def serve_get(endpoint: Endpoint, request: HttpRequest) -> None:
    """Carry a stream of the session, until it ends or the client leaves. A checkpoint.

    A stream has one connection. The newest GET takes the stream over, and the response of the older
    one ends properly: a client opens another connection when it has lost the one before, and that
    may look alive here for hours.

    An open stream does not count as activity: a client that only listens does not keep its session
    alive.

    Raises:
        HttpError: The stream cannot be carried.
    """
    check_events_accepted(request.headers)
    check_version(request.headers, endpoint.eras)
    streams = streams_of(endpoint.session_of(request))
    last_event_id = request.headers.last_event_id
    if streams.listeners >= endpoint.options.max_streams:
        taken_over = streams.carrier(last_event_id)
        if taken_over is None:
            raise HttpError(
                429,
                "Too many streams are open",
                headers=[endpoint.retry_after],
                hint="the option: HttpOptions.max_streams",
            )
        # At the limit, the older connection has to end before the new one begins.
        taken_over.cut()
    streams.listeners += 1
    try:
        response = await _open(streams, last_event_id, next(endpoint.turns))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cut_when_left, request.receive, response)
            await response.run(request.send)
            nursery.cancel_scope.cancel(reason="stream has ended")
    except StreamOver:
        is_over = True
    else:
        is_over = False
    finally:
        streams.listeners -= 1
    if is_over:
        # Clients would reconnect to a stream without events for ever.
        with suppress(OSError):  # The client may have left.
            await respond(request.send, 204)


async def _open(streams: SessionStreams, last_event_id: str | None, turn: int) -> SseResponse:
    """Find what to carry. A checkpoint only if the event store has to be awaited."""
    try:
        if last_event_id is not None:
            return await streams.resume(last_event_id, turn)
        return await streams.open_standalone(turn)
    except UnknownEvent:
        raise HttpError(400, "Last-Event-ID is not an event of this session") from None
    except EventsPurged:
        raise HttpError(410, "The events after Last-Event-ID are no longer kept") from None
    except SessionTerminated:
        raise HttpError(404, "Session not found") from None
    except NoRoomForReplay:
        raise streams.endpoint.unavailable(NO_MEMORY) from None


async def _cut_when_left(receive: Receive, response: SseResponse) -> None:
    """End the response when the client has left, so that another connection can open the stream."""
    await wait_client_left(receive)
    # Servers say so also of a response that has just come to its end. Hypercorn is still busy with
    # the connection then, within the last write.
    if not response._over:
        response.cut()
