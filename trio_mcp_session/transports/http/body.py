"""Reading the body of a request, within its limits."""

from __future__ import annotations

from typing import Final

import trio

from ...protocol import jsonrpc
from ...protocol.unread_messages import SCANNED
from ..asgi import Message, Receive
from .headers import RequestHeaders
from .http_error import HttpError

# They come with the headers, or in the next packet.
HEAD_TIME: Final = 1.0
"""Seconds to wait for the first bytes of a body that is too large."""


class ClientLeft(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(
    receive: Receive, headers: RequestHeaders, *, max_size: int, timeout: float | None
) -> bytes:
    """Read the whole body. A checkpoint where it has to wait.

    Args:
        receive: The request's ``receive``.
        headers: The request's headers.
        max_size: Bytes that it may have.
        timeout: Seconds that it may take; None where it is known to have come.

    Raises:
        HttpError: 413, it is too large; 408, it takes too long. That it is too large is answered
            with the request's id, if that is in what has been read.
        ClientLeft: The client has left.
    """
    length = headers.content_length
    if length is not None and length.isascii() and length.isdigit() and int(length[:20]) > max_size:
        # A client that sends ``Expect`` waits for the status before it sends the body.
        head = b"" if headers.expect is not None else await _read_head(receive)
        raise _too_large(max_size, head, length=length)
    if timeout is None:
        return await _read_all(receive, max_size)
    with trio.CancelScope(relative_deadline=timeout):  # `move_on_after` costs twice as much
        return await _read_all(receive, max_size)
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


async def _read_all(receive: Receive, max_size: int) -> bytes:
    message = await receive()
    body = _chunk(message)
    if message.get("more_body", False):
        chunks = [body]
        size = len(body)
        while size <= max_size and message.get("more_body", False):
            message = await receive()
            chunks.append(_chunk(message))
            size += len(chunks[-1])
        body = b"".join(chunks)
    if len(body) > max_size:
        tail = b"" if message.get("more_body", False) else body[-SCANNED:]
        raise _too_large(max_size, body[:SCANNED], tail)
    return body


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
