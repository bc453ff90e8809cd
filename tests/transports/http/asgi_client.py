"""A client that calls an ASGI application in this process: no sockets, so time may be virtual."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import Any, final

import attrs
import msgspec
import trio

from trio_mcp_session.transports.asgi import ASGIApplication

JSON_AND_EVENTS = "application/json, text/event-stream"


@final
@attrs.define
class Event:
    """One server-sent event."""

    id: str | None = None
    event: str | None = None
    retry: int | None = None
    data: str | None = None

    @property
    def json(self) -> Any:
        assert self.data is not None
        return msgspec.json.decode(self.data)


@final
class Response:
    """The response, as far as it has come."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self.writes: list[bytes] = []
        """What the server wrote at once, each time."""
        self.server_task = trio.CancelScope()
        """What runs the application for this request: servers may cancel it."""
        self._reads = trio.Event()
        self._reads.set()
        self._chunks, self._came = trio.open_memory_channel[bytes](inf)
        self._started = trio.Event()
        self._buffer = b""

    def stall(self) -> None:
        """Read nothing from now on: the server's writes hang."""
        self._reads = trio.Event()

    def resume(self) -> None:
        """Read again."""
        self._reads.set()

    async def started(self) -> Response:
        await self._started.wait()
        return self

    async def read(self) -> bytes:
        """Read to the end."""
        async for chunk in self._came:
            self.body += chunk
        return self.body

    async def json(self) -> Any:
        return msgspec.json.decode(await self.read())

    async def event(self) -> Event:
        """Read one event; comments are skipped."""
        while b"\n\n" not in self._buffer.replace(b":\r\n\r\n", b""):
            self._buffer += await self._came.receive()
        text = self._buffer.replace(b":\r\n\r\n", b"")
        one, _, self._buffer = text.partition(b"\n\n")
        found = Event()
        for line in one.decode().split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            setattr(found, name, int(value) if name == "retry" else value)
        return found

    async def events(self) -> list[Event]:
        """Read all events to the end of the stream."""
        found: list[Event] = []
        while True:  # noqa: ASYNC913  # the stream has an end
            try:
                found.append(await self.event())
            except trio.EndOfChannel:
                return found


@final
@attrs.define
class Client:
    """Sends requests to an application."""

    app: ASGIApplication
    headers: Mapping[str, str] = attrs.field(factory=dict)
    scope: Mapping[str, Any] = attrs.field(factory=dict)
    writes_at_once: bool = False
    """Whether the server's ``send`` returns at once, as that of the built-in server does."""

    @asynccontextmanager
    async def stream(
        self,
        method: str = "POST",
        json: Any = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str | None] = {},
        more_headers: Iterable[tuple[bytes, bytes]] = (),
        path: str = "/mcp",
        **scope: Any,
    ) -> AsyncIterator[Response]:
        """Send a request; the client leaves when the block is left."""
        content = body if body is not None else b"" if json is None else msgspec.json.encode(json)
        given = {"host": "testserver", "accept": JSON_AND_EVENTS, **self.headers, **headers}
        if method == "POST" and "content-type" not in given:
            given["content-type"] = "application/json"
        all_of_scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode("latin-1"))
                for name, value in given.items()
                if value is not None
            ]
            + list(more_headers),
            "client": ("192.0.2.1", 1234),
            "server": ("192.0.2.2", 80),
            **self.scope,
            **scope,
        }
        response = Response()
        left = trio.Event()
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                await trio.lowlevel.checkpoint()
                return {"type": "http.request", "body": content}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if not self.writes_at_once:
                await trio.lowlevel.checkpoint()
                await response._reads.wait()
            if left.is_set():
                raise OSError("the client has left")
            if message["type"] == "http.response.start":
                response.status = message["status"]
                for name, value in message["headers"]:
                    response.headers[name.decode()] = value.decode("latin-1")
                response._started.set()
                return
            if message.get("body"):
                response.writes.append(message["body"])
                response._chunks.send_nowait(message["body"])
            if not message.get("more_body", False):
                response.complete = True
                response._chunks.close()

        async def run() -> None:
            try:
                with response.server_task:
                    await self.app(all_of_scope, receive, send)
            finally:
                response._started.set()
                response._chunks.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            try:
                yield response
            finally:
                left.set()
                response.resume()

    async def request(self, method: str = "POST", json: Any = None, **options: Any) -> Response:
        """Send a request and read the whole response."""
        async with self.stream(method, json, **options) as response:
            await response.read()
        return response

    async def post(self, json: Any, **options: Any) -> Any:
        """Send a message; return what was answered as JSON."""
        response = await self.request("POST", json, **options)
        assert response.status == 200, (response.status, response.body)
        return msgspec.json.decode(response.body)

    async def initialize(self, version: str = "2025-11-25", **options: Any) -> Client:
        """Open a session; return a client that belongs to it."""
        response = await self.request(
            "POST",
            {
                "jsonrpc": "2.0",
                "id": 0,
                "method": "initialize",
                "params": {
                    "protocolVersion": version,
                    "capabilities": {"elicitation": {}, "sampling": {}, "roots": {}},
                    "clientInfo": {"name": "test", "version": "1"},
                },
            },
            **options,
        )
        assert response.status == 200, (response.status, response.body)
        headers = {**self.headers, "mcp-session-id": response.headers["mcp-session-id"]}
        if version >= "2025-06-18":
            headers["mcp-protocol-version"] = version
        client = Client(self.app, headers, self.scope)
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await client.request("POST", initialized)).status == 202
        return client
