"""A raw client for benchmarks inside one process: a channel of frames and the legacy handshake."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any, final

import attrs
import trio
from eras import LEGACY


@final
@attrs.define(eq=False)
class Lines(trio.abc.Channel[bytes]):
    """Frames over any byte stream, one per line."""

    stream: trio.abc.Stream
    _rest: bytes = attrs.field(default=b"", init=False)

    async def send(self, value: bytes) -> None:
        await self.stream.send_all(value + b"\n")

    async def receive(self) -> bytes:
        while b"\n" not in self._rest:
            chunk = await self.stream.receive_some()
            if not chunk:
                raise trio.EndOfChannel
            self._rest += bytes(chunk)
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def aclose(self) -> None:
        await self.stream.aclose()


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of a real connection; the buffers between them are the kernel's, and small."""
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


@final
@attrs.define(eq=False)
class Client:
    """One call at a time; every answer is checked."""

    channel: trio.abc.Channel[bytes]
    calls: int = 0

    async def handshake(self) -> None:
        hello = {
            "protocolVersion": LEGACY.revision,
            "capabilities": {},
            "clientInfo": {"name": "benchmark", "version": "1"},
        }
        result = await self.request("initialize", hello)
        assert result["protocolVersion"] == LEGACY.revision, result
        await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def call(self, text: str) -> float:
        """Call the tool `echo`.

        Returns:
            the seconds that it took.
        """
        began = perf_counter()
        result = await self.request("tools/call", {"name": "echo", "arguments": {"text": text}})
        took = perf_counter() - began
        assert result["content"] == [{"type": "text", "text": text}], result
        return took

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = await self.start_request(method, params)
        while True:
            answer = json.loads(await self.channel.receive())
            if "method" not in answer:
                assert answer["id"] == number, answer
                result: dict[str, Any] = answer["result"]
                return result

    async def start_request(self, method: str, params: dict[str, Any]) -> int:
        self.calls += 1
        await self.send({"jsonrpc": "2.0", "id": self.calls, "method": method, "params": params})
        return self.calls

    async def send(self, message: dict[str, Any]) -> None:
        await self.channel.send(json.dumps(message, separators=(",", ":")).encode())
