"""HTTP requests to an endpoint under test, without an SDK."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPResponse
from typing import Any, Final, cast

import attrs
import trio

from ..protocol.revisions import LATEST_HANDSHAKE
from ..transports.http1.listeners import BoundAddress
from .event_parser import EventParser

_JSON: Final = "application/json"
_END_OF_HEADERS: Final = b"\r\n\r\n"


@attrs.frozen(kw_only=True)
class HttpAnswer:
    """A whole answer to an HTTP request."""

    status: int
    """The status: 200, for example."""

    headers: Message
    """The headers; ``headers["Mcp-Session-Id"]`` finds one in any case, or is None."""

    text: str
    """The body."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The JSON-RPC messages in the body, which is JSON or a stream of events."""
        if self.headers.get_content_type() == _JSON:
            return [json.loads(self.text)]
        return [json.loads(data) for data in EventParser().feed(self.text.encode())]

    @property
    def last_event_id(self) -> str:
        """The id of the last event in the body, to resume after.

        Raises:
            LookupError: No event in the body has an id.
        """
        events = EventParser()
        for _ in events.feed(self.text.encode()):
            pass
        if events.last_event_id is None:
            raise LookupError("no event in the body has an id")
        return events.last_event_id


async def http_request(
    address: BoundAddress,
    verb: str,
    method: str | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    path: str = "/mcp",
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    **headers: str,
) -> HttpAnswer:
    """Send one HTTP request to an endpoint, and return the whole answer.

    ::

        answer = await http_request(address, "POST", "tools/call", params, **session)

    Each request has its own connection, which is closed after the answer. A checkpoint. When
    cancelled, the connection is closed.

    The connection is a real socket: do not use a clock that jumps by itself beside it.

    Args:
        address: Where the server listens: a value that `serve_http` gives to ``started()``. TLS
            is not supported.
        verb: The HTTP method: ``POST``, ``GET`` or ``DELETE``.
        method: The method of the JSON-RPC message in the body; None for an empty body.
        params: The parameters of a request; None makes the message a notification.
        path: The path of the endpoint.
        task_status: ``started()`` is called when the headers of the answer have arrived.
        headers: More headers, or others than the default ones, with ``_`` for ``-``:
            ``Mcp_Session_Id="..."``.

    Raises:
        OSError: The server cannot be reached.
        http.client.HTTPException: The connection ended before the answer did.
    """
    body = b"" if method is None else json.dumps(_message(method, params)).encode()
    lines = [f"{verb} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in _headers(address, body, headers).items()]
    received = bytearray()
    started = False
    async with await _connect(address) as stream:
        await stream.send_all("\r\n".join([*lines, "", ""]).encode() + body)
        async for chunk in stream:
            received += chunk
            if not started and _END_OF_HEADERS in received:
                started = True
                task_status.started()
    return _parse(received, verb)


async def open_http_session(address: BoundAddress, **headers: str) -> dict[str, Any]:
    """Open a session over Streamable HTTP (2025-11-25), and return its headers.

    They are arguments for `http_request`: the header ``Mcp-Session-Id``, and ``headers``. A
    checkpoint. When cancelled, the session may be open; then `CleanupConfig.handshake_timeout` ends
    it.

    Args:
        address: Where the server listens.
        headers: Headers of each request, as for `http_request`.

    Raises:
        ConnectionError: The server did not open a session; the error has its answer.
        OSError: The server cannot be reached.
        http.client.HTTPException: The connection ended before the answer did.
    """
    params = {
        "protocolVersion": LATEST_HANDSHAKE.version,
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    answer = await http_request(address, "POST", "initialize", params, **cast("Any", headers))
    session_id = answer.headers["Mcp-Session-Id"]
    if session_id is None:
        raise ConnectionError(f"the server did not open a session: {answer.status} {answer.text}")
    session: dict[str, Any] = {**headers, "Mcp_Session_Id": session_id}
    await http_request(address, "POST", "notifications/initialized", **session)
    return session


async def _connect(address: BoundAddress) -> trio.SocketStream:
    if address.unix_path is not None:
        return await trio.open_unix_socket(address.unix_path)
    return await trio.open_tcp_stream(address.host, address.port)


def _message(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    return message if params is None else {**message, "id": 1, "params": params}


def _headers(address: BoundAddress, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return {
        "Host": "localhost" if address.unix_path is not None else str(address),
        "Accept": f"{_JSON}, text/event-stream",
        "Content-Type": _JSON,
        "Content-Length": str(len(body)),
        **named,
        # The end of the answer is the end of the connection.
        "Connection": "close",
    }


class _Received(io.BytesIO):
    """Bytes that were received, in the form in which the standard library parses them."""

    def makefile(self, _mode: str) -> io.BytesIO:
        return self


def _parse(received: bytes | bytearray, verb: str) -> HttpAnswer:
    response = HTTPResponse(cast("Any", _Received(received)), method=verb)
    response.begin()
    return HttpAnswer(
        status=response.status, headers=response.headers, text=response.read().decode()
    )
