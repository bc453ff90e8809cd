"""A client for the soak: raw HTTP/1.1 on Trio, streams that are read event by event."""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import attrs
import trio
from eras import LEGACY
from http_wire import Answers, Event, Events, Head

CHUNK: Final = 1 << 16
PATIENCE: Final = 30.0


class Cut(Exception):
    """The connection was closed before the answer was complete."""


class Refused(Exception):
    """The server answered with an unexpected status."""


@final
class Connection:
    """One connection: a request out, an answer in, whole or event by event."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._answers = Answers()
        self._events = Events()
        self._ready: deque[Event] = deque()
        self._over = True
        self._first = b""
        self.clean = True
        """Whether it can carry another request."""

    @classmethod
    async def open(cls, port: int, *, small: bool = False) -> Connection:
        """Connect, with small buffers for a slow reader."""
        sock = trio.socket.socket()
        try:
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await sock.connect(("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(trio.SocketStream(sock))

    async def send(self, request: bytes) -> None:
        self.clean = False
        await self._stream.send_all(request)

    async def receive_head(self) -> Head:
        """Read the head of an answer; its body follows in `receive_body`, or `next_event`."""
        self._over = False
        self._first = b""
        self._events = Events()
        while True:
            answer = self._answers.feed(await self._read())
            if answer is not None:
                self._first = answer.body
                self._end(answer.head)
                return answer.head
            if self._answers.head is not None:
                return self._answers.head

    async def receive_body(self) -> bytes:
        """Read a whole body, also that of a stream."""
        while not self._over:
            answer = self._answers.feed(await self._read())
            if answer is not None:
                self._first = answer.body
                self._end(answer.head)
        return self._first

    async def next_event(self) -> Event | None:
        """Read the next event; None at the correct end of the stream."""
        self._ready.extend(self._events.feed(self._first or self._answers.pieces()))
        self._first = b""
        while not self._ready:
            if self._over:
                return None
            answer = self._answers.feed(await self._read())
            if answer is None:
                data = self._answers.pieces()
            else:
                data = answer.body
                self._end(answer.head)
            self._ready.extend(self._events.feed(data))
        return self._ready.popleft()

    def _end(self, head: Head) -> None:
        self._over = True
        # Unexpected bytes make the next answer malformed.
        self.clean = not head.closes and not self._answers.rest

    @property
    def surplus(self) -> bool:
        """Whether there are bytes after the answer."""
        return self._over and bool(self._answers.rest)

    async def _read(self) -> bytes:
        try:
            chunk = bytes(await self._stream.receive_some(CHUNK))
        except trio.BrokenResourceError as error:
            raise Cut from error
        if not chunk:
            raise Cut
        return chunk

    def cut(self, *, reset: bool = False) -> None:
        """Close the connection during an exchange, with a TCP reset or without."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._stream.socket.close()


@final
@attrs.define(eq=False)
class SoakSession:
    """A session of a client, with one connection that is kept for the next request."""

    port: int
    session_id: bytes = b""
    _kept: Connection | None = None

    def request(self, method: str, message: Mapping[str, Any] | None, **headers: str) -> bytes:
        fields = {"Host": f"127.0.0.1:{self.port}", "Accept": "text/event-stream"}
        body = b""
        if message is not None:
            body = json.dumps(message).encode()
            fields["Accept"] += ", application/json"
            fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        if self.session_id:
            fields |= {
                "Mcp-Session-Id": self.session_id.decode(),
                "Mcp-Protocol-Version": LEGACY.revision,
            }
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} /mcp HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def connection(self, *, small: bool = False) -> Connection:
        """Return the kept connection, or open one."""
        kept = self._kept
        if kept is not None and not small:
            self._kept = None
            return kept
        return await Connection.open(self.port, small=small)

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request, if it can be used again."""
        if connection.clean and self._kept is None:
            self._kept = connection
        else:
            connection.cut()

    async def ask(
        self,
        method: str,
        message: Mapping[str, Any] | None,
        statuses: Sequence[int],
        **headers: str,
    ) -> tuple[Head, bytes]:
        """Send a request and read the whole answer."""
        connection = await self.connection()
        try:
            await connection.send(self.request(method, message, **headers))
            head = await connection.receive_head()
            body = await connection.receive_body()
        except BaseException:
            connection.cut()
            raise
        surplus = connection.surplus
        self.give_back(connection)
        if surplus:
            raise Refused("an answer that nobody asked for")
        if head.status not in statuses:
            raise Refused(f"{method} {message}: {head.status} {body[:200]!r}")
        return head, body

    def close(self) -> None:
        """Close the connection that was kept."""
        if self._kept is not None:
            self._kept.cut()
            self._kept = None
