"""Servers in processes of their own, and clients that talk to them over real pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, final

import attrs
import msgspec
import trio

from tests.helpers import initialize, notification, request

SERVER: Final = Path(__file__).parent / "servers" / "stdio.py"


def command(mode: str, settings: Mapping[str, Any]) -> list[str]:
    return [sys.executable, str(SERVER), mode, json.dumps(settings)]


@final
@attrs.define(eq=False)
class ServerProcess:
    """A running server, and the client's ends of its pipes."""

    process: trio.Process
    _buffer: bytes = attrs.field(default=b"", init=False)
    _complaints: bytes = attrs.field(default=b"", init=False)

    async def send(self, *messages: object) -> None:
        """Send messages; bytes are sent as they are."""
        data = b"".join(
            (one if isinstance(one, bytes) else msgspec.json.encode(one)) + b"\n"
            for one in messages
        )
        await self.send_raw(data)

    async def send_raw(self, data: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(data)

    async def close_stdin(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.aclose()

    async def close_stdout(self) -> None:
        assert self.process.stdout is not None
        await self.process.stdout.aclose()

    async def receive(self) -> Any:
        """Return the next message; raises `EOFError` at the end."""
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            more = await self.process.stdout.receive_some()
            if not more:
                assert self._buffer == b""
                raise EOFError
            self._buffer += more
        line, self._buffer = self._buffer.split(b"\n", 1)
        return msgspec.json.decode(line)

    async def rest(self) -> list[Any]:
        """Return all messages up to the end."""
        messages: list[Any] = []
        with suppress(EOFError):
            while True:
                messages.append(await self.receive())
        return messages

    async def ask(self, request_id: object, method: str, params: object = None) -> Any:
        await self.send(request(request_id, method, params))
        return await self.receive()

    async def call(self, request_id: object, tool: str, **arguments: object) -> Any:
        """Call a tool; returns its structured result."""
        answer = await self.ask(request_id, "tools/call", {"name": tool, "arguments": arguments})
        assert answer["id"] == request_id
        return answer["result"]["structuredContent"]

    async def establish(self) -> None:
        await self.send(initialize("hello"), notification("notifications/initialized"))
        assert (await self.receive())["id"] == "hello"

    async def listen(self) -> None:
        """Collect what the server says on standard error."""
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            self._complaints += chunk

    async def wait(self) -> tuple[int, list[dict[str, Any]]]:
        """Wait for its exit; returns its status and the reports of its sessions."""
        status = await self.process.wait()
        return status, self.reports()

    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.complaints.splitlines() if line.startswith("{")]

    @property
    def complaints(self) -> str:
        return self._complaints.decode()


@asynccontextmanager
async def started(
    mode: str = "run", settings: Mapping[str, Mapping[str, float]] | None = None
) -> AsyncIterator[ServerProcess]:
    """Start a server; in the end it has to be gone by itself, or the test fails."""
    # Real time, because real processes take it: a guard, and nothing that is measured.
    with trio.fail_after(50):
        process = await trio.lowlevel.open_process(
            command(mode, settings or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        server = ServerProcess(process)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.listen)
                yield server
                await process.wait()
        finally:
            if process.returncode is None:  # pragma: no cover  # the test has failed already
                process.kill()
            for pipe in (process.stdin, process.stdout, process.stderr):
                assert pipe is not None
                await trio.aclose_forcefully(pipe)
