"""POST of a client of 2025-11-25 or older where sessions are not served: each POST for itself."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ...core.errors import ShuttingDown
from ...protocol.jsonrpc import Batch, Message, Request
from ...protocol.revisions import HANDSHAKE_REVISIONS, V2025_03_26
from ...server.mcp_server import server_of
from ...server.request import BUSY
from ...server.sessionless import SessionlessClient
from .batches import check_batch
from .json_response import respond
from .scope_checks import check_scopes, insufficient_scope
from .stateless_post import check_rate
from .stateless_stream import StatelessStream
from .whole_answer import respond_whole

if TYPE_CHECKING:
    from msgspec import UnsetType

    from ...protocol.jsonrpc import RequestId
    from .endpoint import Endpoint
    from .http_request import HttpRequest

WITHOUT_HEADER: Final = V2025_03_26.version
"""The revision of a request that does not name one (2025-06-18, *Protocol Version Header*)."""

AT_ONCE: Final = frozenset({"initialize", "ping"})
"""Methods that need no place among the running requests."""


async def serve_sessionless(
    endpoint: Endpoint,
    request: HttpRequest,
    message: Message | Batch,
    size: int,
    request_id: RequestId | UnsetType | None,
) -> None:
    """Serve a message without a session. A checkpoint where it has to wait.

    Args:
        endpoint: The endpoint.
        request: The POST, of a revision that is served.
        message: The message.
        size: Its size in bytes.
        request_id: The id under which an answer is expected; UNSET for a batch, None for none.

    Raises:
        HttpError: 503, there is no room for it; 400, it is a batch that is refused.
    """
    version = request.headers.protocol_version or WITHOUT_HEADER
    if isinstance(message, Batch):
        check_batch(version, message)
    check_scopes(endpoint, request, message)
    server = server_of(endpoint.manager)
    server.stateless.counters.messages_received += 1
    server.stateless.counters.bytes_received += size
    server.served.notices.served_without_session()
    revision = HANDSHAKE_REVISIONS[version]
    party = request.party
    check_rate(endpoint, party, message)
    client = SessionlessClient(server, endpoint.eras, revision, request.principal, party)
    source = request.source()
    stream = StatelessStream(
        endpoint, request.receive, may_stream=request.forms.events, cancels=False, source=source
    )
    if request_id is None:
        stream.close()  # A handler of a notification has nothing to answer on.
        client.take(message, stream)
        with suppress(OSError):  # The client may have left.
            await respond(request.send, 202)
        return
    at_once = isinstance(message, Request) and message.method in AT_ONCE
    if endpoint.manager._draining:
        raise endpoint.unavailable(str(ShuttingDown()), request_id)
    if not (at_once or server.stateless.has_room_for(party)):
        raise endpoint.unavailable(BUSY, request_id)
    if endpoint.options.answers == "sse" and request.forms.events and not at_once:
        stream.start_stream()
    try:
        client.take(message, stream)
        response = await stream.decided()
        if response is not None:
            await response.run(request.send)
        elif stream.answer is not None:
            if source.missing_scopes and isinstance(message, Request):
                raise insufficient_scope(endpoint, request, source.missing_scopes, message.id)
            await respond_whole(request.send, stream.answer, request.forms)
    except OSError:
        pass  # The client has left.
    finally:
        stream.close()
