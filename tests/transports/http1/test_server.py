"""The life of a server: how it starts, stops and is cancelled."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session.transports.asgi import Receive, Scope, Send
from trio_mcp_session.transports.http1.listeners import open_listeners
from trio_mcp_session.transports.http1.server import serve_asgi

from .pieces import GET, POST
from .serving import Client, Server, echo, head, part, pass_time, respond, serving, until


class Streaming:
    """An application that streams until it is told to end."""

    def __init__(self) -> None:
        self.end = trio.Event()
        self.cancelled = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(head())
        await send(part(b"begun"))
        try:
            await self.end.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        await send(part(b"ended", more=False))


async def stream(server: Server) -> Client:
    client = await server.connect()
    await client.send(GET + b"\r\n")
    assert (await client.head()).status == 200
    assert await client.chunk() == b"begun"
    return client


async def refuses(server: Server) -> bool:
    try:
        await server.connect()
    except OSError:
        return True
    return False  # pragma: no cover


async def test_a_stopped_server_lets_responses_end(mock_clock: MockClock) -> None:
    app = Streaming()
    async with serving(app) as server:
        clients = [await stream(server) for _ in range(3)]
        fresh, half = await server.connect(), await server.connect()
        await half.send(b"GET / HTTP/1.1\r\n")
        server.stop.set()
        assert await fresh.rest() == await half.rest() == b""
        assert await refuses(server)
        assert server.count == 3
        assert not server.ended.is_set()
        app.end.set()
        for client in clients:
            assert await client.chunk() == b"ended"
            assert await client.chunk() == b""
            assert await client.rest() == b""
        await server.ended.wait()
        assert app.cancelled == 0


async def test_a_refused_client_may_read_its_answer_while_the_server_stops() -> None:
    async with serving(echo, tcp=True) as server:
        client = await server.connect()
        await client.send(b"GET / HTTP/2.0\r\n\r\n")
        await until(client.stream.socket.is_readable)
        server.stop.set()
        await wait_all_tasks_blocked()
        await client.send(b"more")
        assert (await client.answer()).status == 505
        assert await client.rest() == b""
        assert server.count == 1
        await client.leave()
        await server.ended.wait()


async def test_a_body_that_is_awaited_may_still_come() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(POST + b"Content-Length: 4\r\n\r\nab")
        server.stop.set()
        await client.send(b"c", b"d")
        assert (await client.answer()).text == "POST / abcd"
        await server.ended.wait()


async def test_a_connection_that_has_served_and_waits_is_closed_at_once() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.ask(GET + b"\r\n")
        server.stop.set()
        assert await client.rest() == b""
        await server.ended.wait()


async def test_the_last_answer_of_a_stopping_server_closes_the_connection() -> None:
    gate = trio.Event()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await respond(send, b"ok")

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(GET + b"\r\n" + GET + b"\r\n")
        server.stop.set()
        await wait_all_tasks_blocked()
        gate.set()
        answer = await client.answer()
        assert answer.headers["connection"] == "close"
        # What was asked ahead is not answered.
        assert await client.rest() == b""
        await client.leave()
        await server.ended.wait()


async def test_a_response_that_began_before_is_the_last_although_it_does_not_say_so() -> None:
    app = Streaming()
    async with serving(app) as server:
        client = await stream(server)
        server.stop.set()
        await client.send(GET + b"\r\n")
        app.end.set()
        assert await client.chunk() == b"ended"
        assert await client.rest() == b"0\r\n\r\n"
        await client.leave()
        await server.ended.wait()


async def test_responses_have_so_much_time_to_end(mock_clock: MockClock) -> None:
    app = Streaming()
    async with serving(app, stop_budget=5) as server:
        client = await stream(server)
        server.stop.set()
        await wait_all_tasks_blocked()
        await pass_time(mock_clock, 4.9)
        assert (app.cancelled, server.count) == (0, 1)
        await pass_time(mock_clock, 0.2)
        assert (app.cancelled, server.count) == (1, 0)
        assert await client.rest() == b""
        await server.ended.wait()


async def test_a_stop_before_the_start() -> None:
    stop = trio.Event()
    stop.set()
    async with open_listeners("127.0.0.1:0") as listeners:
        await serve_asgi(echo, listeners, stop=stop, stop_budget=0)
        assert [listener.socket.fileno() for listener in listeners] == [-1]


async def test_a_cancelled_server_cuts_everything_at_once() -> None:
    app = Streaming()
    async with serving(app) as server:
        clients = [await stream(server), await server.connect()]
        uploading = await server.connect()
        await uploading.send(POST + b"Content-Length: 3\r\n\r\n")
        server.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
            for client in clients:
                assert await client.rest() == b""
            assert server.count == 0
        assert app.cancelled == 2
    assert not server.ended.is_set()


async def test_without_a_stop_event_a_server_runs_until_cancelled(mock_clock: MockClock) -> None:
    async with open_listeners("127.0.0.1:0") as listeners, trio.open_nursery() as nursery:
        await nursery.start(serve_asgi, echo, listeners)
        await pass_time(mock_clock, 1e9)
        assert nursery.child_tasks
        nursery.cancel_scope.cancel()
    assert [listener.socket.fileno() for listener in listeners] == [-1]


# --- lifespans ---


class WithLifespan:
    """An application with a lifespan that does what it is told to."""

    def __init__(self, *, starting: str = "complete", stopping: str = "complete") -> None:
        self.starting = starting
        self.stopping = stopping
        self.events: list[str] = []
        self.gate = trio.Event()
        self.states: list[object] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.states.append(dict(scope["state"]))
            scope["state"]["mine"] = True
            await respond(send)
            return
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        scope["state"]["shared"] = self
        assert await receive() == {"type": "lifespan.startup"}
        self.events.append("starting")
        await self._do(self.starting, "startup", send)
        assert await receive() == {"type": "lifespan.shutdown"}
        self.events.append("stopping")
        await self._do(self.stopping, "shutdown", send)
        self.events.append("stopped")

    async def _do(self, what: str, when: str, send: Send) -> None:
        if what == "raise":
            raise ValueError(when)
        if what == "wait":
            await self.gate.wait()
            what = "complete"
        if what == "odd":
            with pytest.raises(RuntimeError, match="no place"):
                await send({"type": "lifespan.odd"})
            what = "complete"
        message = {"message": "not today"} if what == "failed" else {}
        await send({"type": f"lifespan.{when}.{what}", **message})


async def test_a_lifespan_begins_before_the_first_request_and_ends_after_the_last() -> None:
    app = WithLifespan(stopping="wait")
    async with serving(app, raw=True) as server:
        assert app.events == ["starting"]
        client = await server.connect()
        for _ in range(2):
            await client.ask(GET + b"\r\n")
        # What one request notes there is none of the others' business.
        assert app.states == [{"shared": app}] * 2
        server.stop.set()
        assert await client.rest() == b""
        await wait_all_tasks_blocked()
        assert app.events == ["starting", "stopping"]
        assert not server.ended.is_set()
        app.gate.set()
        await server.ended.wait()
        assert app.events == ["starting", "stopping", "stopped"]


async def test_clients_may_connect_when_the_application_is_ready() -> None:
    app = WithLifespan(starting="wait")
    async with open_listeners("127.0.0.1:0") as listeners, trio.open_nursery() as nursery:
        ready = trio.Event()

        async def run() -> None:
            async with trio.open_nursery() as inner:
                await inner.start(serve_asgi, app, listeners)
                ready.set()

        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        assert app.events == ["starting"]
        assert not ready.is_set()
        app.gate.set()
        await ready.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("message", [{}, {"message": "not today"}])
async def test_an_application_that_can_not_start(message: dict[str, str]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", **message})

    async with open_listeners("127.0.0.1:0") as listeners:
        with pytest.raises(RuntimeError, match=f"does not start: {message.get('message', '')}$"):
            await serve_asgi(app, listeners)
        assert [listener.socket.fileno() for listener in listeners] == [-1]


@pytest.mark.parametrize("returns", [False, True])
async def test_an_application_without_a_lifespan(
    returns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await respond(send, b"ok")
        elif not returns:
            raise NotImplementedError

    async with serving(app, raw=True) as server:
        client = await server.connect()
        assert (await client.ask(GET + b"\r\n")).text == "ok"
        server.stop.set()
        await server.ended.wait()
    assert caplog.records == []


async def test_a_lifespan_that_fails_later_ends_no_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await respond(send, b"ok")
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await gate.wait()
        raise ValueError("no")

    async with serving(app, raw=True) as server:
        gate.set()
        await wait_all_tasks_blocked()
        client = await server.connect()
        assert (await client.ask(GET + b"\r\n")).text == "ok"
        server.stop.set()
        await server.ended.wait()
    assert [record.getMessage() for record in caplog.records] == [
        "The application's lifespan failed"
    ]


@pytest.mark.parametrize("stopping", ["complete", "failed", "raise", "odd"])
async def test_the_outcome_of_a_lifespan_shutdown_is_logged(
    stopping: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = WithLifespan(starting="odd", stopping=stopping)
    async with serving(app, raw=True) as server:
        server.stop.set()
        await server.ended.wait()
    messages = {
        "failed": ["The application failed to shut down: not today"],
        "raise": ["The application's lifespan failed"],
    }
    assert [record.getMessage() for record in caplog.records] == messages.get(stopping, [])


async def test_a_lifespan_may_tidy_up_after_it_has_said_that_it_is_done() -> None:
    gate = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        await gate.wait()

    async with serving(app, raw=True) as server:
        server.stop.set()
        await wait_all_tasks_blocked()
        assert not server.ended.is_set()
        gate.set()
        await server.ended.wait()


async def test_a_lifespan_is_cancelled_with_its_server() -> None:
    app = WithLifespan()
    async with serving(app, raw=True):
        pass
    assert app.events == ["starting"]


# --- what it needs ---


@pytest.mark.parametrize("module", ["", ".transports.http1.limits", ".transports.http1.listeners"])
def test_the_parser_is_imported_only_by_the_server(module: str) -> None:
    program = f"import trio_mcp_session{module}, sys; print('httptools' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"
