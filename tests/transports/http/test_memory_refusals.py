"""What is refused for its size, or without memory for it, has the id and leaves a record."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import error, initialize, notification, request, result
from tests.transports.http import scripted
from tests.transports.http.modern import headers_of, modern
from tests.transports.http.site import Server, Site, json_of, site
from tests.transports.http.test_byte_budget import upload
from trio_mcp_session import HttpOptions, SessionLimits
from trio_mcp_session.protocol.jsonrpc import decode_json, encode_json
from trio_mcp_session.server.busy import NO_MEMORY
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.transports.asgi import Message
from trio_mcp_session.transports.http.body import MAX_PIECES

BUSY, REFUSED = -32603, -32600
OPTIONS = (
    "the options: SessionLimits.max_session_bytes, SessionLimits.max_party_bytes, "
    "SessionLimits.max_bytes"
)
HEAD = b'{"jsonrpc":"2.0","id":7,"method":"echo","params":{"x":"'


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "trio_mcp_session.http")
    return caplog


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The records of the endpoint, without the status, the request and the client."""
    found = [
        record.getMessage().partition("192.0.2.1: ")[2]
        for record in caplog.records
        if record.name == "trio_mcp_session.http"
    ]
    caplog.clear()
    return found


async def give(pieces: trio.MemorySendChannel[Message], body: bytes, *, more: bool = True) -> None:
    await pieces.send({"type": "http.request", "body": body, "more_body": more})
    await wait_all_tasks_blocked()


def answered(sent: list[Message]) -> tuple[int, Any]:
    return sent[0]["status"], decode_json(sent[1]["body"])


