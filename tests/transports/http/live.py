"""A server on real sockets, and clients that write their HTTP by hand."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, Literal, TypeAlias, final

import attrs
import msgspec
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import LATEST, initialize, notification, request
from trio_mcp_session import (
    BoundAddress,
    CleanupConfig,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionLimits,
    SessionManager,
    open_session_manager,
    serve_http,
    validate_sessions,
)
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.sessions.session import Lifespan
from trio_mcp_session.transports.http.session_streams import SessionStreams

HANG_GUARD: Final = 30.0
"""Seconds after which a test is given up: sockets are real, and so is their time."""

ServerName: TypeAlias = Literal["builtin", "hypercorn"]
SERVERS: Final[tuple[ServerName, ...]] = ("builtin", "hypercorn")

Headers: TypeAlias = Mapping[str, str | bytes | list[str | bytes] | None]
"""Header fields; a list stands for one that comes several times, None for one that is left out."""


@final
@attrs.define(eq=False)
class Answer:
    """A response, as far as it has come."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    ended: bool = False
    """Whether it came to its proper end."""

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def write_request(
    method: str = "POST",
    body: object = b"",
    headers: Headers | None = None,
    *,
    path: str = "/mcp",
    version: str = "1.1",
) -> bytes:
    """Write a request; a body that is not bytes goes as JSON."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    fields: dict[str, Any] = {
        "Host": "127.0.0.1",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json" if method == "POST" else None,
        "Content-Length": str(len(content)) if content or method == "POST" else None,
        **(headers or {}),
    }
    lines = [f"{method} {path} HTTP/{version}".encode()]
    for name, value in fields.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        lines += [name.encode() + b": " + as_bytes(one) for one in values]
    return b"\r\n".join(lines) + b"\r\n\r\n" + content


@final
@attrs.define(eq=False)
class Wire(trio.abc.AsyncResource):
    """A connection, and what was read from it."""

    stream: trio.abc.Stream
    address: BoundAddress
    _buffer: bytes = attrs.field(default=b"", init=False)
    _method: str = attrs.field(default="", init=False)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def request(
        self, method: str = "POST", body: object = b"", headers: Headers | None = None, **more: Any
    ) -> Answer:
        """Send a request; return the whole response."""
        await self.send(write_request(method, body, headers, **more))
        return await self.answer(method)

    async def begin(
        self, method: str = "POST", body: object = b"", headers: Headers | None = None, **more: Any
    ) -> Answer:
        """Send a request; return the response's head."""
        await self.send(write_request(method, body, headers, **more))
        return await self.head()

    async def answer(self, method: str = "") -> Answer:
        """Read a whole response."""
        answer = await self.head()
        if method == "HEAD":
            answer.ended = True
        while not answer.ended:
            await self.more(answer)
        return answer

    async def head(self) -> Answer:
        """Read the head of a response."""
        while b"\r\n\r\n" not in self._buffer:
            await self._read()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for field in fields:
            name, _, value = field.partition(":")
            assert name.lower() not in headers
            headers[name.lower()] = value.strip()
        version, number, *_ = status.split(" ")
        assert version == "HTTP/1.1"
        answer = Answer(int(number), headers)
        answer.ended = answer.status == 204 or headers.get("content-length") == "0"
        return answer

    async def more(self, answer: Answer) -> bytes:
        """Read more of a response's body; nothing at its proper end."""
        if answer.headers.get("transfer-encoding") == "chunked":
            piece = await self._chunk()
            answer.ended = not piece
        else:
            missing = int(answer.headers["content-length"]) - len(answer.body)
            if not self._buffer:
                await self._read()
            piece, self._buffer = self._buffer[:missing], self._buffer[missing:]
            answer.ended = len(piece) == missing
        answer.body += piece
        return piece

    async def event(self, answer: Answer) -> dict[str, str]:
        """Read an event of a stream; comments are skipped."""
        fields: dict[str, str] = {}
        while not fields:
            while b"\n\n" not in (text := answer.body.replace(b"\r\n", b"\n")):
                assert await self.more(answer), "the stream has ended"
            event, _, answer.body = text.partition(b"\n\n")
            lines = (line.partition(":") for line in event.decode().split("\n"))
            fields = {name: value.removeprefix(" ") for name, _, value in lines if name}
        return fields

    async def message(self, answer: Answer) -> Any:
        """Read the next message of a stream."""
        while not (data := (await self.event(answer)).get("data")):
            pass
        return msgspec.json.decode(data)

    async def to_the_end(self, answer: Answer) -> bytes:
        """Read the rest of a response; it comes to its proper end."""
        while not answer.ended:
            await self.more(answer)
        return answer.body

    async def rest(self) -> bytes:
        """Read everything until the connection is closed, in whatever way."""
        try:
            while True:
                await self._read()
        except EOFError:
            rest, self._buffer = self._buffer, b""
            return rest

    async def _chunk(self) -> bytes:
        while b"\r\n" not in self._buffer:
            await self._read()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        size = int(line, 16)
        while len(self._buffer) < size + 2:
            await self._read()
        chunk, end = self._buffer[:size], self._buffer[size : size + 2]
        assert end == b"\r\n"
        self._buffer = self._buffer[size + 2 :]
        return chunk

    async def _read(self) -> None:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise EOFError(self._buffer)
        self._buffer += bytes(data)

    def is_silent(self) -> bool:
        """Return whether nothing has come that was not read, not even the end."""
        stream = self.stream
        raw = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        assert isinstance(raw, trio.SocketStream)
        return self._buffer == b"" and not select.select([raw.socket], [], [], 0)[0]

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)

    async def reset(self) -> None:
        """Vanish: the other side gets a reset instead of an end."""
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.aclose()


