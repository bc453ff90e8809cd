"""Bodies, answers and replays count in the budget of their client, and are refused beyond it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import error, initialize, request, result
from tests.transports.http import scripted
from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.modern import headers_of, modern
from tests.transports.http.site import LOCAL, Server, Site, bearer, json_of, site, token
from trio_mcp_session import SessionLimits
from trio_mcp_session.core.byte_budget import ByteBudget
from trio_mcp_session.protocol.jsonrpc import encode_json
from trio_mcp_session.server.busy import NO_MEMORY
from trio_mcp_session.transports.asgi import Message
from trio_mcp_session.transports.http.body import BYTES_PER_PIECE, MAX_PIECES, read_body
from trio_mcp_session.transports.http.headers import RequestHeaders
from trio_mcp_session.transports.http.http_error import HttpError
from trio_mcp_session.transports.http.sse_response import MAX_WRITE

BUSY = -32603
KIB = 1024


@asynccontextmanager
async def upload(
    place: Site, *, address: str = "192.0.2.1", subject: str | None = None
) -> AsyncIterator[tuple[trio.MemorySendChannel[Message], list[Message]]]:
    """Begin a POST whose body the test sends, piece by piece; yield that and what is answered."""
    pieces, receive = trio.open_memory_channel[Message](1000)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    headers = {**LOCAL, "content-type": "application/json", "accept": "*/*"}
    if subject is not None:
        headers |= token(subject)
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/mcp",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": (address, 1234),
        "server": ("127.0.0.1", 8000),
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.app, scope, receive.receive, send)
        yield pieces, sent
        await pieces.send({"type": "http.disconnect"})


async def more(pieces: trio.MemorySendChannel[Message], size: int) -> None:
    await pieces.send({"type": "http.request", "body": b" " * size, "more_body": True})
    await wait_all_tasks_blocked()


def status(sent: list[Message]) -> tuple[int, bytes | None]:
    return sent[0]["status"], dict(sent[0]["headers"]).get(b"retry-after")


# Bodies.


async def test_bodies_count_as_they_arrive_and_are_refused_without_room(
    autojump_clock: MockClock,
) -> None:
    limits = SessionLimits(max_party_bytes=250 * KIB)
    async with site(limits=limits) as place:

        def held() -> int:
            return place.manager.statistics().bytes_held

        async with upload(place) as (first, _), upload(place) as (second, refused):
            await more(first, 100 * KIB)
            await more(second, 100 * KIB)
            assert held() == 200 * KIB
            # Another address has a budget of its own.
            async with upload(place, address="192.0.2.9") as (other, _):
                await more(other, 200 * KIB)
                assert held() == 400 * KIB
            assert held() == 200 * KIB
            await more(second, 51 * KIB)
            assert status(refused) == (503, b"5")
            assert held() == 100 * KIB
        assert held() == 0
        assert place.manager.statistics().bytes_refused == {"address": 1}


async def test_the_bodies_of_a_principal_share_a_budget(autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_party_bytes=250 * KIB)
    async with (
        site(limits=limits, authenticate=bearer) as place,
        upload(place, subject="ann") as (first, _),
        upload(place, subject="ann", address="192.0.2.9") as (second, refused),
        upload(place, subject="bob") as (other, _),
    ):
        await more(first, 200 * KIB)
        await more(other, 200 * KIB)
        await more(second, 200 * KIB)
        assert status(refused) == (503, b"5")


async def test_a_body_that_never_fits_is_too_large(autojump_clock: MockClock) -> None:
    async with (
        site(limits=SessionLimits(max_bytes=100 * KIB)) as place,
        upload(place) as (pieces, refused),
    ):
        await more(pieces, 60 * KIB)
        await more(pieces, 60 * KIB)
        assert status(refused) == (413, None)


async def test_a_body_in_several_pieces_is_served(autojump_clock: MockClock) -> None:
    async with site() as place, upload(place) as (pieces, sent):
        body = encode_json(initialize())
        await pieces.send({"type": "http.request", "body": body[:20], "more_body": True})
        await pieces.send({"type": "http.request", "body": body[20:]})
        await wait_all_tasks_blocked()
        assert status(sent) == (200, None)


@pytest.mark.parametrize("size", [1, 2 * BYTES_PER_PIECE])
async def test_small_pieces_are_limited_and_larger_ones_are_not(size: int) -> None:
    pieces = 0

    async def receive() -> Message:
        nonlocal pieces
        pieces += 1
        return {"type": "http.request", "body": b"x" * size, "more_body": pieces < 10_000}

    async def read() -> bytes:
        budget = ByteBudget("manager", 2**30)
        return await read_body(
            receive, RequestHeaders(), max_size=2**30, timeout=None, budget=lambda: budget
        )

    if size > BYTES_PER_PIECE:
        assert len(await read()) == 10_000 * size
    else:
        with pytest.raises(HttpError) as caught:
            await read()
        assert caught.value.status == 413
        assert pieces == MAX_PIECES + MAX_PIECES // BYTES_PER_PIECE + 1


# ``initialize``.


async def test_initialize_over_http_has_a_limit_of_its_own(autojump_clock: MockClock) -> None:
    async with site() as place:
        message = initialize(capabilities={"x": "y" * 66_000})
        response = await place.client().request("POST", message)
        assert response.status == 413
        assert json_of(response) == error(0, -32602, "initialize is larger than 65536 bytes")
        assert place.headers() == []


# Requests.


async def test_a_stateless_request_without_room_is_refused_with_503(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    limits = SessionLimits(max_party_bytes=150 * KIB)
    async with site(server.router, limits=limits) as place:
        client = place.client()
        message = modern(1, "wait", {"text": "x" * 100_000})
        async with client.stream("POST", message, headers=headers_of(message)) as first:
            await wait_all_tasks_blocked()
            assert server.started == [1]
            message = modern(2, "echo", {"text": "x" * 100_000})
            response = await client.request("POST", message, headers=headers_of(message))
            assert (response.status, response.headers["retry-after"]) == (503, "5")
            assert json_of(response) == error(2, BUSY, NO_MEMORY)
            server.may_answer.set()
            assert (await first.json())["id"] == 1
        response = await client.request("POST", message, headers=headers_of(message))
        assert response.status == 200
        assert place.manager.statistics().bytes_held == 0


async def test_a_stateless_request_waits_as_text(autojump_clock: MockClock) -> None:
    server = Server()
    limits = SessionLimits(max_stateless_requests=1)
    async with site(server.router, limits=limits) as place:
        values: dict[str, Any] = {"values": [{}] * 20_000}

        async def wait(number: int) -> None:
            message = modern(number, "wait", values)
            response = await place.client().request("POST", message, headers=headers_of(message))
            assert len(json_of(response)["result"]["values"]) == 20_000

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, 1)
            await wait_all_tasks_blocked()
            one = place.manager.statistics().bytes_held
            assert one > 1_000_000
            for number in range(2, 6):
                nursery.start_soon(wait, number)
            await wait_all_tasks_blocked()
            assert place.manager.statistics().bytes_held - one < 4 * 65_000
            server.may_answer.set()
        assert place.manager.statistics().bytes_held == 0


async def test_a_request_of_a_session_without_room_is_answered_busy(
    autojump_clock: MockClock,
) -> None:
    limits = SessionLimits(max_session_bytes=50 * KIB)
    async with site(limits=limits) as place:
        client, session = await place.open()
        assert await client.post(request(1, "echo", {"text": "x" * 60_000})) == error(
            1, BUSY, NO_MEMORY
        )
        assert await client.post(request(2, "echo")) == result(2)
        assert session.metrics.bytes_held == 0


@pytest.mark.parametrize("kind", ["legacy", "modern"])
async def test_an_answer_that_is_not_read_counts(kind: str, autojump_clock: MockClock) -> None:
    async with site() as place:
        client, _ = await place.open()
        message = request(1, "echo", {"text": "x" * 50_000})
        headers: dict[str, str | None] = {}
        if kind == "modern":
            client = place.client()
            message = modern(1, "echo", {"text": "x" * 50_000})
            headers = dict(headers_of(message))
        async with client.stream("POST", message, headers=headers) as response:
            response.stall()
            await wait_all_tasks_blocked()
            assert 50_000 < place.manager.statistics().bytes_held < 51_000
            response.resume()
            await response.read()
        assert place.manager.statistics().bytes_held == 0


# Streams, and their replay.


async def filled(place: scripted.Site, client: Client, count: int) -> str:
    """Send so many messages of 20 kB on a stream; return the id of its first event."""
    steps = [["shout", 20_000]] * count
    async with client.stream("POST", scripted.do(1, *steps)) as response:
        first = (await response.event()).id
        await response.read()
    assert first is not None
    return first


async def test_a_replay_is_written_in_pieces(autojump_clock: MockClock) -> None:
    async with scripted.site() as s:
        client = await s.client()
        session = s.session_of(client)
        first = await filled(s, client, 20)
        assert session.metrics.bytes_held == 0
        async with client.stream("GET", headers={"last-event-id": first}) as response:
            response.stall()
            await wait_all_tasks_blocked()
            assert 400_000 < session.metrics.bytes_held < 410_000
            responses = s.streams_of(client)._sse_responses
            assert responses is not None
            (carrying,) = responses
            # Only what is being written is encoded.
            assert carrying._size == 0
            response.resume()
            events = scripted.messages(await response.events())
        assert events == [scripted.said("x" * 20_000)] * 20 + [scripted.did(1)]
        assert max(map(len, response.writes)) < MAX_WRITE + 21_000
        assert session.metrics.bytes_held == 0


async def test_replays_that_are_not_read_are_limited(autojump_clock: MockClock) -> None:
    limits = SessionLimits(max_session_bytes=1_000_000)
    async with scripted.site(limits=limits) as s:
        client = await s.client()
        session = s.session_of(client)
        first = await filled(s, client, 20)
        async with trio.open_nursery() as nursery:
            responses: list[Response] = []

            async def resume() -> None:
                async with client.stream("GET", headers={"last-event-id": first}) as response:
                    response.stall()
                    responses.append(response)
                    await trio.sleep_forever()

            for _ in range(2):
                nursery.start_soon(resume)
                await wait_all_tasks_blocked()
            refused = await client.request("GET", headers={"last-event-id": first})
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert 800_000 < session.metrics.bytes_held < 820_000
            nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert session.metrics.bytes_held == 0


async def test_messages_behind_a_replay_come_after_it(autojump_clock: MockClock) -> None:
    async with scripted.site() as s:
        client = await s.client()
        steps = [["shout", 40_000], ["shout", 40_000], ["wait", "x"], ["say", 3]]
        async with client.stream("POST", scripted.do(1, *steps)) as response:
            first = (await response.event()).id
            response.server_task.cancel()
        async with client.stream("GET", headers={"last-event-id": first}) as response:
            response.stall()
            await wait_all_tasks_blocked()
            s.script.gates["x"].set()
            await wait_all_tasks_blocked()
            response.resume()
            heard = scripted.messages(await response.events())
        large = scripted.said("x" * 40_000)
        assert heard == [large, large, scripted.said(3), scripted.did(1)]


async def test_a_replay_that_another_connection_takes_over_is_released(
    autojump_clock: MockClock,
) -> None:
    async with scripted.site() as s:
        client = await s.client()
        session = s.session_of(client)
        steps = [["shout", 40_000], ["shout", 40_000], ["wait", "x"]]
        async with client.stream("POST", scripted.do(1, *steps)) as response:
            first = (await response.event()).id
            response.server_task.cancel()
        get = {"headers": {"last-event-id": first}}
        async with client.stream("GET", **get) as old:  # type: ignore[arg-type]
            old.stall()
            await wait_all_tasks_blocked()
            async with client.stream("GET", **get) as new:  # type: ignore[arg-type]
                await scripted.until_heard(new, 2)
                await wait_all_tasks_blocked()
                old.resume()
                await wait_all_tasks_blocked()
                assert session.metrics.bytes_held < 5_000
                s.script.gates["x"].set()
                assert scripted.messages(await new.events()) == [scripted.did(1)]


async def test_a_stateless_stream_that_is_given_up_counts_nothing(
    autojump_clock: MockClock,
) -> None:
    async with scripted.site() as s:
        client = Client(s.app, {"host": "localhost:8000"})
        message = modern(1, "do", {"steps": [["shout", 30_000], ["wait", "x"]]})
        async with client.stream("POST", message, headers=headers_of(message)) as response:
            response.stall()
            await wait_all_tasks_blocked()
            assert s.manager.statistics().bytes_held > 30_000
            response.server_task.cancel()
        await wait_all_tasks_blocked()
        assert s.manager.statistics().bytes_held == 0