async def test_a_body_without_room(
    records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    limits = SessionLimits(max_party_bytes=100_000)
    async with site(limits=limits) as place, upload(place) as (first, _):
        await give(first, b" " * 60_000)
        async with upload(place) as (pieces, sent):
            await give(pieces, HEAD)
            await give(pieces, b"x" * 50_000)
            assert answered(sent) == (503, error(7, BUSY, NO_MEMORY))
        assert told(records) == [f"{NO_MEMORY}: '50055'; {OPTIONS}"]


async def test_a_body_that_is_larger_than_the_budget(
    records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with site(limits=SessionLimits(max_bytes=100_000)) as place:
        async with upload(place) as (pieces, sent):
            await give(pieces, HEAD)
            await give(pieces, b"x" * 100_000)
            what = "The request's body is larger than the byte budget"
            assert answered(sent) == (413, error(7, REFUSED, what))
        assert told(records) == [f"{what}: '100055'; {OPTIONS}"]


@pytest.mark.parametrize("ends", [True, False])
async def test_a_body_that_is_too_large_in_pieces(
    ends: bool, records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with site(limits=SessionLimits(max_message_size=1_000)) as place:
        what = "The request's body is larger than 1000 bytes"
        async with upload(place) as (pieces, sent):
            await give(pieces, b'{"params":{"x":"' + b"x" * 900)
            end = b"x" * 100 + b'"},"jsonrpc":"2.0","method":"echo","id":7}'
            await give(pieces, end, more=not ends)
            assert answered(sent) == (413, error(7 if ends else None, REFUSED, what))
        assert told(records) == [
            f"{what}; to accept it: SessionLimits.max_message_size, --max-message-size"
        ]


async def test_a_body_in_too_many_pieces(
    records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with site() as place:
        async with upload(place) as (pieces, sent):
            await give(pieces, HEAD)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def send() -> None:
                    for _ in range(MAX_PIECES + 20):
                        await pieces.send({"type": "http.request", "body": b"x", "more_body": True})

                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            what = "The request's body comes in too many small pieces"
            assert answered(sent) == (413, error(7, REFUSED, what))
        (record,) = told(records)
        assert record.startswith(f"{what}: '41")
        assert record.endswith("; a proxy may gather the pieces")


async def test_a_message_of_too_many_values(
    records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with site(limits=SessionLimits(max_values=50)) as place:
        message = request(7, "echo", {"values": [1] * 60})
        response = await place.client().request("POST", message)
        what = "message has more than 50 values"
        assert (response.status, json_of(response)) == (400, error(7, REFUSED, what))
        assert told(records) == [f"{what}; the option: SessionLimits.max_values"]


@pytest.mark.parametrize("stateless", [True, False])
async def test_an_initialize_that_is_too_large(
    stateless: bool, records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with site(options=HttpOptions(stateless=stateless)) as place:
        message = initialize(capabilities={"x": "y" * 66_000})
        response = await place.client().request("POST", message)
        what = "initialize is larger than 65536 bytes"
        assert (response.status, json_of(response)) == (413, error(0, -32602, what))
        assert told(records) == [
            f"{what}: '{len(encode_json(message))}'; the option: SessionLimits.max_initialize_size"
        ]
        assert place.headers() == []


@pytest.mark.parametrize("kind", ["modern", "stateless"])
async def test_a_request_without_room(
    kind: str, records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    server = Server()
    limits = SessionLimits(max_party_bytes=100_000)
    options = HttpOptions(stateless=kind == "stateless")
    async with site(server.router, limits=limits, options=options) as place:
        make = modern if kind == "modern" else request
        message = make(7, "wait", {"text": "x" * 90_000})
        headers = headers_of(message) if kind == "modern" else {}
        client = place.client()
        async with client.stream("POST", message, headers=headers) as first:
            await wait_all_tasks_blocked()
            assert 90_000 < place.manager.statistics().bytes_held < 95_000
            response = await client.request("POST", message, headers=headers)
            assert (response.status, response.headers["retry-after"]) == (503, "5")
            assert json_of(response) == error(7, BUSY, NO_MEMORY)
            server.may_answer.set()
            assert (await first.json())["id"] == 7
        assert told(records) == [f"{NO_MEMORY}; {OPTIONS}"]
        assert place.manager.statistics().bytes_held == 0


async def test_a_replay_without_room(
    records: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with scripted.site(limits=SessionLimits(max_session_bytes=50_000)) as s:
        client = await s.client()
        async with client.stream("POST", scripted.do(1, *[["shout", 20_000]] * 3)) as response:
            first = (await response.event()).id
            await response.read()
        refused = await client.request("GET", headers={"last-event-id": first})
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert json_of(refused) == error(None, BUSY, NO_MEMORY)
        assert told(records) == [f"{NO_MEMORY}; {OPTIONS}"]


# Without sessions, and as streams.


def stateless(server: Server, **limits: Any) -> Any:
    return site(server.router, options=HttpOptions(stateless=True), limits=SessionLimits(**limits))


def statistics(place: Site) -> tuple[int, int]:
    dropped = server_of(place.manager).stateless.counters.dropped
    return place.manager.statistics().bytes_held, dropped


async def test_a_notification_without_room_is_dropped(autojump_clock: MockClock) -> None:
    server = Server()
    async with stateless(server, max_party_bytes=100_000) as place:
        client = place.client()
        large = notification("notifications/progress", {"text": "x" * 110_000})
        assert (await client.request("POST", large)).status == 202
        assert statistics(place) == (0, 1)
        assert (await client.request("POST", notification("notifications/progress"))).status == 202
        await wait_all_tasks_blocked()
        assert server.noted == ["notifications/progress"]
        assert statistics(place) == (0, 1)


async def test_the_results_of_a_batch_count(autojump_clock: MockClock) -> None:
    server = Server()
    async with stateless(server) as place:
        client = place.client()
        batch = [request(1, "echo", {"text": "x" * 50_000}), request(2, "wait")]
        async with client.stream(
            "POST", batch, headers={"mcp-protocol-version": "2025-03-26"}
        ) as response:
            await wait_all_tasks_blocked()
            assert 50_000 < statistics(place)[0] < 55_000
            server.may_answer.set()
            assert [one["id"] for one in await response.json()] == [1, 2]
        assert statistics(place) == (0, 0)


async def test_an_answer_as_one_event_counts_until_it_is_read(autojump_clock: MockClock) -> None:
    async with site() as place:
        client, session = await place.open()
        message = request(1, "echo", {"text": "x" * 50_000})
        async with client.stream(
            "POST", message, headers={"accept": "text/event-stream"}
        ) as response:
            response.stall()
            await wait_all_tasks_blocked()
            assert 50_000 < session.metrics.bytes_held < 51_000
            response.resume()
            (event,) = await response.events()
            assert decode_json((event.data or "").encode()) == result(1, {"text": "x" * 50_000})
        assert session.metrics.bytes_held == 0