@final
@attrs.define(eq=False)
class Caller:
    """A client with a session."""

    wire: Wire
    session: Session
    headers: dict[str, Any]

    async def post(self, message: object, headers: Headers | None = None) -> Answer:
        if not self.wire.is_silent():  # It is closed, which clients have to expect.
            assert await self.wire.rest() == b""
            await self.wire.aclose()
            self.wire.stream = (await connect(self.wire.address)).stream
        return await self.wire.request("POST", message, {**self.headers, **(headers or {})})

    async def ask(self, number: object, method: str, params: object = None) -> Any:
        answer = await self.post(request(number, method, params))
        assert (answer.status, answer.ended) == (200, True)
        return answer.json

    async def echo(self, text: str) -> None:
        """Make sure that it is answered, and that the answer is its own."""
        answer = await self.ask(text, "tools/call", call("echo", text=text))
        assert answer == {
            "jsonrpc": "2.0",
            "id": text,
            "result": {"content": [{"type": "text", "text": text}]},
        }


def call(tool: str, **arguments: object) -> dict[str, Any]:
    """Parameters of tools/call."""
    return {"name": tool, "arguments": arguments}


@final
@attrs.define(eq=False)
class Toy:
    """What is served, and how it ended."""

    echoed: list[str] = attrs.field(factory=list)
    """The texts of all calls of ``echo``, in the order in which they came."""
    released: dict[str, trio.Event] = attrs.field(factory=dict)
    finished: list[str] = attrs.field(factory=list)
    """The calls of ``wait`` that came to their end."""

    def release(self, name: str) -> None:
        self.released.setdefault(name, trio.Event()).set()

    def router(self, lifespan: Lifespan | None = None) -> Router:
        router = Router("toy", "1", lifespan=lifespan)

        @router.tool(structured=False)
        async def echo(ctx: RequestContext, text: str) -> str:
            self.echoed.append(text)
            return text

        @router.tool(structured=False)
        async def many(ctx: RequestContext, size: int) -> str:
            return "y" * size

        @router.tool(structured=False)
        async def wait(ctx: RequestContext, name: str, *, say: bool = False) -> str:
            if say:
                await ctx.notify("notifications/begun")
            await self.released.setdefault(name, trio.Event()).wait()
            self.finished.append(name)
            return name

        return router


