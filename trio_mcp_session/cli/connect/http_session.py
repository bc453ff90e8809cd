"""The session of the host at an HTTP endpoint: its id, the headers, and what refusals mean."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, Final, final

import attrs
import trio

from ...protocol.header_mirroring import mirror_request
from .carried_request import RequestFailed, SessionOver
from .endpoint_client import EVENTS, JSON, Answer, ConnectionLost, HttpClient, NotReached
from .messages import HostMessage, error_of

DELETE_TIMEOUT: Final = 2.0
"""Seconds to end the session in the end: hosts kill a program that takes longer."""

_BOTH: Final = f"{JSON}, {EVENTS}"

_NONE: Final[Mapping[str, str]] = {}

_HINTS: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "give a valid token with --token-file",
    HTTPStatus.FORBIDDEN: "the token does not allow this, or the server does not know its name "
    "in this address",
    HTTPStatus.MISDIRECTED_REQUEST: "what it names belongs to another server",
    HTTPStatus.TOO_MANY_REQUESTS: "try again later",
    HTTPStatus.SERVICE_UNAVAILABLE: "try again later",
}


@final
@attrs.define(eq=False)
class HttpSession:
    """Sends messages of the host to one endpoint, with the headers that they need.

    Args:
        client: The client of the endpoint.
        restart: Starts the server again if it is gone; returns whether it runs now.
    """

    _client: HttpClient
    _restart: Callable[[], Awaitable[bool]]
    session_id: str | None = attrs.field(default=None, init=False)
    """The id that the server has given; None without a session."""
    version: str | None = attrs.field(default=None, init=False)
    """The protocol version of the session."""

    def open(self, session_id: str | None) -> None:
        """Begin a session. Not a checkpoint.

        Args:
            session_id: The id that the server has given; None if it has none.
        """
        self.session_id = session_id

    def negotiated(self, version: str | None) -> None:
        """Set the protocol version, which goes with each message from now on. Not a checkpoint."""
        self.version = version

    @asynccontextmanager
    async def post(
        self,
        message: HostMessage,
        more: Mapping[str, str] = _NONE,
        sent: Callable[[], object] = lambda: None,
    ) -> AsyncIterator[Answer]:
        """Send a message of the host, for the length of a block. A checkpoint.

        Args:
            message: The message.
            more: Further headers.
            sent: Called when it has been written.

        Raises:
            RequestFailed: The server cannot be reached, the connection broke, or the server
                refuses the message.
            SessionOver: The server does not know the session.
            ConnectionLost: The body of the answer was cut; only inside of the block.
        """
        headers = {"Content-Type": JSON, "Accept": _BOTH, **more}
        if message.version is None:
            headers |= self._session_headers()
        else:
            headers |= mirror_request(message.method, message.version, message.name)
        async with AsyncExitStack() as stack:
            answer: Answer | None = None
            is_restarted = False
            while answer is None:
                unreached: NotReached | None = None
                try:
                    answer = await stack.enter_async_context(
                        self._client.request("POST", headers, message.frame, on_sent=sent)
                    )
                except NotReached as error:
                    unreached = error
                if unreached is not None:
                    if is_restarted or not await self._restart():
                        what = f"cannot connect to the server: {unreached}"
                        raise RequestFailed(what) from unreached
                    is_restarted = True
            if not answer.is_ok:
                raise await self._refused(answer, in_session="Mcp-Session-Id" in headers)
            yield answer

    @asynccontextmanager
    async def get(self, last_event_id: str | None) -> AsyncIterator[Answer]:
        """Open a stream of the session, or the rest of one, for the length of a block.

        Args:
            last_event_id: The event after which to resume; None for the stream of the session.

        Raises:
            RequestFailed: As for `post`; so are the others.
            NotReached: The server cannot be reached.
        """
        headers = {"Accept": EVENTS, **self._session_headers()}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        async with self._client.request("GET", headers) as answer:
            if not answer.is_ok:
                raise await self._refused(answer, in_session="Mcp-Session-Id" in headers)
            yield answer

    async def delete(self) -> None:
        """End the session at the server, if there is one and that is possible. A checkpoint."""
        if self.session_id is None:
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(DELETE_TIMEOUT), suppress(NotReached, ConnectionLost):
            async with self._client.request("DELETE", self._session_headers()):
                pass  # Some servers refuse it: their sessions end by their clocks.

    def _session_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.session_id is not None:
            headers["Mcp-Session-Id"] = self.session_id
        if self.version is not None:
            headers["MCP-Protocol-Version"] = self.version
        return headers

    async def _refused(self, answer: Answer, *, in_session: bool) -> RequestFailed:
        """Return what the host is told: the server's own error, or one that names the status."""
        status = answer.status
        body = b""
        with suppress(ConnectionLost):
            body = await answer.some_body()
        error = error_of(body) or {}
        told = error.get("message")
        if status == HTTPStatus.NOT_FOUND and in_session:
            why = f": {told}" if isinstance(told, str) else ""
            return SessionOver(f"the server has ended the session (HTTP 404){why}", status=status)
        data: dict[str, Any] = {"httpStatus": status}
        if (after := answer.headers.get("retry-after")) is not None:
            data["retryAfter"] = after
        if isinstance(told, str):
            return RequestFailed(
                told, code=error["code"], data=error.get("data", data), status=status
            )
        hint = _HINTS.get(status)
        return RequestFailed(
            f"the server refuses the request: HTTP {status} {answer.reason}".rstrip()
            + (f"; {hint}" if hint else ""),
            data=data,
            status=status,
        )
