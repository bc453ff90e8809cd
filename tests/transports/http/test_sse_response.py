"""How a stream's events get on the wire: what is written at once, what keeps it alive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints

from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.scripted import (
    VERSIONS,
    B,
    D,
    Site,
    did,
    do,
    messages,
    parse,
    progressed,
    said,
    settle,
    site,
)
from trio_mcp_session import CleanupConfig
from trio_mcp_session.protocol.sse import COMMENT


@asynccontextmanager
async def listening(
    version: str = D, **options: Any
) -> AsyncIterator[tuple[Site, Client, Response]]:
    """A client with an open GET."""
    async with site(**options) as s:
        client = await s.client(version)
        async with client.stream("GET") as response:
            await settle()
            yield s, client, response


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_the_headers_of_an_event_stream_are_sent_at_once(
    verb: str, version: str, autojump_clock: MockClock
) -> None:
    async with site(answers="sse") as s:
        client = await s.client(version)
        json = do(1, ["wait", "x"]) if verb == "POST" else None
        async with client.stream(verb, json) as response:
            await settle()
            assert response.status == 200
            assert response.headers == {
                "content-type": "text/event-stream",
                "cache-control": "no-cache, no-transform",
                "x-accel-buffering": "no",
            }
            # Something of a body, or proxies hold the head back too.
            (first,) = response.writes
            assert (first == COMMENT) is (version != D)
            s.script.gates["x"].set()


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_result_of_a_handler_that_does_not_wait_comes_in_the_first_write(
    version: str, autojump_clock: MockClock
) -> None:
    async with site(answers="sse") as s:
        client = await s.client(version)
        client.writes_at_once = True
        for number in range(1, 11):  # The tasks of a turn run in any order.
            async with client.stream("POST", do(number)) as response:
                events = await response.events()
            (write,) = response.writes
            assert messages(parse(write)) == [did(number)]
            assert (events[0].data == "") is (version == D)  # The priming event.


async def test_messages_share_a_write_and_a_result_shares_none(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        steps = [["progress", 1], ["say", 2], ["sleep", 1], ["progress", 3]]
        async with client.stream("POST", do(1, *steps)) as response:
            response.stall()
            await trio.sleep(1.5)
            response.resume()
            await settle()
        assert [messages(parse(write)) for write in response.writes] == [
            [progressed(1), said(2), progressed(3)],
            [did(1)],
        ]
        assert response.complete


@pytest.mark.parametrize("version", VERSIONS)
async def test_progress_never_shares_a_write_with_its_result(
    version: str, autojump_clock: MockClock
) -> None:
    """There are clients that would read the result first."""
    async with site() as s:
        client = await s.client(version)
        async with client.stream("POST", do(1, ["progress", 1], ["progress", 2])) as response:
            events = await response.events()
        writes = [messages(parse(write)) for write in response.writes]
        assert writes[-1] == [did(1)]
        assert [one for write in writes[:-1] for one in write] == [progressed(1), progressed(2)]
        # Nor when it is sent again.
        first = next(event.id for event in events if event.data)
        async with client.stream("GET", headers={"last-event-id": first}) as response:
            await response.read()
        writes = [messages(parse(write)) for write in response.writes]
        assert writes[-1] == [did(1)]
        assert [one for write in writes[:-1] for one in write] == [progressed(2)]


async def test_a_client_that_disconnects_is_not_an_error(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1], ["wait", "x"], ["say", 2])) as response:
            assert (await response.event()).data == ""
            # What was announced is no longer written.
            s.script.gates["x"].set()
        assert s.script.log == ["did"]
        assert not response.complete
        assert s.streams_of(client)._sse_responses == set()
        session = s.session_of(client)
        assert session.metrics.dropped == 0
        assert session.error is None


# A silent stream.


@pytest.mark.parametrize("version", [B, D])
async def test_a_silent_stream_is_kept_alive(version: str, autojump_clock: MockClock) -> None:
    async with listening(version) as (s, client, response):
        for count in range(2, 5):
            silent_since = trio.current_time()
            while len(response.writes) < count:  # noqa: ASYNC110  # comments set no event
                await trio.sleep(0.125)
            # The timer of all looks once a second.
            assert 15 <= trio.current_time() - silent_since <= 16.125
            assert response.writes[-1] == COMMENT
        # A stream with messages needs no comment.
        await trio.sleep(10)
        s.session_of(client).notify_nowait("notifications/said", {"n": 1})
        await trio.sleep(14)
        assert len(response.writes) == 5
        await trio.sleep(2)
        assert response.writes[5:] == [COMMENT]


async def test_the_streams_of_requests_are_kept_alive_too(autojump_clock: MockClock) -> None:
    async with site(keep_alive=3, stream_after=1) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["sleep", 30])) as response:
            await trio.sleep(29)
            assert response.writes[1:] == [COMMENT] * 9
            assert messages(await response.events()) == [did(1)]


async def test_comments_do_not_pile_up_without_a_reader(autojump_clock: MockClock) -> None:
    async with site(cleanup=CleanupConfig(send_timeout=100)) as s:
        client = await s.client()
        async with client.stream("GET") as response:
            response.stall()
            await trio.sleep(90)
            response.resume()
            await settle()
            assert len(response.writes) == 1
            assert response.writes[0].count(COMMENT) == 0


async def test_one_that_never_takes_even_the_head_is_cut(autojump_clock: MockClock) -> None:
    async with site(cleanup=CleanupConfig(send_timeout=20)) as s:
        client = await s.client()
        async with client.stream("GET") as response:
            response.stall()
            with trio.fail_after(22):
                assert await response.events() == []
            assert not response.complete
            assert not response.writes
        # It was not full: the session continues.
        assert s.session_of(client).termination_reason is None
        assert not s.streams_of(client).connected


# By hand.


async def test_what_is_put_is_written_in_its_order(autojump_clock: MockClock) -> None:
    async with listening() as (s, client, response):
        delivery = s.streams_of(client).standalone._response
        assert delivery is not None
        with assert_no_checkpoints():
            for number in range(3):
                delivery.put(b"%d" % number)
            delivery.put(b"result", is_result=True)
            delivery.put(b"other result", is_result=True)
            delivery.put(b"3")
        await settle()
        assert response.writes[1:] == [b"012", b"result", b"other result3"]
        with assert_no_checkpoints():
            delivery.put(b"last")
            delivery.end()
        await settle()
        assert response.writes[-1] == b"last"
        assert response.complete


async def test_fullness_counts_what_is_not_written(autojump_clock: MockClock) -> None:
    async with listening() as (s, client, response):
        limit = s.manager.config.limits.max_output
        delivery = s.streams_of(client).standalone._response
        assert delivery is not None
        response.stall()
        delivery.put(b"x" * (limit - 1))
        await settle()
        sizes = [(delivery._size, delivery.full)]
        delivery.put(b"x")
        sizes.append((delivery._size, delivery.full))
        assert sizes == [(limit - 1, False), (limit, True)]
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(delivery.wait_for_progress)
            await settle()
            assert len(nursery.child_tasks) == 2
            response.resume()
        await settle()
        assert (delivery._size, delivery.full) == (0, False)


async def test_cut_breaks_an_event_stream_off_and_discards_its_queue(
    autojump_clock: MockClock,
) -> None:
    async with listening() as (s, client, response):
        delivery = s.streams_of(client).standalone._response
        assert delivery is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delivery.wait_for_progress)
            await settle()
            delivery.put(b"never written")
            with assert_no_checkpoints():
                delivery.cut()
        assert await response.events() == [parse(response.writes[0])[0]]
        assert not response.complete
        assert len(response.writes) == 1
        assert delivery._size == 0
        delivery.cut()  # Once more does nothing.


async def test_waiting_for_progress_is_a_checkpoint(autojump_clock: MockClock) -> None:
    async with listening() as (s, client, _):
        delivery = s.streams_of(client).standalone._response
        assert delivery is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)

            async def end() -> None:
                delivery.end()

            nursery.start_soon(end)
            with assert_checkpoints():
                await delivery.wait_for_progress()
        await settle()
