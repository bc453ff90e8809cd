"""A proxy that loses what it carries: TCP as it is between a client and a server far away."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream

CHUNK = 65536
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)
RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Link:
    """One connection through the proxy."""

    client: SocketStream
    server: SocketStream
    request: bytes = b""
    """What the client has asked for last."""
    streams: bool = False
    """Whether the answer is a stream of events."""
    left: float = math.inf
    """Bytes that still get through to the client."""

    @property
    def listens(self) -> bool:
        """Whether it is a stream of what has nothing to do with calls: of GET, or listened to."""
        headers = self.request.lower()
        if headers.startswith(b"get "):
            return b"last-event-id:" not in headers
        return b"mcp-method: subscriptions/listen" in headers

    async def carry_up(self) -> None:
        async for data in self.client:
            if data.startswith((b"POST ", b"GET ", b"DELETE ")):
                self.request, self.streams = data, False
            await self.server.send(data)

    async def carry_down(self, seen: bytearray) -> None:
        async for data in self.server:
            self.streams = self.streams or b"text/event-stream" in data
            passes = data if math.isinf(self.left) else data[: int(self.left)]
            self.left -= len(passes)
            seen += passes
            if passes:
                await self.client.send(passes)

    async def close(self, *, reset: bool = False) -> None:
        """Close both sides: in order as far as TCP goes, or not even that."""
        if reset:
            for stream in (self.client, self.server):
                raw: socket.socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await anyio.aclose_forcefully(self.client)
        await anyio.aclose_forcefully(self.server)


@dataclass(eq=False)
class LosingProxy:
    """Carries everything, until told otherwise."""

    server_port: int
    port: int = 0
    seen: bytearray = field(default_factory=bytearray)
    """All that got through to clients."""
    links: set[Link] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def streams(self, *, listening: bool) -> list[Link]:
        """Return what carries a stream of events now: calls' streams, or the others."""
        return [link for link in self.links if link.streams and link.listens is listening]

    def lose(self, *, after: int, listening: bool = False) -> list[Link]:
        """From now on lose what comes on these streams, but for the next few bytes.

        The server does not notice: for it, all is written.
        """
        links = self.streams(listening=listening)
        for link in links:
            link.left = after
        return links

    async def serve(self, client: SocketStream) -> None:
        async with client:
            try:
                server = await anyio.connect_tcp("127.0.0.1", self.server_port)
            except OSError:
                return
            async with server:
                link = Link(client, server)
                self.links.add(link)
                try:
                    await self._carry(link)
                finally:
                    self.links.discard(link)

    async def _carry(self, link: Link) -> None:
        """Carry both ways until either side is gone."""
        async with anyio.create_task_group() as group:

            async def carry_up() -> None:
                with suppress(*GONE):
                    await link.carry_up()
                group.cancel_scope.cancel()

            group.start_soon(carry_up)
            with suppress(*GONE):
                await link.carry_down(self.seen)
            group.cancel_scope.cancel()


@asynccontextmanager
async def open_proxy(server_port: int) -> AsyncIterator[LosingProxy]:
    """Listen on a port of its own, in front of a server on loopback."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610
    proxy = LosingProxy(server_port, port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, proxy.serve)
        yield proxy
        group.cancel_scope.cancel()
