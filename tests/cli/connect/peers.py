"""A host on real pipes, and a server over HTTP that answers as a test says."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, final

import attrs
import trio
import trio.lowlevel

from tests.cli.programs import HANG_GUARD, Connection, Lines
from trio_mcp_session.cli.connect.address import parse_server_address
from trio_mcp_session.cli.connect.endpoint_client import open_http_client
from trio_mcp_session.cli.connect.host_ending import HostEnding
from trio_mcp_session.cli.connect.http_bridge import BridgeSettings, HttpBridge
from trio_mcp_session.cli.connect.http_session import HttpSession
from trio_mcp_session.cli.failure import CommandFailed
from trio_mcp_session.transports.descriptors import open_descriptor_channel
from trio_mcp_session.transports.framed_io import PairedChannel

MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


@asynccontextmanager
async def host_on_pipes(
    max_size: int = 100_000,
) -> AsyncIterator[tuple[PairedChannel, Connection]]:
    """Standard input and output of a bridge, and the host at their other ends."""
    (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
    channel = open_descriptor_channel(read_in, write_out, max_size)
    sink, source = trio.lowlevel.FdStream(write_in), trio.lowlevel.FdStream(read_out)
    async with channel, sink, source:
        yield channel, Connection(sink, Lines(source))


@final
@attrs.frozen
class Got:
    """A request that the server has got."""

    method: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Send = Callable[[bytes], Awaitable[None]]
Script = Callable[[Got, Send], Awaitable[object]]
"""Answers one request; the connection is closed if it returns something true."""


def reply(status: int = 200, body: object = b"", **headers: str) -> bytes:
    """Write a response; a body that is not bytes goes as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Length": str(len(content))}
    if content:
        fields["Content-Type"] = "application/json"
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Some Reason\r\n{head}\r\n".encode() + content


def result(number: object, **members: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "result": members}


def error(number: object, code: int, message: str, **more: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message, **more}}


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
"""The head of a stream of events, which ends with its connection."""


def event(message: object = None, event_id: str | None = None, retry: int | None = None) -> bytes:
    lines = [] if event_id is None else [f"id: {event_id}"]
    lines += [] if retry is None else [f"retry: {retry}"]
    lines.append("data: " + ("" if message is None else json.dumps(message)))
    return "\n".join(lines).encode() + b"\n\n"


@final
@attrs.define(eq=False)
class Bridged:
    """A bridge that runs, with its host and what it has said."""

    host: Connection
    bridge: HttpBridge
    said: list[str]
    got: list[Got]
    ended: trio.Event = attrs.field(factory=trio.Event)
    ending: HostEnding | None = None
    failure: CommandFailed | None = None

    async def initialize(self) -> Any:
        answer = await self.host.initialize()
        while (  # noqa: ASYNC110  # nothing tells
            self.got[-1].method == "POST" and b"notifications/initialized" not in self.got[-1].body
        ):
            await trio.lowlevel.checkpoint()
        return answer

    async def send(self, message: object) -> None:
        await self.host.sink.send_all(json.dumps(message).encode() + b"\n")

    async def request(self, method: str, number: int = 1, **params: object) -> Any:
        await self.host.send(method, params, number)
        return await self.host.receive()

    async def leave(self) -> HostEnding:
        """Close standard input, and wait for the end of the bridge."""
        await self.host.sink.aclose()
        await self.ended.wait()
        assert self.ending is not None
        return self.ending

    async def _run(self) -> None:
        try:
            self.ending = await self.bridge.run()
        except CommandFailed as failure:
            self.failure = failure
        self.ended.set()


@asynccontextmanager
async def bridged(
    script: Script,
    *,
    token: str | None = None,
    restart: Callable[[], Awaitable[bool]] | None = None,
    max_message_size: int = 100_000,
    grace: float = 10.0,
) -> AsyncIterator[Bridged]:
    """Run a bridge to a server that answers by a script, for the length of a block."""
    got: list[Got] = []

    async def serve(stream: trio.SocketStream) -> None:
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    if not (piece := await stream.receive_some()):
                        return
                    data += piece
                head, _, data = data.partition(b"\r\n\r\n")
                first, *fields = head.decode().split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (field.partition(":") for field in fields)
                }
                length = int(headers.get("content-length", 0))
                while len(data) < length:
                    data += await stream.receive_some()
                one = Got(first.split()[0], headers, data[:length])
                data = data[length:]
                got.append(one)
                if await script(one, stream.send_all):
                    return
        except trio.BrokenResourceError:
            return  # The bridge has closed the connection.

    async def no_restart() -> bool:
        return False  # pragma: no cover  # only where the server cannot be reached

    with trio.fail_after(HANG_GUARD):  # noqa: ASYNC100  # around the block
        async with AsyncExitStack() as stack:
            channel, host = await stack.enter_async_context(host_on_pipes(max_message_size))
            nursery = await stack.enter_async_context(trio.open_nursery())
            serving = partial(trio.serve_tcp, host="127.0.0.1")
            (listener,) = await nursery.start(serving, serve, 0)
            port = listener.socket.getsockname()[1]
            address = parse_server_address(f"http://127.0.0.1:{port}/mcp")
            client = await stack.enter_async_context(open_http_client(address, token))
            settings = BridgeSettings(max_message_size=max_message_size, grace=grace, retry=0.001)
            said: list[str] = []
            session = HttpSession(client, restart or no_restart)
            bridge = HttpBridge(channel, session, settings, said.append)
            one = Bridged(host, bridge, said, got)
            nursery.start_soon(one._run)
            yield one
            nursery.cancel_scope.cancel()


async def with_session(got: Got, send: Send) -> bool:
    """Answer what a session begins and ends with; return whether that was it."""
    if got.method == "DELETE":
        await send(reply(200))
    elif got.method == "GET":
        await send(reply(405))
    elif got.json.get("method") == "initialize":
        answer = result(got.json["id"], protocolVersion="2025-11-25", capabilities={})
        await send(reply(200, answer, Mcp_Session_Id="s1"))
    elif "id" not in got.json or "method" not in got.json:
        await send(reply(202))
    else:
        return False
    return True
