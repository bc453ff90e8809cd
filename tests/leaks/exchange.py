"""HTTP by hand: requests that stop anywhere, clients that leave, read slowly or not at all.

An exchange is not a block that a test is in, as with the client of `tests.transports.http`:
it runs on between the rules of a state machine, and each of its phases can be its last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from math import inf
from typing import Any, TypeAlias

import attrs
import msgspec
import trio

from tests.helpers import cancelled, initialize, notification, request
from trio_mcp_session import Principal, Transport
from trio_mcp_session.protocol.jsonrpc import is_object
from trio_mcp_session.transports.asgi import ASGIApplication, Scope
from trio_mcp_session.transports.http.authentication import AuthenticationFailed

Spawn: TypeAlias = Callable[[Callable[[], Awaitable[None]]], None]
"""Starts a task of the server's: each exchange has one."""

KEEP_ALIVE = b":\r\n\r\n"


async def authenticate(scope: Scope, headers: Mapping[str, str]) -> Principal | None:
    """Take the principal that a request names."""
    await trio.lowlevel.checkpoint()
    name = headers.get("x-user")
    if name == "nobody":
        raise AuthenticationFailed
    return None if name is None else Principal(name)


@attrs.define(eq=False, kw_only=True)
class Exchange:
    """One request, and what was received so far."""

    app: ASGIApplication
    port: int
    method: str
    headers: dict[str, str]
    body: bytes = b""
    whole: bool = True
    """Whether all of the body will come."""
    reads: bool = True
    """Whether the client reads what is sent."""
    message_id: object = None
    """The id of the request that it brings, if it brings one."""
    resumes: Exchange | None = None
    """The one whose stream it continues."""

    status: int = attrs.field(default=0, init=False)
    answered_with: dict[str, str] = attrs.field(factory=dict, init=False)
    data: bytes = attrs.field(default=b"", init=False)
    complete: bool = attrs.field(default=False, init=False)
    """Whether the response came to its proper end."""
    begun: bool = attrs.field(default=False, init=False)
    ended: trio.Event = attrs.field(factory=trio.Event, init=False)
    """The server is through with it."""
    left: bool = attrs.field(default=False, init=False)
    """Whether the client is gone."""
    relieved: bool = attrs.field(default=False, init=False)
    """Whether another exchange carries its stream since."""
    excused: bool = attrs.field(default=False, init=False)
    """Whether it may end without what was asked for: the test saw to it."""
    checked: bool = attrs.field(default=False, init=False)
    """Whether the test has looked at how it ended."""
    blocked_since: float = attrs.field(default=inf, init=False)
    longest_block: float = attrs.field(default=0, init=False)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _sent: bool = attrs.field(default=False, init=False)
    _turn: trio.Event = attrs.field(factory=trio.Event, init=False)

    # What the client does. Not checkpoints.

    def leave(self) -> None:
        self.left = self.excused = True
        self._change()

    def stop_reading(self) -> None:
        self.reads, self.excused = False, True

    def read_on(self) -> None:
        self.reads = True
        self._change()

    def cut(self) -> None:
        """The server is told to stop at once."""
        self.excused = True
        self.scope.cancel()

    def _change(self) -> None:
        self._turn.set()
        self._turn = trio.Event()

    # What came of it.

    @property
    def over(self) -> bool:
        return self.ended.is_set()

    @property
    def running(self) -> bool:
        return self.begun and not self.over

    @property
    def stream(self) -> object:
        """What it carries: None for messages outside of requests, else the request's exchange."""
        if self.resumes is not None:
            return self.resumes.stream
        return None if self.method == "GET" else self

    @property
    def is_stream(self) -> bool:
        return self.answered_with.get("content-type") == "text/event-stream"

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.data)

    @property
    def events(self) -> list[tuple[str | None, Any]]:
        """Ids and messages; None for an event without one."""
        found: list[tuple[str | None, Any]] = []
        for text in self.data.replace(KEEP_ALIVE, b"").decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in text.split("\n"))
            data = fields.get("data")
            found.append((fields.get("id"), msgspec.json.decode(data) if data else None))
        return found

    @property
    def last_event_id(self) -> str | None:
        return next((one for one, _ in reversed(self.events) if one is not None), None)

    @property
    def messages(self) -> list[Any]:
        if self.is_stream:
            return [message for _, message in self.events if message is not None]
        return [self.json] if self.data else []

    @property
    def has_answer(self) -> bool:
        """Whether the request got its result or its error."""
        return any(
            message.get("id") == self.message_id and "method" not in message
            for message in self.messages
        )

    def blocked_for(self, now: float) -> float:
        return max(self.longest_block, now - self.blocked_since)

    # The server's side.

    async def run(self) -> None:
        self.begun = True
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": self.method,
            "path": "/mcp",
            "headers": [(name.encode(), text.encode()) for name, text in self.headers.items()],
            "client": ("192.0.2.1", self.port),
            "server": ("192.0.2.2", 80),
        }
        try:
            with self.scope:
                await self.app(scope, self._receive, self._send)
        finally:
            self.ended.set()

    async def _receive(self) -> Any:
        await trio.lowlevel.checkpoint()
        if not self._sent and (self.whole or self.body):
            self._sent = True
            return {"type": "http.request", "body": self.body, "more_body": not self.whole}
        while not self.left:
            await self._turn.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        assert not self.complete, "there is something behind the end"
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answered_with = {name.decode(): text.decode() for name, text in message["headers"]}
        self.blocked_since = trio.current_time()
        try:
            while not self.reads and not self.left:
                await self._turn.wait()
        finally:
            self.longest_block = self.blocked_for(trio.current_time())
            self.blocked_since = inf
        if self.left:
            raise OSError("the client has left")
        self.data += message.get("body", b"")
        if message["type"] == "http.response.body":
            self.complete = not message["more_body"] if "more_body" in message else True


