"""A server on a real socket, and clients by hand.

The sockets are Unix ones where it doesn't matter: what is sent is there at once, so that all tasks
are blocked exactly when everything has been done that can be done.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, final

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session.transports.asgi import Message, Receive, Scope, Send
from trio_mcp_session.transports.http1 import server as server_module
from trio_mcp_session.transports.http1.limits import HttpServerLimits
from trio_mcp_session.transports.http1.listeners import bound_address, open_listeners
from trio_mcp_session.transports.http1.service import Service

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


@attrs.define
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@final
@attrs.define(eq=False)
class Client:
    """Sends and reads whatever it likes; reads what belongs to a response, and not more."""

    stream: trio.SocketStream
    _data: bytes = b""

    async def send(self, *parts: bytes) -> None:
        """Send parts that the server reads one after the other."""
        for part in parts:
            await self.stream.send_all(part)
            await wait_all_tasks_blocked()

    async def more(self) -> bool:
        data = await self.stream.receive_some()
        self._data += data
        return bool(data)

    async def take(self, count: int) -> bytes:
        while len(self._data) < count:
            assert await self.more(), f"the end came early, after {self._data!r}"
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    async def take_until(self, end: bytes) -> bytes:
        while end not in self._data:
            assert await self.more(), f"the end came early, after {self._data!r}"
        return await self.take(self._data.index(end) + len(end))

    async def head(self) -> Answer:
        lines = (await self.take_until(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        headers = dict(line.split(": ", 1) for line in lines[1:])
        assert len(headers) == len(lines) - 1
        return Answer(int(status), headers, b"")

    async def chunk(self) -> bytes:
        size = int(await self.take_until(b"\r\n"), 16)
        return (await self.take(size + 2))[:-2]

    async def answer(self, *, bodiless: bool = False) -> Answer:
        answer = await self.head()
        if bodiless:
            return answer
        if "content-length" in answer.headers:
            answer.body = await self.take(int(answer.headers["content-length"]))
        elif answer.headers.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                answer.body += chunk
        else:
            answer.body = await self.rest()
        return answer

    async def ask(self, data: bytes) -> Answer:
        await self.stream.send_all(data)
        return await self.answer()

    async def rest(self) -> bytes:
        """Return what comes until the connection is closed."""
        while await self.more():
            pass
        taken, self._data = self._data, b""
        return taken

    def seen(self) -> bytes:
        """Return what has come until now."""
        with suppress(BlockingIOError):
            self._data += self._raw().recv(10_000_000, socket.MSG_DONTWAIT)
        taken, self._data = self._data, b""
        return taken

    def _raw(self) -> socket.socket:
        raw: socket.socket = self.stream.socket._sock  # type: ignore[attr-defined]
        return raw

    async def half_close(self) -> None:
        await self.stream.send_eof()
        await wait_all_tasks_blocked()

    async def leave(self) -> None:
        await self.stream.aclose()
        await wait_all_tasks_blocked()


@final
@attrs.define(eq=False)
class Server:
    """A server that is running."""

    stop: trio.Event
    nursery: trio.Nursery
    listeners: tuple[trio.SocketListener, ...]
    service: Service
    _clients: list[Client] = attrs.field(factory=list[Client], init=False)
    ended: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def connect(self) -> Client:
        address = bound_address(self.listeners[0])
        if address.unix_path is not None:
            stream = await trio.open_unix_socket(address.unix_path)
        else:
            stream = await trio.open_tcp_stream(address.host, address.port)
        client = Client(stream)
        self._clients.append(client)
        await wait_all_tasks_blocked()
        return client

    async def close_clients(self) -> None:
        for client in self._clients:
            await client.stream.aclose()

    async def connect_closed(self, client: Client) -> None:
        assert await client.rest() == b""

    @property
    def count(self) -> int:
        return self.service.count


def http_only(handler: Handler) -> Handler:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await handler(scope, receive, send)

    return app


@asynccontextmanager
async def serving(
    handler: Handler,
    *,
    limits: HttpServerLimits | None = None,
    tcp: bool = False,
    stop_budget: float = 1.0,
    raw: bool = False,
) -> AsyncIterator[Server]:
    """Run a server, and see that it leaves nothing behind when it is cancelled."""
    services: list[Service] = []

    def make_service(*args: Any) -> Service:
        services.append(Service(*args))
        return services[0]

    app = handler if raw else http_only(handler)
    stop = trio.Event()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(server_module, "Service", make_service)
        bind = "127.0.0.1:0" if tcp else f"unix:{os.path.join(folder, 's')}"
        async with open_listeners(bind) as listeners, trio.open_nursery() as nursery:
            serve = partial(
                server_module.serve_asgi,
                app,
                listeners,
                stop=stop,
                stop_budget=stop_budget,
                limits=limits or HttpServerLimits(),
            )
            ended = trio.Event()

            async def run(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128
                await serve(task_status=task_status)
                ended.set()

            await nursery.start(run)
            server = Server(stop, nursery, listeners, services[0])
            server.ended = ended
            try:
                yield server
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await server.close_clients()
        assert services[0].count == 0


async def body_of(receive: Receive) -> bytes:
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message["body"]
        more = message["more_body"]
    return body


async def respond(
    send: Send, body: bytes = b"", status: int = 200, *headers: tuple[bytes, bytes]
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the method, the path and the body."""
    body = await body_of(receive)
    await respond(send, f"{scope['method']} {scope['path']} ".encode() + body)


def part(body: bytes = b"", *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def head(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": [*headers]}


class BeforeStep(trio.abc.Instrument):
    """Does something just before a task resumes that has waited."""

    def __init__(self, action: Callable[[], object], name: str | None = None) -> None:
        self.action = action
        self.name = name

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.name in {None, task.name}:  # pragma: no branch - others may run first
            trio.lowlevel.remove_instrument(self)
            self.action()


async def pass_time(clock: MockClock, seconds: float) -> None:
    """Let time pass, and let every task do what is due."""
    clock.jump(seconds)
    for _ in range(3):
        await wait_all_tasks_blocked()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what comes as soon as the system gets round to it."""
    while not condition():  # noqa: ASYNC110  # no event is set
        await trio.lowlevel.checkpoint()  # pragma: no cover - it may have come at once
