"""Reading the body of a request, within its limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from ..asgi import Message, Receive
from .headers import RequestHeaders
from .http_error import HttpError

if TYPE_CHECKING:
    from ...core.byte_budget import ByteBudget


class ClientLeft(Exception):
    """The client closed the connection before its request was complete."""


class NoRoomForBody(Exception):
    """The budget that counts the body has no room for it now."""


MAX_PIECES: Final = 4096
"""Pieces that a body may come in, besides one for each `BYTES_PER_PIECE`.

A piece costs as much time whether it has one byte or a thousand. Packets and chunks of real clients
are larger, also of those that write JSON piece by piece.
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
        HttpError: 413, it is too large, or in too many pieces; 408, it takes too long.
        NoRoomForBody: Too many bytes are in memory.
        ClientLeft: The client has left.
    """
    length = headers.content_length
    if length is not None and length.isascii() and length.isdigit() and int(length[:20]) > max_size:
        raise _too_large(max_size)
    if timeout is None:
        return await _read_all(receive, max_size, budget)
    with trio.CancelScope(relative_deadline=timeout):  # `move_on_after` costs twice as much
        return await _read_all(receive, max_size, budget)
    raise HttpError(408, "The request's body took too long")


async def _read_all(receive: Receive, max_size: int, budget: Callable[[], ByteBudget]) -> bytes:
    message = await receive()
    body = _chunk(message)
    if message.get("more_body", False):
        return await _read_pieces(body, receive, max_size, budget())
    if len(body) > max_size:
        raise _too_large(max_size)
    return body


async def _read_pieces(first: bytes, receive: Receive, max_size: int, budget: ByteBudget) -> bytes:
    """Read a body of several pieces. Each is counted as it arrives."""
    # Not a list: thousands of small pieces would take more memory than their bytes.
    body = bytearray()
    counted = pieces = 0
    piece, more = first, True
    try:
        while True:
            if len(body) + len(piece) > max_size:
                raise _too_large(max_size)
            if not budget.claim(len(piece)):
                if not budget.can_hold(len(body) + len(piece)):
                    raise HttpError(413, "The request's body is larger than what may be in memory")
                raise NoRoomForBody
            counted += len(piece)
            body += piece
            pieces += 1
            if pieces > MAX_PIECES + len(body) // BYTES_PER_PIECE:
                raise HttpError(413, "The request's body comes in too many small pieces")
            if not more:
                return bytes(body)
            message = await receive()
            piece, more = _chunk(message), message.get("more_body", False)
    finally:
        budget.release(counted)


def _chunk(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientLeft
    return bytes(message.get("body", b""))  # It may be any kind of bytes.


def _too_large(max_size: int) -> HttpError:
    return HttpError(413, f"The request's body is larger than {max_size} bytes")
