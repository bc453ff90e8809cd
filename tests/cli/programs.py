"""Real server programs on real pipes and sockets, spoken to in raw JSON-RPC."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, final

import attrs
import pytest
import trio

from tests.helpers import LATEST, initialize, notification, request
from tests.transports.http.live import Wire, connect, write_request
from trio_mcp_session import BoundAddress

HANG_GUARD = 30.0
"""Seconds after which a test is given up that waits for a program."""

Way = Literal["serve", "run_stdio"]
BOTH = pytest.mark.parametrize("way", ["serve", "run_stdio"])
"""The two ways to run a server over stdio."""

SERVE = ["-m", "trio_mcp_session", "serve", "toy:router"]

TOY = """
import trio
from trio_mcp_session import RequestContext, Router

router = Router("toy", "1.0")


@router.tool()
async def echo(ctx: RequestContext, text: str) -> str:
    print("a stray print")
    return text


@router.tool()
async def wait_for(ctx: RequestContext, name: str) -> str:
    while not await trio.Path(name).exists():
        await trio.sleep(0.01)
    return "it is there"


@router.tool()
async def fail(ctx: RequestContext) -> str:
    raise ValueError("a detail")
"""


@final
@attrs.define(eq=False)
class Lines:
    """The lines of a byte stream."""

    stream: trio.abc.ReceiveStream
    buffered: bytes = b""

    async def next(self) -> str:
        """The next line; empty at the end."""
        while b"\n" not in self.buffered:
            chunk = await self.stream.receive_some()
            if not chunk:
                rest, self.buffered = self.buffered, b""
                return rest.decode()
            self.buffered += chunk
        line, self.buffered = self.buffered.split(b"\n", 1)
        return line.decode()

    async def until(self, text: str) -> str:
        """The next line with a text in it."""
        while text not in (line := await self.next()):
            assert line, f"the end came, and no {text!r}"
        return line

    async def rest(self) -> list[str]:
        """All lines up to the end."""
        lines = []
        while line := await self.next():
            lines.append(line)
        return lines


@final
@attrs.define(eq=False)
class Connection:
    """A raw client."""

    sink: trio.abc.SendStream
    lines: Lines

    async def send(self, method: str, params: object = None, number: int | None = None) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        if number is not None:
            message["id"] = number
        await self.sink.send_all(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Any:
        if line := await self.lines.next():
            return json.loads(line)
        raise EOFError  # pragma: no cover  # where the server ends at that moment

    async def initialize(self, name: str = "raw") -> Any:
        await self.send(
            "initialize",
            {
                "protocolVersion": LATEST,
                "capabilities": {},
                "clientInfo": {"name": name, "version": "1"},
            },
            number=0,
        )
        answer = await self.receive()
        if "result" in answer:
            await self.send("notifications/initialized")
        return answer

    async def call(self, tool: str, number: int = 1, **arguments: object) -> None:
        await self.send("tools/call", {"name": tool, "arguments": arguments}, number)

    async def text(self) -> str:
        """The text that a tool has answered with."""
        answer = await self.receive()
        text: str = answer["result"]["content"][0]["text"]
        return text


@final
@attrs.define(eq=False)
class Program:
    """A running server program."""

    process: trio.Process
    stdio: Connection
    stderr: Lines

    async def wait(self) -> int:
        """Wait for its end; its output must be read to the end before, if it is much."""
        return await self.process.wait()


def write_toy(folder: Path) -> None:
    (folder / "toy.py").write_text(TOY, "utf-8")


@asynccontextmanager
async def running(
    command: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Program]:
    """Run a Python program with pipes to it for the length of a block."""
    process = await trio.lowlevel.open_process(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=os.environ | (environment or {}),
    )
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    async with guarded(process), stdin, stdout, stderr:
        yield Program(process, Connection(stdin, Lines(stdout)), Lines(stderr))


@asynccontextmanager
async def guarded(process: trio.Process) -> AsyncIterator[None]:
    """Let nothing hang for the length of a block, and leave no process behind."""
    try:
        with trio.fail_after(HANG_GUARD):  # noqa: ASYNC100  # around the block
            yield
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


@asynccontextmanager
async def serving(folder: Path, *options: str) -> AsyncIterator[Program]:
    """Serve the toy for the length of a block."""
    write_toy(folder)
    async with running([*SERVE, *options], folder) as program:
        yield program


async def connect_tcp(line: str) -> Connection:
    """Connect to the TCP address that a program told."""
    host, _, port = line.removeprefix("listening on tcp ").rpartition(":")
    stream = await trio.open_tcp_stream(host.strip("[]"), int(port))
    return Connection(stream, Lines(stream))


async def connect_unix(line: str) -> Connection:
    """Connect to the Unix socket that a program told."""
    stream = await trio.open_unix_socket(line.removeprefix("listening on unix "))
    return Connection(stream, Lines(stream))


@final
@attrs.define(eq=False)
class HttpClient:
    """A client over HTTP, of a session that it has opened or shares with another one."""

    url: str
    wire: Wire
    headers: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    async def connect(cls, line: str) -> HttpClient:
        """Connect to the endpoint that a program told."""
        url = line.removeprefix("listening on ")
        assert url.endswith("/mcp")
        host, _, port = url.removeprefix("http://").removesuffix("/mcp").rpartition(":")
        address = BoundAddress(host=host.strip("[]"), port=int(port))
        return cls(url, await connect(address))

    async def initialize(self, name: str = "raw") -> None:
        answer = await self.wire.request("POST", initialize(0, name=name))
        self.headers = {"Mcp-Session-Id": answer.headers["mcp-session-id"]}
        accepted = notification("notifications/initialized")
        assert (await self.wire.request("POST", accepted, self.headers)).status == 202

    async def begin_call(self, tool: str, **arguments: object) -> None:
        params = {"name": tool, "arguments": arguments}
        await self.wire.send(write_request("POST", request(1, "tools/call", params), self.headers))

    async def text(self) -> str:
        """The text that a tool has answered with, by whatever way."""
        answer = await self.wire.head()
        if answer.headers["content-type"] == "application/json":
            await self.wire.to_the_end(answer)
            message = answer.json
        else:  # pragma: no cover  # it took too long for that, on a slow machine
            message = await self.wire.message(answer)
        text: str = message["result"]["content"][0]["text"]
        return text

    async def call(self, tool: str, **arguments: object) -> str:
        await self.begin_call(tool, **arguments)
        return await self.text()
