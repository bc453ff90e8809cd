"""The HTTP client of the bridge: requests to one endpoint, with the headers of MCP."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from ...protocol.sse import CONTENT_TYPE
from ...transports.extras import needs_extra
from .address import ServerAddress

if TYPE_CHECKING:
    import httpx2

CONNECT_TIMEOUT: Final = 10.0
"""Seconds to connect to the server."""

KEEP_ALIVE: Final = 3.0
"""Seconds that an unused connection is kept: less than servers keep one, so that no request meets
a connection that the server is just closing."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds to close a connection, which TLS may delay."""

MAX_IDLE_CONNECTIONS: Final = 8
"""Unused connections that are kept."""

MAX_REFUSAL: Final = 65536
"""Bytes that are read of an answer that refuses a request."""

EVENTS: Final = CONTENT_TYPE.decode()
JSON: Final = "application/json"

_KEEP_ALIVE_OPTIONS: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 15),
)


class NotReached(Exception):
    """No connection to the server could be made: it has got nothing of the request."""


class ConnectionLost(Exception):
    """The connection broke, or what came is not HTTP. The server may have got the request."""


@final
@attrs.frozen
class Answer:
    """The head of a response, and what reads its body."""

    status: int
    reason: str
    headers: Mapping[str, str]
    """Its header fields; the names are not case-sensitive."""
    _pieces: AsyncGenerator[bytes]

    @property
    def is_ok(self) -> bool:
        """Whether the server took the request."""
        return 200 <= self.status < 300  # noqa: PLR2004  # numbers of HTTP

    @property
    def media_type(self) -> str:
        """The media type of the body, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def next_piece(self) -> bytes:
        """Return the next piece of the body; nothing at its end. A checkpoint.

        Raises:
            ConnectionLost: It was cut.
        """
        with _translated():
            return await anext(self._pieces, b"")

    async def some_body(self) -> bytes:
        """Return the beginning of the body: about `MAX_REFUSAL` bytes. A checkpoint."""
        body = b""
        while len(body) < MAX_REFUSAL and (piece := await self.next_piece()):
            body += piece
        return body


@final
@attrs.define(eq=False)
class HttpClient:
    """Sends requests to one endpoint. It follows no redirections, and uses no proxies."""

    _url: str
    _client: httpx2.AsyncClient

    @asynccontextmanager
    async def request(
        self,
        method: str,
        headers: Mapping[str, str],
        content: bytes = b"",
        *,
        on_sent: Callable[[], object] = lambda: None,
    ) -> AsyncIterator[Answer]:
        """Send a request, and close its response at the end of the block. A checkpoint.

        Args:
            method: The HTTP method.
            headers: Header fields.
            content: The body.
            on_sent: Called when the request has been written; perhaps several times.

        Raises:
            NotReached: No connection could be made.
            ConnectionLost: It broke.
        """

        async def trace(name: str, _: Mapping[str, Any]) -> None:
            if name.endswith("send_request_body.complete"):
                on_sent()
            await trio.lowlevel.checkpoint_if_cancelled()

        with _translated():
            request = self._client.build_request(
                method, self._url, headers=dict(headers), content=content
            )
            request.extensions["trace"] = trace
            response = await self._client.send(request, stream=True)
        pieces = response.aiter_raw()
        try:
            yield Answer(response.status_code, response.reason_phrase, response.headers, pieces)
        finally:
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await pieces.aclose()
                await response.aclose()


@contextmanager
def _translated() -> Iterator[None]:
    """Translate the errors of the HTTP library."""
    import httpx2  # noqa: PLC0415  # see `check_http_client`

    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise NotReached(str(error) or "it did not accept the connection in time") from error
    except httpx2.TransportError as error:
        raise ConnectionLost(str(error) or type(error).__name__) from error


def check_http_client() -> None:
    """Check that the HTTP client is installed. Not a checkpoint.

    Raises:
        MissingExtra: It is not.
    """
    with needs_extra("connect", "httpx2", "An address of HTTP"):
        import_module("httpx2")  # Only where the address is HTTP.


@asynccontextmanager
async def open_http_client(address: ServerAddress, token: str | None) -> AsyncIterator[HttpClient]:
    """Open a client for the length of a block.

    Args:
        address: Where the endpoint is.
        token: A bearer token that goes with each request.
    """
    import httpx2  # noqa: PLC0415  # see `check_http_client`

    assert address.url is not None
    headers = {"User-Agent": "trio-mcp-session connect", "Accept-Encoding": "identity"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    options = [
        (level, getattr(socket, name), value)
        for level, name, value in _KEEP_ALIVE_OPTIONS
        if hasattr(socket, name) and address.unix_path is None
    ]
    limits = httpx2.Limits(
        max_connections=None,
        max_keepalive_connections=MAX_IDLE_CONNECTIONS,
        keepalive_expiry=KEEP_ALIVE,
    )
    transport = httpx2.AsyncHTTPTransport(
        uds=address.unix_path, socket_options=options, limits=limits
    )
    async with httpx2.AsyncClient(
        transport=transport,
        headers=headers,
        timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT),
        trust_env=False,
    ) as client:
        yield HttpClient(address.url, client)
