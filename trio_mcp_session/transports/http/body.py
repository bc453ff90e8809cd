"""Reading the body of a request, within its limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from ...protocol import jsonrpc
from ...protocol.unread_messages import SCANNED
from ..asgi import Message, Receive
from .headers import RequestHeaders
from .http_error import MEMORY_OPTIONS, HttpError

if TYPE_CHECKING:
    from ...core.byte_budget import ByteBudget

# They come with the headers, or in the next packet.
HEAD_TIME: Final = 1.0
"""Seconds to wait for the first bytes of a body that is too large."""


class ClientLeft(Exception):
    """The client closed the connection before its request was complete."""


class NoRoomForBody(Exception):
    """The budget that counts the body has no room for it now.

    Args:
        head: The first bytes of the body.
        size: Bytes of it that have come.
    """

    def __init__(self, head: bytes, size: int) -> None:
        super().__init__(size)
        self.head: Final = head
        self.size: Final = size


MAX_PIECES: Final = 4096
"""Pieces that a body may have, and one more for each `BYTES_PER_PIECE`.

A piece costs as much time whether it has one byte or a thousand. Packets and chunks of real clients
are larger, even if these write JSON piece by piece.
"""

BYTES_PER_PIECE: Final = 256


async def read_body(
    receive: Receive,
    headers: RequestHeaders,
    *,
    max_size: int,
    timeout: float | None,
    budget: Callable[[], ByteBudget],
) -> bytes:
    """Read the whole body. A checkpoint where it has to wait.

    Args:
        receive: The request's ``receive``.
        headers: The request's headers.
        max_size: Bytes that it may have.
        timeout: Seconds that it may take; None where it is known to have come.
        budget: Returns what counts the bytes of a body that comes in several pieces.

    Raises:
        HttpError: 413, it is too large, or in too many pieces; 408, it takes too long. That it is
            too large is answered with the request's id, if that is in what has been read.
        NoRoomForBody: Too many bytes are in memory.
        ClientLeft: The client has left.
    """
    length = headers.content_length
    if length is not None and length.isascii() and length.isdigit() and int(length[:20]) > max_size:
        # A client that sends ``Expect`` waits for the status before it sends the body.
        head = b"" if headers.expect is not None else await _read_head(receive)
        raise _too_large(max_size, head, length=length)
    if timeout is None:
        return await _read_all(receive, max_size, budget)
    with trio.CancelScope(relative_deadline=timeout):  # `move_on_after` costs twice as much
        return await _read_all(receive, max_size, budget)
    raise HttpError(
        408, "The request's body took too long", hint="the option: HttpOptions.body_timeout"
    )


async def _read_head(receive: Receive) -> bytes:
    """Return the first bytes of a body that is too large: they may contain the request's id."""
    head = b""
    with trio.move_on_after(HEAD_TIME):
        message = await receive()
        head = _chunk(message)[:SCANNED]
        while len(head) < SCANNED and message.get("more_body", False):
            message = await receive()
            head += _chunk(message)[:SCANNED]
    return head


async def _read_all(receive: Receive, max_size: int, budget: Callable[[], ByteBudget]) -> bytes:
    message = await receive()
    body = _chunk(message)
    if message.get("more_body", False):
        return await _read_pieces(body, receive, max_size, budget())
    if len(body) > max_size:
        raise _too_large(max_size, body[:SCANNED], body[-SCANNED:])
    return body


async def _read_pieces(first: bytes, receive: Receive, max_size: int, budget: ByteBudget) -> bytes:
    """Read a body of several pieces. Each is counted as it arrives."""
    # Not a list: thousands of small pieces would take more memory than their bytes.
    body = bytearray()
    counted = pieces = 0
    piece, more = first, True
    try:
        while True:
            size = len(body) + len(piece)
            if size > max_size:
                tail = b"" if more else bytes(body[-SCANNED:]) + piece[-SCANNED:]
                raise _too_large(max_size, _head_of(body, piece), tail[-SCANNED:])
            if not budget.claim(len(piece)):
                head = _head_of(body, piece)
                if budget.can_hold(size):
                    raise NoRoomForBody(head, size)
                what = "The request's body is larger than the byte budget"
                raise _refused(what, head, size, MEMORY_OPTIONS)
            counted += len(piece)
            body += piece
            pieces += 1
            if pieces > MAX_PIECES + size // BYTES_PER_PIECE:
                what = "The request's body comes in too many small pieces"
                raise _refused(what, _head_of(body), pieces, "a proxy may gather the pieces")
            if not more:
                return bytes(body)
            message = await receive()
            piece, more = _chunk(message), message.get("more_body", False)
    finally:
        budget.release(counted)


def _head_of(body: bytearray, piece: bytes = b"") -> bytes:
    """Return the first bytes of a body: of what has come, and of the next piece."""
    return (bytes(body[:SCANNED]) + piece[:SCANNED])[:SCANNED]


def _refused(what: str, head: bytes, value: int, hint: str) -> HttpError:
    request_id = jsonrpc.unread(what, head).id
    return HttpError(413, what, request_id=request_id, value=str(value), hint=hint)


def _chunk(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientLeft
    return bytes(message.get("body", b""))  # It may be any kind of bytes.


def _too_large(
    max_size: int, head: bytes = b"", tail: bytes = b"", *, length: str | None = None
) -> HttpError:
    what = f"The request's body is larger than {max_size} bytes"
    return HttpError(
        413,
        what,
        request_id=jsonrpc.unread(what, head, tail).id,
        value=length,
        hint="to accept it: SessionLimits.max_message_size, --max-message-size",
    )
