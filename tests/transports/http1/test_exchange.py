"""What an application is given for a request: bodies, disconnects and responses."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

from trio_mcp_session.transports.asgi import ClientDisconnected, Message, Receive, Scope, Send
from trio_mcp_session.transports.http1.exchange import Exchange
from trio_mcp_session.transports.http1.limits import HttpServerLimits
from trio_mcp_session.transports.http1.parser import RequestParser
from trio_mcp_session.transports.http1.service import Service
from trio_mcp_session.transports.http1.wire import Wire

from .pieces import CHUNKED, GET, HOST, POST
from .serving import BeforeStep, body_of, echo, head, part, respond, serving, until

LENGTH_5 = POST + b"Content-Length: 5\r\n\r\n"
BYE = {"type": "http.disconnect"}


def request(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


class Receiver:
    """An application that takes what comes, and answers when it is told to."""

    def __init__(self, count: int = 1) -> None:
        self.messages: list[Message] = []
        self.errors: list[BaseException] = []
        self.count = count
        self.answer = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            for _ in range(self.count):
                self.messages.append(await receive())
            await self.answer.wait()
            await respond(send, b"ok")
            self.messages.append(await receive())
        except Exception as error:
            self.errors.append(error)
            raise


async def test_a_body_that_is_there_is_given_at_once() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        with assert_no_checkpoints():
            assert await receive() == request(b"hello")
            await respond(send, b"ok")
            # The response is complete: nothing else can happen to it.
            assert await receive() == BYE
            assert await receive() == BYE

    async with serving(handler) as server:
        client = await server.connect()
        # However many: between two requests others had their turn.
        for _ in range(40):
            assert (await client.ask(LENGTH_5 + b"hello")).text == "ok"


async def test_a_body_is_given_as_it_comes() -> None:
    app = Receiver(4)
    async with serving(app) as server:
        client = await server.connect()
        await client.send(LENGTH_5, b"he", b"l")
        assert app.messages == [request(b"he", more=True), request(b"l", more=True)]
        await client.send(b"lo")
        assert app.messages[2:] == [request(b"lo")]


async def test_chunks_are_given_as_they_come() -> None:
    app = Receiver(3)
    async with serving(app) as server:
        client = await server.connect()
        await client.send(CHUNKED + b"2\r\nhe\r\n1\r\nl\r\n1\r\nl", b"\r\n1", b"\r\no\r\n0\r\n")
        assert app.messages == [request(b"hell", more=True), request(b"o", more=True)]
        await client.send(b"\r\n")
        assert app.messages[2:] == [request(b"")]


async def test_a_client_is_asked_for_its_body_when_the_application_waits_for_it() -> None:
    first, second = trio.Event(), trio.Event()
    got: list[bytes] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await first.wait()
        got.append((await receive())["body"])
        await second.wait()
        got.append(await body_of(receive))
        await respond(send, b"ok")

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert client.seen() == b""
        first.set()
        await wait_all_tasks_blocked()
        assert client.seen() == b"HTTP/1.1 100 Continue\r\n\r\n"
        second.set()
        await client.send(b"he", b"llo")
        assert (await client.answer()).text == "ok"
        assert got == [b"he", b"llo"]


async def test_a_client_is_not_asked_for_what_it_has_sent_nor_after_the_answer() -> None:
    expecting = POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "PUT":
            await send(head())
            await send(part(b"ok"))
            await body_of(receive)
            await send(part(more=False))
        else:
            await echo(scope, receive, send)

    async with serving(handler) as server:
        client = await server.connect()
        assert (await client.ask(expecting + b"hello")).text == "POST / hello"
        await client.send(b"PUT" + expecting.removeprefix(b"POST"), b"hello")
        answer = await client.answer()
        assert (answer.status, answer.text) == (200, "ok")
        assert answer.headers["connection"] == "close"


async def test_a_client_refused_before_its_body_gets_no_100_continue() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"no", 401)

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        # It is unknown whether it sends the body now.
        await client.send(b"GET ")
        await client.half_close()
        assert await client.rest() == b""
        assert server.count == 0


@pytest.mark.parametrize("framed", [LENGTH_5 + b"hello", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"])
async def test_an_unread_body_is_dropped_if_it_has_arrived(framed: bytes) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"no", 404)

    async with serving(handler) as server:
        client = await server.connect()
        for _ in range(2):
            answer = await client.ask(framed)
            assert (answer.status, "connection" in answer.headers) == (404, False)


async def test_a_body_may_be_read_while_the_response_is_sent() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(head())
        await send(part(b"<"))
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(part(message["body"], more=True))
        await send(part(b">", more=False))

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(LENGTH_5 + b"h", b"el", b"lo")
        answer = await client.answer()
        assert answer.text == "<hello>"
        # It was not known when the head was written that the body would be read.
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""
        # All of it was there when the head was written.
        client = await server.connect()
        answer = await client.ask(LENGTH_5 + b"hello")
        assert answer.text == "<hello>"
        assert "connection" not in answer.headers


# --- clients that leave ---


async def test_a_client_that_leaves_is_noticed_while_the_response_is_awaited() -> None:
    app = Receiver(2)
    async with serving(app) as server:
        client = await server.connect()
        await client.send(LENGTH_5 + b"hello")
        assert app.messages == [request(b"hello")]
        await client.leave()
        assert app.messages == [request(b"hello"), BYE]


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_client_that_leaves_is_noticed_while_the_response_is_streamed(tcp: bool) -> None:
    errors: list[Exception] = []
    left = trio.Event()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == request(b"")
        await send(head())
        await send(part(b"data"))
        assert await receive() == BYE
        assert await receive() == BYE
        left.set()
        with pytest.raises(ClientDisconnected) as caught:
            while True:
                await send(part(b"data"))
        errors.append(caught.value)
        raise caught.value

    async with serving(handler, tcp=tcp) as server:
        client = await server.connect()
        await client.send(GET + b"\r\n")
        assert (await client.head()).status == 200
        await client.leave()
        await left.wait()
        await until(lambda: server.count == 0)
        assert isinstance(errors[0], OSError)


async def test_a_client_that_leaves_in_its_body_is_noticed() -> None:
    app = Receiver(2)
    async with serving(app) as server:
        client = await server.connect()
        await client.send(LENGTH_5 + b"he")
        await client.leave()
        assert app.messages == [request(b"he", more=True), BYE]
        app.answer.set()
        await wait_all_tasks_blocked()
        assert [type(error) for error in app.errors] == [ClientDisconnected]
        assert server.count == 0


async def test_a_client_that_leaves_unasked_is_noticed() -> None:
    app = Receiver(1)
    async with serving(app) as server:
        client = await server.connect()
        await client.send(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        await client.leave()
        assert app.messages == [BYE]
        app.answer.set()
        await wait_all_tasks_blocked()
        assert server.count == 0


async def test_a_client_may_close_its_side_and_read_on() -> None:
    app = Receiver(2)
    async with serving(app) as server:
        client = await server.connect()
        await client.send(GET + b"\r\n")
        await client.half_close()
        assert app.messages == [request(b""), BYE]
        app.answer.set()
        assert (await client.answer()).text == "ok"
        assert await client.rest() == b""


async def test_a_client_may_ask_ahead_and_is_still_noticed_when_it_leaves() -> None:
    app = Receiver(2)
    async with serving(app) as server:
        client = await server.connect()
        await client.send(GET + b"\r\n", GET, b"\r\n" + GET)
        assert app.messages == [request(b"")]
        await client.half_close()
        assert app.messages == [request(b""), BYE]
        app.answer.set()
        assert (await client.answer()).text == "ok"
        assert (await client.answer()).text == "ok"
        assert await client.rest() == b""


async def test_only_so_much_is_read_ahead() -> None:
    app = Receiver(2)
    ahead = GET + b"X: y\r\n\r\n"
    async with serving(app, limits=HttpServerLimits(max_ahead=len(ahead) + 1)) as server:
        client = await server.connect()
        await client.send(GET + b"\r\n", ahead, GET + b"\r\n")
        (wire,) = server.service._wires
        assert wire.has_unread()
        await client.half_close()
        # It can no longer be seen that it has left.
        assert app.messages == [request(b"")]
        app.answer.set()
        app.count = 1
        await wait_all_tasks_blocked()
        assert app.messages == [request(b"")]


async def test_a_waiting_receive_returns_a_disconnect_at_the_end_of_the_response() -> None:
    messages: list[Message] = []
    gate = trio.Event()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch() -> None:
            messages.append(await receive())

        assert await receive() == request(b"")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await gate.wait()
            await respond(send, b"ok")

    limits = HttpServerLimits(max_ahead=len(GET) + 2)
    async with serving(handler, limits=limits) as server:
        client = await server.connect()
        await client.send(GET + b"\r\n")
        gate.set()
        assert (await client.answer()).text == "ok"
        await wait_all_tasks_blocked()
        assert messages == [BYE]
        # The same when so much came ahead that nothing can be waited for.
        gate = trio.Event()
        await client.send(GET + b"\r\n", GET + b"\r\n" + GET + b"\r\n")
        gate.set()
        for _ in range(3):
            assert (await client.answer()).text == "ok"
        await wait_all_tasks_blocked()
        assert messages == [BYE] * 4


async def test_a_receive_left_waiting_after_the_response_returns_a_disconnect() -> None:
    messages: list[Message] = []
    told: list[Exception] = []

    async with trio.open_nursery() as outside:

        async def watch(receive: Receive, send: Send, tag: str) -> None:
            messages.append({tag: (await receive())["type"]})
            try:
                await send(part(b"late"))
            except Exception as error:
                told.append(error)

        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope["path"]
            if path != "/body":
                await receive()
            outside.start_soon(watch, receive, send, path)
            await wait_all_tasks_blocked()
            await respond(send, b"ok")

        async with serving(handler) as server:
            client = await server.connect()
            for _ in range(3):
                assert (await client.ask(b"GET /watch HTTP/1.1\r\n" + HOST + b"\r\n")).text == "ok"
            await client.send(b"POST /body HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n")
            assert (await client.answer()).text == "ok"
        assert messages == [{"/watch": "http.disconnect"}] * 3 + [{"/body": "http.disconnect"}]
        assert [type(error) for error in told] == [RuntimeError] * 4


async def test_what_was_read_too_late_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[Wire] = []

    def finish() -> None:
        exchange.finish()
        monkeypatch.setattr(Wire, "wake", lambda self: woken.append(self))  # noqa: PLW0108

    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    limits = HttpServerLimits()
    wire, parser = Wire(ours, limits), RequestParser(limits)
    parser.receive_data(GET + b"\r\n")
    asked = parser.next_request()
    assert asked is not None
    exchange = Exchange(Service(echo, limits, {}), wire, parser, asked)
    assert await exchange.receive() == request(b"")
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            assert await exchange.receive() == BYE

        nursery.start_soon(watch, name="watcher")
        await wait_all_tasks_blocked()
        # The socket is readable, so the watcher is about to read: it's too late to stop it.
        trio.lowlevel.add_instrument(BeforeStep(finish, "watcher"))
        theirs.send(b"GET")
    assert parser.buffered == 3
    # The task that waits for the next request looks again.
    assert woken == [wire]
    ours.close()
    theirs.close()


@pytest.mark.usefixtures("errors_may_be_logged")
async def test_a_task_left_after_a_failed_handler_does_not_disturb_the_answer() -> None:
    told: list[object] = []

    async with trio.open_nursery() as outside:

        async def upload(receive: Receive, send: Send) -> None:
            told.append((await receive())["body"])
            told.append(await receive())
            with pytest.raises(ClientDisconnected):
                await send(head())
            told.append(ClientDisconnected)

        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            outside.start_soon(upload, receive, send)
            await wait_all_tasks_blocked()
            raise ValueError("an application's error")

        async with serving(handler) as server:
            client = await server.connect()
            await client.send(LENGTH_5 + b"he")
            assert (await client.answer()).status == 500
            await wait_all_tasks_blocked()
            assert told == [b"he", BYE, ClientDisconnected]
            assert await client.rest() == b""
            # The rest of the body is read by the server now.
            await client.send(b"l")
            assert server.count == 1
            await client.leave()
            assert server.count == 0


@pytest.mark.parametrize("ahead", [b"", GET + b"\r\n"])
async def test_waiting_may_be_given_up_and_begun_again(ahead: bytes) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for _ in range(3):
            with trio.CancelScope() as given_up:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive)
                    await wait_all_tasks_blocked()
                    given_up.cancel()
            assert given_up.cancelled_caught
        await respond(send, b"ok")

    async with serving(handler, limits=HttpServerLimits(max_ahead=len(GET) + 2)) as server:
        client = await server.connect()
        await client.stream.send_all(GET + b"\r\n" + ahead)
        assert (await client.answer()).text == "ok"


async def test_one_receives_at_a_time() -> None:
    watched: list[Message] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch() -> None:
            watched.append(await receive())

        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await receive()
            await respond(send, b"ok")

    async with serving(handler) as server:
        client = await server.connect()
        for count in (1, 2):
            assert (await client.ask(GET + b"\r\n")).text == "ok"
            await wait_all_tasks_blocked()
            assert watched == [BYE] * count


# --- responses ---


async def test_the_head_goes_with_the_first_part_of_the_body() -> None:
    steps = [trio.Event() for _ in range(4)]

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        messages = [head(), part(b""), part(b"a"), part(bytearray(b"b"), more=False)]  # type: ignore[arg-type]
        for step, message in zip(steps, messages, strict=True):
            await step.wait()
            await send(message)

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(GET + b"\r\n")
        seen: list[bytes] = []
        for step in steps:
            step.set()
            await wait_all_tasks_blocked()
            seen.append(client.seen())
        assert seen[0] == b""
        assert seen[1].startswith(b"HTTP/1.1 200 OK\r\n")
        assert seen[1].endswith(b"\r\ntransfer-encoding: chunked\r\n\r\n")
        assert seen[2:] == [b"1\r\na\r\n", b"1\r\nb\r\n0\r\n\r\n"]


@pytest.mark.parametrize(
    "messages",
    [
        [part(b"early")],
        [head(), head()],
        [head(), part(), head()],
        [head(), part(more=False), part(more=False)],
        [head(), part(more=False), head()],
        [{"type": "http.response.trailers"}],
        [{"type": "http.response.start", "status": 100}],
        [head((b"content-length", b"1")), part(b"ab")],
        [head(), part("text")],  # type: ignore[arg-type]
        [head(), part(7)],  # type: ignore[arg-type]
    ],
)
@pytest.mark.usefixtures("errors_may_be_logged")
async def test_what_makes_no_response_is_the_applications_error(messages: list[Any]) -> None:
    caught: list[Exception] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages[:-1]:
            await send(message)
        with pytest.raises((RuntimeError, TypeError)) as failure:
            await send(messages[-1])
        caught.append(failure.value)

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(GET + b"Connection: close\r\n\r\n")
        await client.rest()
        assert len(caught) == 1


async def test_the_length_of_a_body_is_counted_in_bytes() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, memoryview(array("I", [1, 2])))  # type: ignore[arg-type]

    async with serving(handler) as server:
        client = await server.connect()
        assert len((await client.ask(GET + b"\r\n")).body) == 2 * array("I").itemsize


@pytest.mark.parametrize(
    "status, method", [(204, b"GET"), (304, b"GET"), (200, b"HEAD"), (404, b"HEAD")]
)
@pytest.mark.parametrize("more", [False, True])
async def test_where_there_is_no_body_the_next_response_follows_the_head(
    status: int, method: bytes, more: bool
) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(head(status=status))
        if more:
            await send(part(b"dropped"))
        await send(part(b"dropped", more=False))

    async with serving(handler) as server:
        client = await server.connect()
        for _ in range(2):
            await client.send(method + b" / HTTP/1.1\r\n" + HOST + b"\r\n")
            answer = await client.answer(bodiless=True)
            assert answer.status == status
        assert client.seen() == b""


async def test_http_1_0_clients_get_a_body_without_chunks_and_keep_alive_on_request() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(head())
        for piece in (b"a", b"", b"b"):
            await send(part(piece))
        await send(part(b"c", more=False))

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = await client.answer()
        assert (answer.text, answer.headers["connection"]) == ("abc", "close")
    async with serving(echo) as server:
        client = await server.connect()
        for _ in range(2):
            answer = await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert answer.headers["connection"] == "keep-alive"
        answer = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""


async def test_one_sends_at_a_time() -> None:
    large = b"x" * 10_000_000
    caught: list[Exception] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more() -> None:
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError) as failure:
                await send(part(b"y"))
            caught.append(failure.value)

        await send(head())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_more)
            await send(part(large))
        await send(part(more=False))

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(GET + b"\r\n")
        await wait_all_tasks_blocked()
        assert caught
        assert (await client.answer()).body == large


async def test_a_sender_that_never_waits_leaves_others_their_turn() -> None:
    turns: list[int] = []
    count = 0

    async def other() -> None:
        while True:
            turns.append(count)
            await trio.lowlevel.checkpoint()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal count
        await send(head())
        for _ in range(100):
            count += 1
            await send(part(b"x"))
        await send(part(more=False))

    async with serving(handler) as server:
        client = await server.connect()
        server.nursery.start_soon(other)
        await client.stream.send_all(GET + b"\r\n")
        assert len((await client.answer()).body) == 100
        assert len([turn for turn in turns if 0 < turn < 99]) >= 5


async def test_a_sender_that_never_waits_can_be_cancelled_between_two_parts() -> None:
    sent = 0

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(head())
        with trio.CancelScope() as scope_:
            while True:
                await send(part(b"x"))
                sent += 1
                if sent == 10:
                    scope_.cancel()
        await send(part(b"y", more=False))

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(GET + b"\r\n")
        assert (await client.answer()).body == b"x" * sent + b"y"
        # Nothing was torn: the connection is as good as before.
        assert server.count == 1


async def test_nothing_follows_a_write_that_was_cancelled() -> None:
    errors: list[Exception] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(head())
        with trio.CancelScope() as scope_:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _() -> None:
                    await wait_all_tasks_blocked()
                    scope_.cancel()

                await send(part(b"x" * 10_000_000))
        with pytest.raises(ClientDisconnected) as caught:
            await send(part(b"y", more=False))
        errors.append(caught.value)

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(GET + b"\r\n")
        await wait_all_tasks_blocked()
        assert errors
        data = await client.rest()
        assert data.startswith(b"HTTP/1.1 200")
        assert b"y" not in data.partition(b"\r\n\r\n")[2]
        assert server.count == 0


@pytest.fixture
def errors_may_be_logged() -> None:
    """Mark a test whose application fails on purpose."""


@pytest.fixture(autouse=True)
def no_errors_are_logged(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Check that clients that leave log no errors, except where a test allows for errors."""
    yield
    if "errors_may_be_logged" not in request.fixturenames:
        assert [record.getMessage() for record in caplog.get_records("call")] == []
