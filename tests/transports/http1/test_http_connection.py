"""Requests of one client after the other, and every way in which that ends."""

from __future__ import annotations

import logging
from math import inf

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session.transports.asgi import BODY_AT_HAND, Message, Receive, Scope, Send
from trio_mcp_session.transports.http1.limits import HttpServerLimits
from trio_mcp_session.transports.http1.listeners import bound_address

from .pieces import CHUNKED, GET, HOST, POST, one_by_one
from .serving import Client, body_of, echo, head, part, pass_time, respond, serving, until

BRIEF = HttpServerLimits(header_timeout=10, keep_alive_timeout=75, body_timeout=30)


def get(path: str, *lines: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path.encode(), HOST, b"".join(lines))


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail in the way that the path says."""
    path = scope["path"]
    if path in {"/held", "/begun", "/old"}:
        await send(head())
    if path in {"/begun", "/old"}:
        await send(part(b"begun"))
    if path == "/done":
        await respond(send, b"done")
    if path != "/silent":
        raise ValueError("no")


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.name for record in caplog.records} <= {"trio_mcp_session.http"}
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- one request after the other ---


async def test_requests_are_answered_in_their_order() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(
            get("/1")
            + (POST + b"Content-Length: 3\r\n\r\nabc")
            + (CHUNKED + b"2\r\nde\r\n0\r\n\r\n")
            + get("/2")
        )
        assert [(await client.answer()).text for _ in range(4)] == [
            "GET /1 ",
            "POST / abc",
            "POST / de",
            "GET /2 ",
        ]
        assert server.count == 1


async def test_requests_come_byte_by_byte() -> None:
    data = get("/1") + CHUNKED + b"2;a=b\r\nde\r\n0\r\nX: y\r\n\r\n" + get("/2")
    async with serving(echo) as server:
        client = await server.connect()
        for byte in one_by_one(data):
            await client.send(byte)
        assert [(await client.answer()).text for _ in range(3)] == [
            "GET /1 ",
            "POST / de",
            "GET /2 ",
        ]


async def test_what_comes_before_a_bad_request_is_answered_first() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(get("/1") + get("/2") + b"GET / HTTP/1.1\r\n\r\n" + get("/3"))
        assert (await client.answer()).text == "GET /1 "
        assert (await client.answer()).text == "GET /2 "
        answer = await client.answer()
        assert (answer.status, answer.text) == (400, "there is no Host\n")
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""


@pytest.mark.parametrize(
    "data, status",
    [
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
        (b"\x16\x03\x01", 400),
        (GET + b"X: " + b"y" * 32_768, 431),
        (POST + b"Content-Length: 16777217\r\n\r\n", 413),
        # Of a body that the application waits for:
        (CHUNKED + b"x\r\n", 400),
        (CHUNKED + b"3\r\nabc\r\nFFFFFFF\r\n", 413),
        (CHUNKED + b"3;" + b"e" * 40_000, 431),
    ],
)
async def test_a_refused_client_is_told_and_the_connection_closed(data: bytes, status: int) -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(data)
        answer = await client.answer()
        assert answer.status == status
        assert answer.headers["content-type"] == "text/plain"
        assert await client.rest() == b""
        # It may not have read that yet, and be sending on.
        assert server.count == 1
        await client.leave()
        assert server.count == 0


async def test_a_bad_body_ends_a_response_that_has_begun() -> None:
    messages: list[Message] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(head())
        await send(part(b"begun"))
        messages.append(await receive())
        messages.append(await receive())
        await send(part(b"more", more=False))

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(CHUNKED + b"3\r\nabc\r\n", b"x\r\n")
        assert (await client.head()).status == 200
        assert await client.chunk() == b"begun"
        assert await client.rest() == b""
        assert [message["type"] for message in messages] == ["http.request", "http.disconnect"]
        assert server.count == 0


async def test_a_bad_body_is_refused_also_where_the_application_does_not_care() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"ok")

    async with serving(handler) as server:
        client = await server.connect()
        assert (await client.ask(CHUNKED + b"x\r\n")).status == 400
        assert await client.rest() == b""
        assert server.count == 1
        await client.leave()
        assert server.count == 0


async def test_the_connection_is_closed_when_the_client_asks_for_it() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        answer = await client.ask(get("/", b"Connection: close\r\n"))
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""
        assert server.count == 0


@pytest.mark.parametrize("data", [b"", b"GET / HT", get("/"), get("/") + b"GET"])
async def test_a_client_may_leave_between_requests(data: bytes) -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(data)
        await client.leave()
        assert server.count == 0


async def test_a_client_that_asks_for_much_ahead_leaves_others_their_turn() -> None:
    turns: list[int] = []
    count = 0

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal count
        count += 1
        await respond(send)

    async def other() -> None:
        while True:
            turns.append(count)
            await trio.lowlevel.checkpoint()

    async with serving(handler) as server:
        client = await server.connect()
        server.nursery.start_soon(other)
        await client.stream.send_all(get("/") * 100)
        for _ in range(100):
            await client.answer()
        assert len([turn for turn in turns if 0 < turn < 99]) >= 5


# --- what the application is told ---


async def test_a_scope_says_everything_about_a_request() -> None:
    scopes: list[Scope] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send)

    async with serving(handler, tcp=True) as server:
        client = await server.connect()
        await client.ask(b"PUT /%C3%A9?a=%20b HTTP/1.0\r\n" + HOST + b"X-Y: Z\r\n\r\n")
        address = bound_address(server.listeners[0])
        here = client.stream.socket.getsockname()
        assert scopes == [
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": "1.0",
                "method": "PUT",
                "scheme": "http",
                "path": "/é",
                "raw_path": b"/%C3%A9",
                "query_string": b"a=%20b",
                "root_path": "",
                "headers": [(b"host", b"a.example"), (b"x-y", b"Z")],
                "client": here,
                "server": (address.host, address.port),
                "state": {},
                "extensions": {"trio_mcp_session.body_at_hand": {}},
            }
        ]
    async with serving(handler) as server:
        client = await server.connect()
        await client.ask(get("/"))
        assert scopes[1]["client"] is None
        assert scopes[1]["server"] == (bound_address(server.listeners[0]).unix_path, None)


@pytest.mark.parametrize(
    "request_, at_hand",
    [
        (GET + b"\r\n", True),
        (GET + b"\r\n" + GET, True),
        (POST + b"Content-Length: 2\r\n\r\nab", True),
        (POST + b"Content-Length: 2\r\n\r\nabGET", True),
        (POST + b"Content-Length: 2\r\n\r\na", False),
        (POST + b"Content-Length: 2\r\n\r\n", False),
        # It would have to be taken apart to know.
        (CHUNKED + b"1\r\na\r\n0\r\n\r\n", False),
    ],
)
async def test_a_scope_says_whether_the_body_has_come(request_: bytes, at_hand: bool) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, str(BODY_AT_HAND in scope["extensions"]).encode())

    async with serving(handler) as server:
        client = await server.connect()
        assert (await client.ask(request_)).text == str(at_hand)


# --- applications that fail ---


@pytest.mark.parametrize("path, told", [("/", 500), ("/held", 500), ("/silent", 500)])
async def test_a_failure_before_the_response_is_answered(
    path: str, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(failing) as server:
        client = await server.connect()
        answer = await client.ask(get(path))
        assert (answer.status, answer.text) == (told, "Internal Server Error\n")
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("trio_mcp_session.http", logging.ERROR)
    if path == "/silent":
        assert record.getMessage() == "No complete response to GET '/silent'"
    else:
        assert record.getMessage() == f"The application failed on GET {path!r}"
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ValueError)


async def test_a_failure_has_no_body_where_there_must_not_be_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(failing) as server:
        client = await server.connect()
        await client.send(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await client.answer(bodiless=True)).status == 500
        assert await client.rest() == b""
    assert len(errors_in(caplog)) == 1


async def test_a_failure_within_the_response_cuts_it(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(failing, tcp=True) as server:
        client = await server.connect()
        await client.send(get("/begun"))
        await client.head()
        assert await client.chunk() == b"begun"
        assert await client.rest() == b""
        # Where the end of the connection is the end of the body, it must not look like one.
        client = await server.connect()
        await client.send(b"GET /old HTTP/1.0\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            await client.rest()
    assert len(errors_in(caplog)) == 2


async def test_a_response_without_an_end_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(head((b"content-length", b"9")))
        await send(part(b"begun"))

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(get("/"))
        assert (await client.rest()).endswith(b"\r\n\r\nbegun")
    assert errors_in(caplog) == ["No complete response to GET '/'"]


async def test_a_failure_after_the_response_is_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(failing) as server:
        client = await server.connect()
        for _ in range(2):
            assert (await client.ask(get("/done"))).text == "done"
        await wait_all_tasks_blocked()
    assert errors_in(caplog) == ["The application failed on GET '/done'"] * 2


async def test_nothing_reaches_a_log_unescaped(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(failing) as server:
        client = await server.connect()
        await client.ask(get("/%0A%1B%C3%A9?secret"))
    assert errors_in(caplog) == [r"The application failed on GET '/\n\x1b\xe9'"]


async def test_a_client_that_disconnects_is_not_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    async def fail(message: Message) -> None:
        raise ValueError("no")

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        calls.append(path)
        await receive()
        await receive()
        failures = {"/nothing": [], "/group": [send], "/both": [send, fail]}
        async with trio.open_nursery() as nursery:
            for function in failures[path]:
                nursery.start_soon(function, head())

    async with serving(handler) as server:
        for path in ("/nothing", "/group", "/both"):
            client = await server.connect()
            data = b"POST %b HTTP/1.1\r\n%bContent-Length: 5\r\n\r\nhe" % (path.encode(), HOST)
            await client.send(data)
            await client.leave()
            assert server.count == 0
    assert calls == ["/nothing", "/group", "/both"]
    assert errors_in(caplog) == ["The application failed on POST '/both'"]
    (record,) = caplog.records
    assert record.exc_info is not None
    failure = record.exc_info[1]
    assert isinstance(failure, ExceptionGroup)
    assert [type(error) for error in failure.exceptions] == [ValueError]


async def test_a_failure_while_the_server_is_cancelled_is_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        async def fail_at_the_end() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("no")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            if scope["path"] == "/failing":
                nursery.start_soon(fail_at_the_end)

    async with serving(handler) as server:
        for path in ("/", "/failing"):
            client = await server.connect()
            await client.send(get(path))
    assert errors_in(caplog) == ["The application failed on GET '/failing'"]


async def test_what_ends_programs_ends_the_server() -> None:
    class EndOfProgram(BaseException):
        pass

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        raise EndOfProgram

    with pytest.RaisesGroup(EndOfProgram, flatten_subgroups=True):
        async with serving(handler) as server:
            client = await server.connect()
            await client.send(get("/"))


# --- clocks ---


async def test_a_head_has_to_come_in_time(mock_clock: MockClock) -> None:
    async with serving(echo, limits=BRIEF) as server:
        silent = await server.connect()
        slow = await server.connect()
        await slow.send(b"GET / ")
        await pass_time(mock_clock, 9.9)
        # What drips in doesn't buy more time.
        await slow.send(b"HTTP/1.1\r\n")
        assert server.count == 2
        await pass_time(mock_clock, 1.1)
        answer = await slow.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert await slow.rest() == b""
        # Some clients connect ahead of need: an answer to nothing would be taken for another's.
        assert await silent.rest() == b""
        await slow.leave()
        assert server.count == 0


async def test_a_further_head_has_its_time_from_its_first_byte(mock_clock: MockClock) -> None:
    async with serving(echo, limits=BRIEF) as server:
        client = await server.connect()
        for _ in range(2):
            await client.ask(get("/"))
            await pass_time(mock_clock, 60)
            await client.send(b"G")
            await pass_time(mock_clock, 9.9)
            assert server.count == 1
            await client.ask(get("/")[1:])
        await client.send(b"G")
        await pass_time(mock_clock, 11)
        assert (await client.answer()).status == 408


async def test_a_head_that_came_with_another_request_has_its_time_from_then(
    mock_clock: MockClock,
) -> None:
    async with serving(echo, limits=BRIEF) as server:
        client = await server.connect()
        await client.ask(get("/") + b"G")
        await pass_time(mock_clock, 9.9)
        assert client.seen() == b""
        await pass_time(mock_clock, 1.1)
        assert (await client.answer()).status == 408


async def test_a_quiet_connection_is_closed_without_a_word(mock_clock: MockClock) -> None:
    async with serving(echo, limits=BRIEF) as server:
        client = await server.connect()
        await client.ask(get("/"))
        await pass_time(mock_clock, 74.9)
        assert server.count == 1
        await client.ask(get("/"))
        await pass_time(mock_clock, 74.9)
        assert server.count == 1
        await pass_time(mock_clock, 1.1)
        assert await client.rest() == b""
        assert server.count == 0


async def test_infinite_timeouts_never_close_a_connection(mock_clock: MockClock) -> None:
    limits = HttpServerLimits(
        header_timeout=inf, keep_alive_timeout=inf, body_timeout=inf, write_timeout=inf
    )
    async with serving(echo, limits=limits, tcp=True) as server:
        client = await server.connect()
        for piece in (
            b"P",
            b"OST / HTTP/1.1\r\nContent-Length: 2\r\n" + HOST + b"\r\n",
            b"a",
            b"b",
        ):
            await pass_time(mock_clock, 1e9)
            await client.send(piece)
        assert (await client.answer()).text == "POST / ab"
        await pass_time(mock_clock, 1e9)
        assert server.count == 1


class Uploading:
    """An application that reads a body."""

    def __init__(self) -> None:
        self.received: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            self.received.append(await receive())
            if not self.received[-1].get("more_body"):
                break
        await respond(send, b"ok")


async def upload(client: Client, length: int = 100_000) -> None:
    await client.send(POST + b"Content-Length: %d\r\n\r\n" % length)


async def test_a_body_has_to_come_in_time(mock_clock: MockClock) -> None:
    app = Uploading()
    async with serving(app, limits=BRIEF) as server:
        client = await server.connect()
        await upload(client)
        await pass_time(mock_clock, 29.9)
        assert app.received == []
        await pass_time(mock_clock, 1.1)
        # The application is told that the client has left; a client that is there is told why.
        assert app.received == [{"type": "http.disconnect"}]
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert await client.rest() == b""


async def test_every_part_of_a_body_buys_as_much_time_as_it_is_worth(mock_clock: MockClock) -> None:
    app = Uploading()
    limits = HttpServerLimits(body_timeout=30, min_body_rate=100)
    async with serving(app, limits=limits) as server:
        fast, slow = await server.connect(), await server.connect()
        await upload(fast)
        await upload(slow)
        for _ in range(20):
            await pass_time(mock_clock, 20)
            await fast.send(b"x" * 2000)
        assert (
            sum(len(one["body"]) for one in app.received if one["type"] == "http.request") == 40_000
        )
        # Having been fast does not extend the wait.
        await upload(sudden := await server.connect())
        await sudden.send(b"x" * 40_000)
        await pass_time(mock_clock, 31)
        assert (await sudden.answer()).status == 408
        # A byte now and then is none either.
        assert (await slow.answer()).status == 408
        await slow.leave()
        await fast.leave()
        app.received.clear()
        await upload(slow := await server.connect())
        await pass_time(mock_clock, 20)
        await slow.send(b"x" * 100)
        await pass_time(mock_clock, 10.9)
        assert {"type": "http.disconnect"} not in app.received
        await pass_time(mock_clock, 1.1)
        assert (await slow.answer()).status == 408


async def test_time_that_the_application_takes_is_its_own(mock_clock: MockClock) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        for _ in range(2):
            await trio.sleep(1000)
            body += (await receive())["body"]
        await respond(send, body)

    async with serving(handler, limits=BRIEF) as server:
        client = await server.connect()
        await upload(client, 5)
        await pass_time(mock_clock, 1000)
        await client.send(b"he")
        await pass_time(mock_clock, 1000)
        await client.send(b"llo")
        assert (await client.answer()).text == "hello"


async def test_a_body_that_is_late_ends_a_response_that_has_begun(mock_clock: MockClock) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(head())
        await send(part(b"begun"))
        assert await receive() == {"type": "http.disconnect"}

    async with serving(handler, limits=BRIEF, tcp=True) as server:
        client = await server.connect()
        await upload(client)
        await client.head()
        assert await client.chunk() == b"begun"
        await pass_time(mock_clock, 31)
        with pytest.raises(trio.BrokenResourceError):
            await client.rest()


async def test_an_application_may_take_its_time(mock_clock: MockClock) -> None:
    gate = trio.Event()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await send(head())
            await send(part(b"begun"))
            await gate.wait()
            await send(part(more=False))

    async with serving(handler, limits=BRIEF) as server:
        client = await server.connect()
        await client.send(get("/"))
        await pass_time(mock_clock, 100_000)
        gate.set()
        assert (await client.answer()).text == "begun"


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_client_that_does_not_read_is_cut_off(mock_clock: MockClock, tcp: bool) -> None:
    errors: list[Exception] = []
    watched: list[Message] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch() -> None:
            watched.append(await receive())

        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await send(head())
            try:
                while True:
                    await send(part(b"x" * 1_000_000))
            except OSError as error:
                errors.append(error)

    limits = HttpServerLimits(write_timeout=30)
    async with serving(handler, limits=limits, tcp=tcp) as server:
        client = await server.connect()
        await client.send(get("/"))
        (wire,) = server.service._wires
        await until(lambda: wire.write_deadline < inf)
        await pass_time(mock_clock, 29)
        assert errors == []
        # What is read buys more time.
        size = len(client.seen())
        assert size > 10_000
        await until(lambda: wire.write_deadline >= 59)
        await pass_time(mock_clock, 29)
        assert errors == []
        while not errors:
            # TCP may have had some more room for it in the meantime.
            await pass_time(mock_clock, 2)
        assert len(errors) == 1
        if tcp:
            # The system forgets what it has not delivered, and does not try any longer.
            with pytest.raises(trio.BrokenResourceError):
                await client.rest()
        assert watched == [{"type": "http.disconnect"}]
        assert server.count == 0


async def test_a_refused_client_that_is_still_sending_reads_the_answer(
    mock_clock: MockClock,
) -> None:
    # Over TCP, because there a socket that is closed too early takes its last words back.
    limits = HttpServerLimits(max_body_size=10, linger_timeout=5)
    async with serving(echo, limits=limits, tcp=True) as server:
        client = await server.connect()
        await client.stream.send_all(POST + b"Content-Length: 11\r\n\r\n")
        for _ in range(20):
            await client.send(b"x" * 10_000)
        assert (await client.answer()).status == 413
        assert await client.rest() == b""
        assert server.count == 1
        await pass_time(mock_clock, 4.9)
        await client.send(b"x" * 10_000)
        assert server.count == 1
        await pass_time(mock_clock, 0.2)
        assert server.count == 0


async def test_a_client_that_sends_after_its_last_request_reads_the_answer(
    mock_clock: MockClock,
) -> None:
    async with serving(echo, limits=HttpServerLimits(linger_timeout=5), tcp=True) as server:
        for data in (b"", get("/2")):
            client = await server.connect()
            await client.send(get("/1", b"Connection: close\r\n") + data)
            assert (await client.answer()).text == "GET /1 "
            assert await client.rest() == b""
            assert server.count == (1 if data else 0)
            await client.leave()
        await pass_time(mock_clock, 5.1)
        assert server.count == 0


async def test_what_came_late_is_seen_before_a_connection_is_closed() -> None:
    gate = trio.Event()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await respond(send, b"ok")

    async with serving(handler) as server:
        client = await server.connect()
        await client.send(get("/", b"Connection: close\r\n"), get("/2"))
        gate.set()
        assert (await client.answer()).text == "ok"
        assert await client.rest() == b""
        assert server.count == 1
        await client.leave()
        assert server.count == 0


async def test_a_body_is_read_by_chunks_of_the_client_and_all_of_it() -> None:
    # More than is read at a time, so that reading continues without waiting.
    body = bytes(range(256)) * 4096
    got: list[bytes] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        got.append(await body_of(receive))
        await respond(send, got[-1])

    async with serving(handler) as server:
        client = await server.connect()
        async with trio.open_nursery() as nursery:
            data = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
            nursery.start_soon(client.stream.send_all, data)
            assert (await client.answer()).body == body
        assert got == [body]
