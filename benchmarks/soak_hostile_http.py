"""Good and hostile actions over HTTP, for the hostile soak."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import attrs
import trio
from eras import LEGACY, MODERN, TEXT
from http_load import HELLO
from http_wire import Answers, Events, Head
from soak_record import Record, Wrong

CHUNK: Final = 1 << 16
PATIENCE: Final = 20.0
GOOD_ADDRESS: Final = "127.0.0.1"
HOSTILE_ADDRESS: Final = "127.0.0.66"
"""Another address of the loopback: limits on one peer address do not meet the good clients."""
META: Final[dict[str, Any]] = {
    "io.modelcontextprotocol/protocolVersion": MODERN.revision,
    "io.modelcontextprotocol/clientInfo": {"name": "soak", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
MODERN_HEADERS: Final = {
    "Mcp-Protocol-Version": MODERN.revision,
    "Mcp-Method": "tools/call",
    "Mcp-Name": "echo",
}
REFUSED: Final = (400, 413, 429, 503)
"""Limits may meet a hostile client before its mistake is looked at."""


class Ended(Exception):
    """The server has closed the connection."""


class Web:
    """One connection over HTTP/1.1."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._answers = Answers()

    @classmethod
    async def open(cls, port: int, address: str, *, small: bool = False) -> Web:
        """Connect from an address, with small buffers for a client that does not read."""
        sock = trio.socket.socket()
        try:
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await sock.bind((address, 0))
            await sock.connect(("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(trio.SocketStream(sock))

    async def answer(self) -> tuple[Head, bytes]:
        """Read a whole answer."""
        while True:
            try:
                data = bytes(await self.stream.receive_some(CHUNK))
            except trio.BrokenResourceError as error:
                raise Ended from error
            if not data:
                raise Ended
            answer = self._answers.feed(data)
            if answer is not None:
                if self._answers.rest:
                    raise Wrong(f"more than one answer: {self._answers.rest[:100]!r}")
                return answer.head, answer.body

    async def ask(self, request: bytes) -> tuple[Head, bytes]:
        await self.stream.send_all(request)
        return await self.answer()

    def cut(self, *, reset: bool = False) -> None:
        """Close the connection, with a TCP reset or without."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.stream.socket.close()


def head(method: str, length: int | None, **headers: str) -> bytes:
    """Write the head of a request; underscores in names are dashes."""
    fields = {"Host": "127.0.0.1", "Accept": "application/json, text/event-stream"}
    if length is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(length)}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} /mcp HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
    return "\r\n".join([*lines, "", ""]).encode()


def post(message: object, **headers: str) -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return head("POST", len(body), **headers) + body


def call(number: int, tool: str = "echo", **arguments: Any) -> dict[str, Any]:
    """Write a call of a tool with a text of its own, with its id as token of progress."""
    params = {
        "name": tool,
        "arguments": {"text": (TEXT % number).decode(), **arguments},
        "_meta": {"progressToken": number},
    }
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


def modern_call(number: int, tool: str = "echo", **arguments: Any) -> dict[str, Any]:
    message = call(number, tool, **arguments)
    message["params"]["_meta"] |= META
    return message


def modern_headers(**more: str) -> dict[str, str]:
    return MODERN_HEADERS | {name.replace("_", "-"): value for name, value in more.items()}


def check_answer(number: int, answer: tuple[Head, bytes], steps: int = 0) -> None:
    """Check that a call got its answer, with all of its progress, and nothing else."""
    top, body = answer
    if top.status != 200:
        raise Wrong(f"{top.status} {body[:200]!r} for {number}")
    if top.events:
        messages = [json.loads(event.data) for event in Events().feed(body) if event.data]
    else:
        messages = [json.loads(body)]
    check_messages(number, messages, steps)


def check_messages(number: int, messages: list[dict[str, Any]], steps: int = 0) -> None:
    *progress, last = messages or [{}]
    seen = [one.get("params", {}).get("progress") for one in progress]
    era = MODERN if "resultType" in last.get("result", {}) else LEGACY
    if last.get("id") != number or era.echoed(last) != (TEXT % number).decode():
        raise Wrong(f"{last} for {number}")
    if seen != list(range(1, steps + 1)):
        raise Wrong(f"progress {seen} of {number}, of {steps} steps")


@attrs.define(eq=False)
class HttpSide:
    """The clients over HTTP."""

    port: int
    record: Record
    random: random.Random
    kept: list[tuple[Web, str]] = attrs.field(factory=list)
    """Connections of good clients with their sessions, while they are not used."""

    # Good clients

    async def legacy(self) -> None:
        """Call in a session, over a connection that is kept."""
        web, session = self.kept.pop() if self.kept else await self._new_session()
        try:
            number = next(self.record.numbers)
            began = trio.current_time()
            steps = self.random.choice([0, 0, 0, 5])
            message = call(number, "climb", steps=steps, size=20) if steps else call(number)
            answer = await web.ask(post(message, Mcp_Session_Id=session))
            if not steps:
                self.record.latencies["http, legacy"].append(trio.current_time() - began)
            check_answer(number, answer, steps)
            if self.random.random() < 0.05:
                await self._leave(web, session)
                return
        except BaseException:
            web.cut()
            raise
        self.kept.append((web, session))

    async def modern(self) -> None:
        """Call without a session, over a connection of its own."""
        web = await Web.open(self.port, GOOD_ADDRESS)
        try:
            number = next(self.record.numbers)
            began = trio.current_time()
            answer = await web.ask(post(modern_call(number), **modern_headers()))
            self.record.latencies["http, modern"].append(trio.current_time() - began)
            check_answer(number, answer)
        finally:
            web.cut()

    async def _new_session(self, address: str = GOOD_ADDRESS) -> tuple[Web, str]:
        web = await Web.open(self.port, address)
        try:
            return web, await self._initialize(web)
        except BaseException:
            web.cut()
            raise

    async def _initialize(self, web: Web) -> str:
        number = next(self.record.numbers)
        hello = {"jsonrpc": "2.0", "id": number, "method": "initialize", "params": HELLO}
        top, body = await web.ask(post(hello))
        if top.status != 200 or json.loads(body).get("id") != number or not top.session:
            raise Wrong(f"initialize {number}: {top} {body[:200]!r}")
        session = top.session.decode()
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        top, body = await web.ask(post(initialized, Mcp_Session_Id=session))
        if top.status != 202:
            raise Wrong(f"initialized: {top} {body[:200]!r}")
        return session

    async def _leave(self, web: Web, session: str) -> None:
        top, _ = await web.ask(head("DELETE", None, Mcp_Session_Id=session))
        if top.status not in {200, 202, 204}:
            raise Wrong(f"DELETE: {top}")
        web.cut()

    def close(self) -> None:
        """Leave the sessions that are left to the clock of the server."""
        for web, _ in self.kept:
            web.cut()

    # Hostile clients: each connection is one of its own.

    async def _attack(self, request: bytes, statuses: Collection[int]) -> bytes:
        """Send a request, and check the status of its answer."""
        web = await Web.open(self.port, HOSTILE_ADDRESS)
        try:
            top, body = await web.ask(request)
        except (Ended, trio.BrokenResourceError):
            if 0 in statuses:  # The server may close it while it is still sending.
                return b""
            raise
        finally:
            web.cut(reset=self.random.random() < 0.5)
        if top.status not in statuses:
            raise Wrong(f"{top.status} {body[:200]!r} for {request[:300]!r}")
        return body

    async def malformed(self) -> None:
        whole = json.dumps(call(7)).encode()
        cut = whole[: self.random.randrange(1, len(whole))]
        broken = cut + self.random.choice([b"", b"}", b"]", b"\x00", b"\xff\xfe"])
        await self._attack(post(broken), REFUSED)

    async def half_body(self) -> None:
        web = await Web.open(self.port, HOSTILE_ADDRESS)
        whole = post(modern_call(7), **modern_headers())
        await web.stream.send_all(whole[: self.random.randrange(1, len(whole))])
        web.cut(reset=self.random.random() < 0.5)

    async def slow_body(self) -> None:
        """Send a call in pieces: it is answered all the same."""
        number = next(self.record.numbers)
        whole = post(modern_call(number), **modern_headers())
        web = await Web.open(self.port, HOSTILE_ADDRESS)
        try:
            size = max(1, len(whole) // 12)
            for at in range(0, len(whole), size):
                await web.stream.send_all(whole[at : at + size])
                await trio.sleep(self.random.uniform(0, 0.3))
            check_answer(number, await web.answer())
        finally:
            web.cut()

    async def oversized(self) -> None:
        if self.random.random() < 0.9:
            await self._attack(head("POST", 1 << 30) + b"{", (413, 503))
        else:
            await self._large_body()

    async def _large_body(self) -> None:
        body = b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":"%b"}}'
        await self._attack(post(body % (b"x" * 5_000_000)), (0, *REFUSED))

    async def _largest_body(self) -> None:
        """Send a body as large as is allowed, of many values, without a session."""
        body = b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":[%b1]}}'
        await self._attack(post(body % (b"{}," * 1_000_000)), (0, *REFUSED))

    @property
    def large(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """What takes much memory for a moment."""
        return [("a large body", self._large_body), ("a large one of objects", self._largest_body)]

    async def deep(self) -> None:
        depth = self.random.choice([70, 1_000, 100_000])
        params = b"[" * depth + b"]" * depth
        body = b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":%b}}' % params
        await self._attack(post(body), REFUSED)

    async def surrogates(self) -> None:
        text = self.random.choice(["\ud83d", "\udc00x", "a\ud83d\ud83d"])
        message = modern_call(7)
        message["params"]["arguments"]["text"] = text
        body = await self._attack(post(message, **modern_headers()), (200, *REFUSED))
        if b"-32603" in body:
            raise Wrong(f"{body[:200]!r} for a lone surrogate")

    async def initialize_flood(self) -> None:
        """Open sessions, and never end one."""
        web = await Web.open(self.port, HOSTILE_ADDRESS)
        try:
            for number in range(self.random.randint(1, 3)):
                hello = {"jsonrpc": "2.0", "id": number, "method": "initialize", "params": HELLO}
                top, body = await web.ask(post(hello))
                if top.status not in {200, 429, 503}:
                    raise Wrong(f"initialize: {top} {body[:200]!r}")
        finally:
            web.cut()

    async def unread_get(self) -> None:
        """Open the stream of a session and the answer of a call, and read neither."""
        async with self._session() as (web, session):
            streams = [await Web.open(self.port, HOSTILE_ADDRESS, small=True) for _ in range(2)]
            try:
                await streams[0].stream.send_all(head("GET", None, Mcp_Session_Id=session))
                message = call(1, "climb", steps=200, size=1000)
                await streams[1].stream.send_all(post(message, Mcp_Session_Id=session))
                await trio.sleep(self.random.uniform(0, 2))
                number = next(self.record.numbers)
                check_answer(number, await web.ask(post(call(number), Mcp_Session_Id=session)))
            finally:
                for stream in streams:
                    stream.cut(reset=self.random.random() < 0.5)

    async def reset_midway(self) -> None:
        """Vanish in the middle of an answer."""
        async with self._session() as (web, session):
            message = call(2, "climb", steps=200, size=500)
            await web.stream.send_all(post(message, Mcp_Session_Id=session))
            await web.stream.receive_some(100)

    async def wrong_ids(self) -> None:
        wrong: object = self.random.choice([True, None, 1.5, [], {}, [1]])
        message = call(7) | {"id": wrong}
        await self._attack(post(message), REFUSED)

    async def cancelled(self) -> None:
        """Cancel a call, and others that are not there."""
        async with self._session() as (web, session):
            other = await Web.open(self.port, HOSTILE_ADDRESS)
            try:
                await web.stream.send_all(post(call(3, "nap", seconds=5), Mcp_Session_Id=session))
                others: list[Any] = [4, "3", None, [], 3.5]
                for wanted in (self.random.choice(others), 3):
                    params = {"requestId": wanted, "reason": "soak"}
                    cancel = {
                        "jsonrpc": "2.0",
                        "method": "notifications/cancelled",
                        "params": params,
                    }
                    top, body = await other.ask(post(cancel, Mcp_Session_Id=session))
                    if top.status not in {202, 400}:
                        raise Wrong(f"cancelled: {top} {body[:200]!r}")
            finally:
                other.cut()

    async def unknown_session(self) -> None:
        name = "".join(self.random.choices("0123456789abcdef", k=32))
        message = call(7)
        await self._attack(post(message, Mcp_Session_Id=name), (404, 429, 503))

    async def disagreement(self) -> None:
        lie = self.random.choice(
            [
                {"Mcp-Method": "tools/list"},
                {"Mcp-Name": "nap"},
                {"Mcp-Protocol-Version": LEGACY.revision},
                {"Mcp-Name": "=?base64?!!!?="},
                {"Mcp-Name": ""},
            ]
        )
        await self._attack(post(modern_call(7), **(modern_headers() | lie)), REFUSED)

    async def not_http(self) -> None:
        garbage = self.random.choice(
            [
                b"NONSENSE\r\n\r\n",
                b"POST /mcp HTTP/1.1\nHost: 127.0.0.1\n\n",
                (
                    b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
                    b"Content-Length: 6\r\n\r\n{}"
                ),
                (
                    b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                ),
                bytes(self.random.choices(range(256), k=64)),
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
            ]
        )
        await self._attack(garbage + b"\r\n\r\n", (0, 400, 501, 505))

    async def foreign(self) -> None:
        other = self.random.choice([{"Origin": "http://elsewhere.example"}, {"Host": "elsewhere"}])
        await self._attack(post(call(7), **other), (403, 421))

    async def vanish(self) -> None:
        """Send a call that takes long, and leave, which cancels it."""
        web = await Web.open(self.port, HOSTILE_ADDRESS)
        message = modern_call(7, "nap", seconds=5)
        await web.stream.send_all(post(message, **modern_headers(Mcp_Name="nap")))
        await trio.sleep(self.random.uniform(0, 0.05))
        web.cut(reset=self.random.random() < 0.5)

    def _session(self) -> _HostileSession:
        return _HostileSession(self)

    @property
    def attacks(self) -> list[tuple[str, Callable[[], Awaitable[None]], int, bool]]:
        """The name of each attack, itself, its weight, and whether it takes its time."""
        return [
            ("malformed JSON", self.malformed, 10, False),
            ("half a body", self.half_body, 10, False),
            ("a slow body", self.slow_body, 4, True),
            ("an oversized body", self.oversized, 3, False),
            ("deep nesting", self.deep, 5, False),
            ("lone surrogates", self.surrogates, 6, False),
            ("initialize without DELETE", self.initialize_flood, 8, False),
            ("a GET that is not read", self.unread_get, 3, True),
            ("a reset in the middle", self.reset_midway, 6, False),
            ("wrong ids", self.wrong_ids, 8, False),
            ("cancelled calls", self.cancelled, 4, False),
            ("an unknown session", self.unknown_session, 10, False),
            ("headers that disagree", self.disagreement, 10, False),
            ("not HTTP", self.not_http, 8, False),
            ("a foreign origin or host", self.foreign, 6, False),
            ("a call that is left", self.vanish, 8, False),
        ]


@attrs.define(eq=False)
class _HostileSession:
    """A session of a hostile client: its connection is cut, and it is not deleted."""

    side: HttpSide
    _web: Web | None = None

    async def __aenter__(self) -> tuple[Web, str]:
        self._web, session = await self.side._new_session(HOSTILE_ADDRESS)
        return self._web, session

    async def __aexit__(self, *_: object) -> None:
        assert self._web is not None
        self._web.cut(reset=self.side.random.random() < 0.5)
