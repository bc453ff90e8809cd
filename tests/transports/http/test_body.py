"""Reading bodies: up to the allowed size, for the allowed time, while the client is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import (
    at_every_step,
    brief,
    cancelled_at_step,
    error,
    initialize,
    request,
    result,
)
from tests.transports.http.site import Site, site, works
from trio_mcp_session import SessionLimits
from trio_mcp_session.core.byte_budget import ByteBudget
from trio_mcp_session.transports.asgi import Message, Receive
from trio_mcp_session.transports.http.body import ClientLeft, read_body
from trio_mcp_session.transports.http.headers import RequestHeaders
from trio_mcp_session.transports.http.http_error import HttpError
from trio_mcp_session.transports.http.http_options import HttpOptions

LEFT: Message = {"type": "http.disconnect"}


class Sending:
    """A client that sends a body in chunks, one after so many seconds."""

    def __init__(self, chunks: Iterable[bytes], *, every: float = 0, then: str = "ends") -> None:
        self.messages: list[Message] = [
            {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
        ]
        self.every = every
        self.then = then
        if then == "ends":
            self.messages.append({"type": "http.request"})
        elif then == "leaves":
            self.messages.append(LEFT)
        self.asked = 0

    async def receive(self) -> Message:
        self.asked += 1
        await trio.sleep(self.every)
        if not self.messages:
            await trio.sleep_forever()
        return self.messages.pop(0)


BUDGET = ByteBudget("manager", 1_000)


async def read(
    receive: Receive, *, length: str | None = None, max_size: int = 10, timeout: float = 30
) -> bytes:
    headers = RequestHeaders(content_length=length)
    return await read_body(
        receive, headers, max_size=max_size, timeout=timeout, budget=lambda: BUDGET
    )


async def status_of(receive: Receive, **options: Any) -> int:
    with pytest.raises(HttpError) as caught:
        await read(receive, **options)
    return caught.value.status


async def test_a_body_in_one_piece() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    assert await read(receive) == b"{}"


@pytest.mark.parametrize("message", [{}, {"body": b""}, {"body": b"", "more_body": False}])
async def test_an_empty_request_has_an_empty_body(message: Message) -> None:
    async def receive() -> Message:
        return {"type": "http.request", **message}

    assert await read(receive) == b""


async def test_any_kind_of_bytes_will_do() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": memoryview(bytearray(b"[1]"))}

    body = await read(receive)
    assert (type(body), body) == (bytes, b"[1]")


# Size.


@pytest.mark.parametrize(
    "chunks", [[b"x" * 10], [b"x" * 5] * 2, [b"x"] * 10, [b"", b"x" * 10, b""]]
)
async def test_the_edge_is_inside(chunks: list[bytes], autojump_clock: MockClock) -> None:
    assert await read(Sending(chunks).receive) == b"x" * 10
    assert await read(Sending(chunks).receive, length="10") == b"x" * 10


@pytest.mark.parametrize("chunks", [[b"x" * 11], [b"x" * 10, b"x"], [b"x"] * 11, [b"", b"x" * 99]])
async def test_one_byte_more_is_too_large(chunks: list[bytes], autojump_clock: MockClock) -> None:
    assert await status_of(Sending(chunks).receive) == 413
    # Whatever its length was said to be.
    assert await status_of(Sending(chunks).receive, length="10") == 413


async def test_reading_stops_when_a_body_is_known_to_be_too_large(
    autojump_clock: MockClock,
) -> None:
    client = Sending([b"x" * 4] * 1000)
    assert await status_of(client.receive) == 413
    assert client.asked == 3


@pytest.mark.parametrize("length", ["11", "0011", "9" * 19, "9" * 5000])
async def test_of_a_body_whose_length_is_too_large_only_the_first_bytes_are_read(
    length: str, autojump_clock: MockClock
) -> None:
    client = Sending([b"x" * 600] * 100)
    assert await status_of(client.receive, length=length) == 413
    assert client.asked == 2
    # A client that does not send them is told after a second.
    for chunks in ([], [b"x"]):
        client, start = Sending(chunks, then="stops"), trio.current_time()
        assert await status_of(client.receive, length=length) == 413
        assert trio.current_time() == start + 1
    with pytest.raises(ClientLeft):
        await read(Sending([], then="leaves").receive, length=length)
    # Others wait for the status before they send the body.
    client = Sending([])
    headers = RequestHeaders(content_length=length, expect="100-continue")
    with pytest.raises(HttpError) as caught:
        await read_body(client.receive, headers, max_size=10, timeout=30, budget=lambda: BUDGET)
    assert (caught.value.status, client.asked) == (413, 0)


GO = b'{"jsonrpc":"2.0","id":5,"method":"ping","params":{"x":"' + b"y" * 5000 + b'"}}'
TYPESCRIPT = b'{"method":"ping","params":{"x":"' + b"y" * 5000 + b'"},"jsonrpc":"2.0","id":5}'


@pytest.mark.parametrize(
    "body, chunk, length, request_id",
    [
        (GO, 10_000, None, 5),
        (GO, 10, None, 5),
        (GO, 10_000, "5057", 5),
        (GO, 10, "5057", 5),
        # The id is at the end: it is found if the end has come with the rest.
        (TYPESCRIPT, 10_000, None, 5),
        (TYPESCRIPT, 100, None, None),
        (TYPESCRIPT, 10_000, "5057", None),
        (GO.replace(b"ping", b"notifications/x").replace(b'"id":5,', b""), 10_000, None, None),
        (b"x" * 5000, 10_000, None, None),
    ],
)
async def test_a_body_that_is_too_large_is_answered_with_the_id_if_that_was_read(
    body: bytes, chunk: int, length: str | None, request_id: int | None, autojump_clock: MockClock
) -> None:
    client = Sending([], then="stops")
    pieces = [body[begin : begin + chunk] for begin in range(0, len(body), chunk)]
    client.messages = [
        {"type": "http.request", "body": piece, "more_body": piece is not pieces[-1]}
        for piece in pieces
    ]
    with pytest.raises(HttpError) as caught:
        await read(client.receive, max_size=1000, length=length)
    assert brief(msgspec.json.decode(caught.value.body)) == error(request_id, -32600)


@pytest.mark.parametrize("length", ["10", "0", "", "-1", "+99", "1e9", "99, 99", "٩٩", "x", "0x99"])
async def test_a_content_length_within_the_limit_or_malformed_is_ignored(
    length: str, autojump_clock: MockClock
) -> None:
    # It is left to the server to refuse a malformed length; what comes is counted anyway.
    assert await read(Sending([b"x"]).receive, length=length) == b"x"


@given(chunks=st.lists(st.binary(max_size=8), max_size=8), max_size=st.integers(0, 40))
async def test_a_body_is_read_whole_or_refused_with_413(
    chunks: list[bytes], max_size: int, autojump_clock: MockClock
) -> None:
    whole = b"".join(chunks)
    client = Sending(chunks)
    if len(whole) <= max_size:
        assert await read(client.receive, max_size=max_size) == whole
    else:
        assert await status_of(client.receive, max_size=max_size) == 413


# Time.


async def test_slow_but_in_time(autojump_clock: MockClock) -> None:
    # 1 + 8 + 1 times three seconds, the first and the empty last one included.
    assert await read(Sending([b"x"] * 9, every=2.9).receive, timeout=30) == b"x" * 9


@pytest.mark.parametrize("chunks", [[], [b"x"], [b"x", b"y"]])
async def test_a_body_that_stops_coming(chunks: list[bytes], autojump_clock: MockClock) -> None:
    start = trio.current_time()
    assert await status_of(Sending(chunks, then="stops").receive, timeout=30) == 408
    assert trio.current_time() - start == 30


async def test_the_body_timeout_is_for_the_whole_body(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    assert await status_of(Sending([b"x"] * 1000, every=7).receive, max_size=9999) == 408
    assert trio.current_time() - start == 30


async def test_a_cancellation_of_a_body_is_not_a_timeout(autojump_clock: MockClock) -> None:
    with trio.move_on_after(10) as scope:
        await read(Sending([b"x"], then="stops").receive)
    assert scope.cancelled_caught


# Clients that leave.


@pytest.mark.parametrize("chunks", [[], [b"x"], [b"x"] * 5])
async def test_a_client_that_disconnects_in_the_body_raises_client_left(
    chunks: list[bytes], autojump_clock: MockClock
) -> None:
    with pytest.raises(ClientLeft):
        await read(Sending(chunks, then="leaves").receive)


# At the endpoint.


@asynccontextmanager
async def sending(
    place: Site, client: Sending, *more: tuple[bytes, bytes]
) -> AsyncIterator[list[Any]]:
    """Post an initialize as a client sends it; returns what is sent back, so far."""
    answers: list[Any] = []

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        answers.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/mcp",
        "headers": [(b"content-type", b"application/json"), *more],
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.app, scope, client.receive, send)
        yield answers
    place.look()


def in_pieces(message: object, size: int) -> list[bytes]:
    whole = msgspec.json.encode(message)
    return [whole[at : at + size] for at in range(0, len(whole), size)]


async def test_a_message_may_come_in_pieces(autojump_clock: MockClock) -> None:
    async with site() as place:
        async with sending(place, Sending(in_pieces(initialize(), 7), every=0.5)) as answers:
            pass
        start, body = answers
        assert start["status"] == 200
        assert msgspec.json.decode(body["body"])["id"] == 0


async def test_too_large_too_slow_or_gone(autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_message_size=50)
    async with site(limits=limits, options=HttpOptions(body_timeout=3)) as place:
        other = await place.client().request(json=request(1, "ping"))
        assert other.status == 400
        for client, length, status in [
            (Sending(in_pieces(initialize(), 40)), None, 413),
            (Sending([], then="stops"), b"51", 413),
            (Sending([b"{"], then="stops"), None, 408),
            (Sending([], then="stops"), None, 408),
        ]:
            more = [] if length is None else [(b"content-length", length)]
            async with sending(place, client, *more) as answers:
                pass
            start, body = answers
            assert start["status"] == status
            request_id = 0 if client.messages else None  # The rest of ``initialize``.
            assert brief(msgspec.json.decode(body["body"])) == error(request_id, -32600)
        before = place.refused
        assert before == {400: 1, 413: 2, 408: 2}
        async with sending(place, Sending([b"{"], then="leaves")) as answers:
            pass
        # There is no client to answer, and nothing was refused.
        assert answers == []
        assert place.refused == before
        assert place.manager.statistics().opened == 0


async def test_a_slow_body_does_not_delay_other_requests(autojump_clock: MockClock) -> None:
    async with site() as place:
        client, _ = await place.open()
        async with sending(place, Sending([b"{"], then="stops")) as answers:
            await wait_all_tasks_blocked()
            assert await works(client)
            assert answers == []
        assert answers[0]["status"] == 408


async def test_cancelled_anywhere_while_the_body_comes(autojump_clock: MockClock) -> None:
    async def attempt(step: int) -> bool:
        async with site() as place:
            client, _ = await place.open()
            with cancelled_at_step(step) as scope:
                async with sending(place, Sending(in_pieces(initialize(), 60), every=1)):
                    pass
            assert await client.post(request(1, "ping")) == result(1)
            return not scope.cancelled_caught

    assert await at_every_step(attempt) > 4
