"""Good and hostile actions over TCP and pipes, one message a line, for the hostile soak."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio
from http_load import HELLO
from soak_hostile_http import (
    GOOD_ADDRESS,
    HOSTILE_ADDRESS,
    Ended,
    call,
    check_messages,
    modern_call,
)
from soak_record import Record, Wrong

CHUNK: Final = 1 << 16
INITIALIZED: Final = b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


@attrs.define(eq=False)
class Lines:
    """One connection or a pair of pipes; answers go to the call with their id."""

    sink: trio.abc.SendStream
    source: trio.abc.ReceiveStream
    refused: int = 0
    """Errors without an id."""
    _waiting: dict[int, tuple[trio.Event, list[dict[str, Any]]]] = attrs.field(factory=dict)
    _sending: trio.Lock = attrs.field(factory=trio.Lock)
    unexpected: list[dict[str, Any]] = attrs.field(factory=list)
    """Messages that belong to no call of a good client."""
    ended: bool = False

    async def read(  # noqa: ASYNC114  # a method
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Hand out what comes, until the end."""
        task_status.started()
        rest = b""
        try:
            while chunk := bytes(await self.source.receive_some(CHUNK)):
                *lines, rest = (rest + chunk).split(b"\n")
                for one in lines:
                    self._take(json.loads(one))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.ended = True
            for event, _ in self._waiting.values():
                event.set()

    def _take(self, message: dict[str, Any]) -> None:
        number = message.get("id")
        if "method" in message:
            number = message.get("params", {}).get("progressToken")
        elif number is None:
            self.refused += 1
            return
        waiting = self._waiting.get(number) if type(number) is int else None
        if waiting is None:
            self.unexpected.append(message)
            return
        event, messages = waiting
        if event.is_set():
            self.unexpected.append(message)
            return
        messages.append(message)
        if "method" not in message:
            event.set()

    async def send(self, data: bytes) -> None:
        async with self._sending:
            await self.sink.send_all(data)

    async def ask(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Send a request; return its progress and its answer."""
        number = message["id"]
        event, messages = self._waiting[number] = trio.Event(), []
        try:
            await self.send(line(message))
            await event.wait()
        finally:
            del self._waiting[number]
        if self.ended and not messages:
            raise Ended
        return messages

    async def initialize(self, number: int) -> None:
        hello = {"jsonrpc": "2.0", "id": number, "method": "initialize", "params": HELLO}
        [answer] = await self.ask(hello)
        if "result" not in answer:
            raise Wrong(f"initialize: {answer}")
        await self.send(INITIALIZED)


def bad_lines(dice: random.Random) -> list[bytes]:
    """Lines that no request is in, or none with an id that a good client uses."""
    whole = line(call(7))
    kinds: list[Callable[[], bytes]] = [
        lambda: whole[: dice.randrange(1, len(whole) - 1)] + b"\n",
        lambda: b"\n",
        lambda: b"\xff\xfe\x00\n",
        lambda: bytes(c for c in dice.choices(range(256), k=40) if c != 10) + b"\n",
        lambda: line([call(7), 5]),
        lambda: line(call(7) | {"id": dice.choice([True, None, 1.5, [], {}])}),
        lambda: line({"jsonrpc": "2.0", "id": "unknown", "result": {}}),
        lambda: line({"jsonrpc": "1.0", "id": "old", "method": "ping"}),
        lambda: line({"jsonrpc": "2.0", "id": "strange", "method": "no/such", "params": {}}),
        lambda: line(modern_call(7) | {"id": "half", "params": {"text": "\ud83d"}}),
        lambda: line({"jsonrpc": "2.0", "id": "params", "method": "ping", "params": 5}),
        lambda: (
            b'{"jsonrpc":"2.0","id":"deep","method":"ping","params":{"x":%b}}\n'
            % (b"[" * 1000 + b"]" * 1000)
        ),
        lambda: line(
            {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": dice.choice(["x", None, 3.5, []])},
            }
        ),
        lambda: line({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}),
    ]
    return [one() for one in dice.choices(kinds, k=dice.randint(1, 4))]


def check_unexpected(lines: Lines) -> None:
    """Refusals of what hostile clients sent carry its id; a good client's never come twice."""
    for message in lines.unexpected:
        if type(message.get("id")) is int and message["id"] != 7:
            raise Wrong(f"an answer to no request: {message}")
    lines.unexpected.clear()


@attrs.define(eq=False)
class PipeSide:
    """The one client of a server on pipes: what is good and what is hostile share them."""

    lines: Lines
    record: Record
    random: random.Random

    async def good(self) -> None:
        number = next(self.record.numbers)
        steps = self.random.choice([0, 0, 0, 5])
        began = trio.current_time()
        if steps:
            message = call(number, "climb", steps=steps, size=20)
        else:
            message = self.random.choice([call, modern_call])(number)
        messages = await self.lines.ask(message)
        if not steps:
            self.record.latencies["pipes"].append(trio.current_time() - began)
        check_messages(number, messages, steps)
        check_unexpected(self.lines)

    async def nonsense(self) -> None:
        await self.lines.send(b"".join(bad_lines(self.random)))

    async def oversized(self) -> None:
        await self._oversized(self.random.choice([100_000, 5_000_000]))

    async def _oversized(self, size: int = 5_000_000) -> None:
        body = b'{"jsonrpc":"2.0","id":"large","method":"no/such","params":{"x":"%b"}}\n'
        await self.lines.send(body % (b"x" * size))

    @property
    def large(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """What takes much memory for a moment."""
        return [("a large line", self._oversized)]

    async def cancelled(self) -> None:
        """Cancel a call: it is not answered."""
        number = next(self.record.numbers)
        await self.lines.send(line(call(number, "nap", seconds=5) | {"id": f"nap-{number}"}))
        params = {"requestId": f"nap-{number}"}
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        await self.lines.send(line(cancel))

    @property
    def attacks(self) -> list[tuple[str, Callable[[], Awaitable[None]], int, bool]]:
        return [
            ("nonsense on a pipe", self.nonsense, 16, False),
            ("an oversized line on a pipe", self.oversized, 1, False),
            ("cancelled calls on a pipe", self.cancelled, 3, False),
        ]


@attrs.define(eq=False)
class TcpSide:
    """The clients over TCP."""

    port: int
    record: Record
    random: random.Random
    nursery: trio.Nursery
    kept: list[Lines] = attrs.field(factory=list)

    async def good(self) -> None:
        """Call over a connection that is kept, in its session or without one."""
        lines = self.kept.pop() if self.kept else await self._new()
        number = next(self.record.numbers)
        began = trio.current_time()
        message = self.random.choice([call, modern_call])(number)
        messages = await lines.ask(message)
        self.record.latencies["tcp"].append(trio.current_time() - began)
        check_messages(number, messages)
        check_unexpected(lines)
        if self.random.random() < 0.05:
            await lines.sink.aclose()
        else:
            self.kept.append(lines)

    async def _new(self) -> Lines:
        stream = await self._connect(GOOD_ADDRESS)
        lines = Lines(stream, stream)
        await self.nursery.start(lines.read)
        await lines.initialize(next(self.record.numbers))
        return lines

    async def _connect(self, address: str) -> trio.SocketStream:
        sock = trio.socket.socket()
        try:
            await sock.bind((address, 0))
            await sock.connect(("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)

    def _cut(self, stream: trio.SocketStream) -> None:
        if self.random.random() < 0.5:
            linger = struct.pack("ii", 1, 0)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        stream.socket.close()

    async def nonsense(self) -> None:
        """Send nonsense, and then a good call, which is answered."""
        stream = await self._connect(HOSTILE_ADDRESS)
        try:
            number = next(self.record.numbers)
            await stream.send_all(b"".join(bad_lines(self.random)) + line(modern_call(number)))
            data = b""
            while b'"id":%d,' % number not in data.replace(b" ", b"") or not data.endswith(b"\n"):
                chunk = await stream.receive_some(CHUNK)
                if not chunk:
                    raise Ended
                data += chunk
            messages = [json.loads(one) for one in data.splitlines()]
            check_messages(number, [one for one in messages if one.get("id") == number])
        finally:
            self._cut(stream)

    async def half_line(self) -> None:
        stream = await self._connect(HOSTILE_ADDRESS)
        whole = line(call(7))
        await stream.send_all(whole[: self.random.randrange(len(whole))])
        self._cut(stream)

    async def unread(self) -> None:
        """Call for much, and read nothing of it."""
        stream = await self._connect(HOSTILE_ADDRESS)
        try:
            hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
            message = call(2, "climb", steps=300, size=1000)
            await stream.send_all(line(hello) + INITIALIZED + line(message))
            await trio.sleep(self.random.uniform(0, 2))
        finally:
            self._cut(stream)

    async def reset_midway(self) -> None:
        stream = await self._connect(HOSTILE_ADDRESS)
        try:
            message = modern_call(2, "climb", steps=100, size=500)
            await stream.send_all(line(message))
            await stream.receive_some(100)
        finally:
            self._cut(stream)

    async def silent(self) -> None:
        """Connect, and say nothing."""
        stream = await self._connect(HOSTILE_ADDRESS)
        await trio.sleep(self.random.uniform(0, 2))
        self._cut(stream)

    async def close(self) -> None:
        for lines in self.kept:
            await lines.sink.aclose()

    @property
    def attacks(self) -> list[tuple[str, Callable[[], Awaitable[None]], int, bool]]:
        return [
            ("nonsense over TCP", self.nonsense, 16, False),
            ("half a line over TCP", self.half_line, 6, False),
            ("an answer that is not read over TCP", self.unread, 3, True),
            ("a reset in the middle over TCP", self.reset_midway, 6, False),
            ("silence over TCP", self.silent, 2, True),
        ]