_ports = count(1)


@attrs.define(eq=False)
class HttpPeer:
    """A client of one session, with a connection for each request."""

    app: ASGIApplication
    spawn: Spawn
    user: str | None = None
    version: str = "2025-11-25"
    port: int = attrs.field(factory=lambda: next(_ports))
    """By which its session is found: it is in the name of the transport."""
    session_id: str | None = attrs.field(default=None, init=False)
    exchanges: list[Exchange] = attrs.field(factory=list, init=False)
    last_id: int = attrs.field(default=0, init=False)
    how_next: str = attrs.field(default="stays", init=False)
    """What it does while its next request is answered."""
    again: bool = attrs.field(default=False, init=False)
    """Whether that has the id of the one before."""

    @property
    def transport(self) -> Transport:
        return Transport("http", f"192.0.2.1:{self.port}")

    def prepare(self, method: str = "POST", message: Any = None, **more: Any) -> Exchange:
        """Return an exchange that does not run yet."""
        headers = {
            "host": "testserver",
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "x-user": more.pop("user", self.user),
            "mcp-session-id": more.pop("session_id", self.session_id),
            "mcp-protocol-version": self.version if self.session_id else None,
            "last-event-id": more.pop("last_event_id", None),
        }
        exchange = Exchange(
            app=self.app,
            port=self.port,
            method=method,
            headers={name: text for name, text in headers.items() if text is not None},
            body=b"" if message is None else msgspec.json.encode(message),
            message_id=message.get("id") if is_object(message) and "method" in message else None,
            **more,
        )
        exchange.excused = not exchange.reads
        if not exchange.whole:
            exchange.message_id = None  # The server will never know it.
        self.exchanges.append(exchange)
        return exchange

    def begin(self, method: str = "POST", message: Any = None, **more: Any) -> Exchange:
        """Send a request. Not a checkpoint."""
        exchange = self.prepare(method, message, **more)
        self.spawn(exchange.run)
        return exchange

    def prepare_initialize(self, name: str, **more: Any) -> Exchange:
        message = initialize(0, self.version, {"elicitation": {}})
        message["params"]["clientInfo"]["name"] = name
        return self.prepare("POST", message, **more)

    def learn(self, opening: Exchange) -> bool:
        """Read from the answer to ``initialize`` what the session is called."""
        if opening.complete:
            self.session_id = opening.answered_with.get("mcp-session-id")
        return self.session_id is not None

    def confirm(self) -> Exchange:
        return self.begin("POST", notification("notifications/initialized"))

    async def start_request(self, method: str, params: Mapping[str, Any] | None = None) -> HttpCall:
        """Send a request, in the way that was asked for."""
        how, self.how_next = self.how_next, "stays"
        self.last_id += not (self.again and self.last_id)
        self.again = False
        exchange = self.prepare(
            "POST", request(self.last_id, method, params), reads=how != "does not read"
        )
        if how == "leaves":
            exchange.leave()
        if params is not None and params["name"] == "poll":
            exchange.excused = True  # Its answer comes on another one.
        self.spawn(exchange.run)
        return HttpCall(self, exchange)


@attrs.define(eq=False)
class HttpCall:
    """A request in flight."""

    peer: HttpPeer
    exchange: Exchange
    resumed: list[Exchange] = attrs.field(factory=list, init=False)
    """What carries its stream, or did so, besides."""

    @property
    def id(self) -> Any:
        return self.exchange.message_id

    @property
    def question(self) -> Any:
        """The id of the question that its handler asked, as far as the client has read it."""
        messages = [one for each in (self.exchange, *self.resumed) for one in each.messages]
        return next((one["id"] for one in messages if one.get("method") and "id" in one), None)

    def cancel(self) -> None:
        for each in (self.exchange, *self.resumed):
            each.excused = True
        self.peer.begin("POST", cancelled(self.id))
