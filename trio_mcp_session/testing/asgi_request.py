"""One HTTP request to an ASGI application in this process: no socket, so time may be virtual."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, final

import attrs
import trio

from ..transports.asgi import ASGIApplication, ClientDisconnected, Message, Scope

HOST = "127.0.0.1"


@final
@attrs.define(eq=False, repr=False)
class AsgiRequest:
    """A request, and what has come of its response.

    Args:
        verb: The HTTP method.
        path: The path.
        headers: The headers, by name.
        body: The body.
        take: Called with each part of the response's body.
    """

    verb: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    take: Callable[[AsgiRequest, bytes], Awaitable[None]]
    status: int = attrs.field(default=0, init=False)
    """The status of the response; 0 before it begins."""
    response_headers: dict[str, str] = attrs.field(factory=dict[str, str], init=False)
    """The headers of the response, with names in lower case."""
    read: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the application has read the body, or has ended without it."""
    started: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the response begins, or the application has ended without one."""
    _left: trio.Event = attrs.field(factory=trio.Event, init=False)

    @property
    def left(self) -> bool:
        """Whether the client has left."""
        return self._left.is_set()

    def leave(self) -> None:
        """Close the connection: the application is told, and writes nothing more."""
        self._left.set()

    async def run(self, app: ASGIApplication) -> None:
        """Let an application serve the request. A checkpoint."""
        try:
            await app(self._scope(), self._receive, self._send)
        finally:
            self.read.set()
            self.started.set()

    def _scope(self) -> Scope:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self.verb,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode("latin-1"))
                for name, value in self.headers.items()
            ],
            "client": (HOST, 50000),
            "server": (HOST, 80),
        }

    async def _receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        if not self.read.is_set():
            self.read.set()
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        if self.left:
            raise ClientDisconnected("the client has closed the connection")
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message["headers"]:
                self.response_headers[name.decode("latin-1").lower()] = value.decode("latin-1")
            self.started.set()
        elif message.get("body"):
            await self.take(self, message["body"])
