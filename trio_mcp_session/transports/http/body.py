"""Reading the body of a request, within its limits."""

from __future__ import annotations

import trio

from ..asgi import Message, Receive
from .headers import RequestHeaders
from .http_error import HttpError


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
        HttpError: 413, it is too large; 408, it takes too long.
        ClientLeft: The client has left.
    """
    length = headers.content_length
    if length is not None and length.isascii() and length.isdigit() and int(length[:20]) > max_size:
        raise _too_large(max_size, length)
    if timeout is None:
        return await _read_all(receive, max_size)
    with trio.CancelScope(relative_deadline=timeout):  # `move_on_after` costs twice as much
        return await _read_all(receive, max_size)
    raise HttpError(
        408, "The request's body took too long", hint="the option: HttpOptions.body_timeout"
    )


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
        raise _too_large(max_size)
    return body


def _chunk(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientLeft
    return bytes(message.get("body", b""))  # It may be any kind of bytes.


def _too_large(max_size: int, length: str | None = None) -> HttpError:
    return HttpError(
        413,
        f"The request's body is larger than {max_size} bytes",
        value=length,
        hint="to accept it: SessionLimits.max_message_size, --max-message-size",
    )
