"""POST of a client of 2025-11-25 or older where sessions are not served: each POST for itself."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from msgspec import UnsetType

from ...protocol.jsonrpc import Batch, Message, Request
from ...protocol.revisions import HANDSHAKE_REVISIONS, V2025_03_26
from ...server.sessionless import SessionlessClient
from .batches import check_batch
from .json_response import respond
from .scope_checks import check_missed, check_scopes
from .stateless_post import budget_of, check_node, check_rate
from .stateless_stream import StatelessStream
from .whole_answer import respond_whole

if TYPE_CHECKING:
    from ...core.peer import Party
    from ...protocol.jsonrpc import RequestId
    from ...server.request import InFlightRequest
    from .endpoint import Endpoint
    from .http_request import HttpRequest

WITHOUT_HEADER: Final = V2025_03_26.version
"""The revision of a request that does not name one (2025-06-18, *Protocol Version Header*)."""

AT_ONCE: Final = frozenset({"initialize", "ping"})
"""Methods that need no place among the running requests, and do not count for rate limits."""


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
        HttpError: 503, a limit is reached; 400, the batch is refused; 413, the ``initialize`` is
            too large; 429, the client sends too many requests; 401 or 403, the client does not have
            scopes that the message needs; 421, its handle belongs to another node.
    """
    version = request.headers.protocol_version or WITHOUT_HEADER
    if isinstance(message, Batch):
        check_batch(version, message)
    server = endpoint.server
    server.stateless.counters.messages_received += 1
    server.stateless.counters.bytes_received += size
    server.served.notices.served_without_session()
    revision = HANDSHAKE_REVISIONS[version]
    party = request.party
    _check_rates(endpoint, party, message)
    check_scopes(endpoint, request, message)
    if isinstance(message, Request):
        check_node(endpoint, request, message)
    budget = budget_of(endpoint, request)
    client = SessionlessClient(server, endpoint.eras, revision, request.principal, budget, party)
    stream = StatelessStream(
        endpoint,
        request.receive,
        budget,
        may_stream=request.forms.events,
        cancels=False,
        source=request.source(),
    )
    if request_id is None:
        stream.close()  # A handler of a notification has nothing to answer on.
        client.take(message, stream)
        with suppress(OSError):  # The client may have left.
            await respond(request.send, 202)
        return
    at_once = isinstance(message, Request) and message.method in AT_ONCE
    if isinstance(message, Request) and message.method == "initialize":
        endpoint.check_initialize_size(size, message.id)
    why = server.no_turn_for(party, at_once=at_once)
    if why is not None:
        raise endpoint.unavailable(why, request_id)
    if endpoint.options.answers == "sse" and request.forms.events and not at_once:
        stream.start_stream()
    try:
        in_flight = client.take(message, stream)
        del message  # While the request waits, its parameters do not stay here.
        await _answer(endpoint, request, stream, in_flight, request_id)
    except OSError:
        pass  # The client has left.
    finally:
        stream.close()


async def _answer(
    endpoint: Endpoint,
    request: HttpRequest,
    stream: StatelessStream,
    in_flight: InFlightRequest | None,
    request_id: RequestId | UnsetType,
) -> None:
    """Answer the POST.

    Args:
        endpoint: The endpoint.
        request: The POST.
        stream: Takes the answers of the message.
        in_flight: The request, if the message is one for the application.
        request_id: Its id; UNSET for a batch.
    """
    response = await stream.decided()
    if response is not None:
        await response.run(request.send)
    elif in_flight is not None and in_flight.no_room is not None:
        raise endpoint.unavailable(in_flight.no_room, request_id)
    elif stream.answer is not None:
        check_missed(endpoint, request, stream.source, request_id)
        await respond_whole(request.send, stream.answer, request.forms, lambda: stream.budget)


def _check_rates(endpoint: Endpoint, party: Party | None, message: Message | Batch) -> None:
    """Refuse a message of a party that sends too many requests; a batch counts as its requests.

    Raises:
        HttpError: 429.
    """
    for one in message.messages if isinstance(message, Batch) else (message,):
        if isinstance(one, Request) and one.method not in AT_ONCE:
            check_rate(endpoint, party, one)