@final
@attrs.define(eq=False)
class Served:
    """One `serve_http`."""

    server: ServerName
    addresses: tuple[BoundAddress, ...] = ()
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    task: trio.lowlevel.Task | None = None
    returned: trio.Event = attrs.field(factory=trio.Event)
    """It has ended, whether by itself or cancelled."""

    async def run(  # noqa: ASYNC128  # handed on
        self,
        manager: SessionManager,
        bind: str | Sequence[str],
        settings: Mapping[str, Any],
        *,
        task_status: trio.TaskStatus[tuple[BoundAddress, ...]],
    ) -> None:
        self.task = trio.lowlevel.current_task()
        with self.scope:
            await serve_http(manager, bind, server=self.server, **settings, task_status=task_status)
        self.returned.set()


@final
@attrs.define(eq=False)
class Live:
    """A manager that is served, and a bystander that the rest must not disturb."""

    manager: SessionManager
    toy: Toy
    _stack: AsyncExitStack
    _nursery: trio.Nursery
    served: Served = attrs.field(init=False)
    """The first that was started."""
    bystander: Caller = attrs.field(init=False)
    _listening: tuple[Wire, Answer] = attrs.field(init=False)
    _waiting: tuple[Wire, Answer] = attrs.field(init=False)

    @property
    def address(self) -> BoundAddress:
        return self.served.addresses[0]

    async def serve(
        self,
        bind: str | Sequence[str] = "127.0.0.1:0",
        *,
        server: ServerName = "builtin",
        **settings: Any,
    ) -> Served:
        served = Served(server)
        served.addresses = await self._nursery.start(served.run, self.manager, bind, settings)
        return served

    async def connect(self, address: BoundAddress | None = None) -> Wire:
        """Connect; it is closed in the end, at the latest."""
        return await self._stack.enter_async_context(await connect(address or self.address))

    async def open_session(
        self, version: str = LATEST, headers: Headers | None = None, wire: Wire | None = None
    ) -> Caller:
        """Open a session on a connection of its own."""
        wire = wire or await self.connect()
        answer = await wire.request("POST", initialize("hello", version), headers)
        assert (answer.status, answer.json["id"]) == (200, "hello"), answer
        session_id = answer.headers["mcp-session-id"]
        session = self.manager.get_session(session_id)
        assert session is not None
        caller = Caller(wire, session, {**(headers or {}), "Mcp-Session-Id": session_id})
        answer = await caller.post(notification("notifications/initialized"))
        assert (answer.status, answer.body) == (202, b"")
        return caller

    async def place_bystander(self, headers: Headers | None = None) -> None:
        """Let a bystander listen, and wait for the answer of a call."""
        self.bystander = by = await self.open_session(headers=headers)
        wire = await self.connect()
        self._listening = wire, await wire.begin("GET", headers=by.headers)
        wire = await self.connect()
        waiting = request(5, "tools/call", call("wait", name="bystander", say=True))
        self._waiting = wire, await wire.begin("POST", waiting, by.headers)
        assert (await wire.message(self._waiting[1]))["method"] == "notifications/begun"

    async def check_bystander(self) -> None:
        """Make sure that nothing disturbed it."""
        by = self.bystander
        await by.echo(f"bystander {len(self.toy.echoed)}")
        await by.session.notify("notifications/tools/list_changed")
        wire, answer = self._listening
        assert await wire.message(answer) == notification("notifications/tools/list_changed")
        assert "bystander" not in self.toy.finished
        metrics = by.session.metrics
        assert (metrics.bad_input, metrics.cancelled, metrics.errors) == (0, 0, 0)
        assert metrics.in_flight == 1

    async def dismiss_bystander(self) -> None:
        """Make sure that its call is answered, after all."""
        self.toy.release("bystander")
        wire, answer = self._waiting
        assert (await wire.message(answer))["id"] == 5
        await wire.to_the_end(answer)

    def census(self) -> dict[str, Any]:
        """What there is: tasks and sockets, sessions and streams."""
        assert self.served.task is not None
        found: dict[str, Any] = {
            "tasks": sorted(_names_below(self.served.task)),
            "files": len(os.listdir("/dev/fd")),
            "books": validate_sessions(self.manager.store),
            "reserved": self.manager._admission.reserved,
        }
        for session in self.manager.sessions():
            connection = session._connection
            streams = None if connection is None else client_of(session).sink
            if isinstance(streams, SessionStreams):
                found[session.session_id] = (
                    streams.listeners,
                    streams._responses,
                    len(streams._sse_responses or ()),
                    len(streams._unfinished or ()),
                    client_of(session).in_flight + client_of(session).queued,
                    len(streams.endpoint.ticker),
                )
            else:
                found[session.session_id] = ()
        return found

    @asynccontextmanager
    async def undisturbed(self, refused: Mapping[int, int] | None = None) -> AsyncIterator[None]:
        """Nothing is left of what happens in the block, and no bystander notices it.

        Args:
            refused: What the endpoint refuses in it, by status.
        """
        await self.check_bystander()
        await self.quiet()
        before = self.census()
        counted = dict(self.manager.statistics().http_refused)
        yield
        await self.settles(before)
        now = self.manager.statistics().http_refused
        assert {
            status: count - counted.get(status, 0)
            for status, count in now.items()
            if count != counted.get(status, 0)
        } == (refused or {})
        await self.check_bystander()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps: there are tasks that look at it again and again."""
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        for _ in range(round(seconds * 2)):
            await wait_all_tasks_blocked()
            clock.jump(0.5)
        await wait_all_tasks_blocked()

    async def quiet(self) -> None:
        """Wait until nothing happens."""
        await wait_all_tasks_blocked()
        if self.served.server == "hypercorn":
            # It notices only then that the client of an idle connection has left.
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, MockClock)
            clock.jump(6)
            await wait_all_tasks_blocked()

    async def settles(self, before: Mapping[str, Any]) -> None:
        """Wait until everything is as it was: the system may need a moment to report an end."""
        await self.quiet()
        # It gives a slow system a second chance.
        await wait_all_tasks_blocked(0.01 if self.census() != before else 0)
        assert self.census() == before


def _names_below(task: trio.lowlevel.Task) -> Iterable[str]:
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield child.name
            yield from _names_below(child)


async def connect(address: BoundAddress) -> Wire:
    """Connect to a server."""
    stream: trio.SocketStream
    if address.unix_path is not None:
        stream = await trio.open_unix_socket(address.unix_path)
    else:
        stream = await trio.open_tcp_stream(address.host, address.port)
    return Wire(stream, address)


@asynccontextmanager
async def guarded() -> AsyncIterator[None]:
    """Let nothing hang in the block, also where only virtual time passes."""
    done = threading.Event()

    async def watch(scope: trio.CancelScope) -> None:
        wait = partial(done.wait, HANG_GUARD)
        if not await trio.to_thread.run_sync(wait, abandon_on_cancel=True):
            raise TimeoutError("it hangs")  # pragma: no cover  # the test has failed

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        try:
            yield
        finally:
            done.set()


@asynccontextmanager
async def live(
    bind: str | Sequence[str] = "127.0.0.1:0",
    *,
    session_limits: SessionLimits | None = None,
    cleanup: CleanupConfig | None = None,
    lifespan: Lifespan | None = None,
    **settings: Any,
) -> AsyncIterator[Live]:
    """Serve for the length of a block, in the end of which everything is gone."""
    config = SessionConfig(
        limits=session_limits or SessionLimits(), cleanup=cleanup or CleanupConfig()
    )
    toy = Toy()
    async with (
        guarded(),
        open_session_manager(toy.router(lifespan), config=config) as manager,
        AsyncExitStack() as stack,
        trio.open_nursery() as nursery,
    ):
        it = Live(manager, toy, stack, nursery)
        it.served = await it.serve(bind, **settings)
        yield it
        nursery.cancel_scope.cancel()
        for session in manager.sessions():
            session.terminate()
    assert manager.sessions() == []


@asynccontextmanager
async def watched(
    server: ServerName = "builtin", *, by: Headers | None = None, **settings: Any
) -> AsyncIterator[Live]:
    """Serve, with a bystander that is there until the end."""
    async with live(server=server, **settings) as it:
        await it.place_bystander(by)
        yield it
        await it.dismiss_bystander()
