"""A second GET for a stream: the newest one gets it, and the older response ends properly."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.transports.http.live import HANG_GUARD, SERVERS, ServerName, live
from tests.transports.http.scripted import (
    VERSIONS,
    B,
    D,
    did,
    do,
    messages,
    said,
    settle,
    site,
    until_heard,
)
from tests.transports.http.stores import AsyncStore
from trio_mcp_session import HttpOptions
from trio_mcp_session.transports.http.http_options import SlowReader

STORES = pytest.mark.parametrize("store", [{}, {"event_store": None}], ids=["kept", "not kept"])


@STORES
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_newest_get_takes_the_stream_over_and_the_older_one_ends(
    version: str, store: dict[str, None], autojump_clock: MockClock
) -> None:
    async with site(**store) as s:
        client = await s.client(version)
        session = s.session_of(client)
        async with client.stream("GET") as older:
            await settle()
            session.notify_nowait("notifications/said", {"n": 1})
            assert await until_heard(older, 1) == [said(1)]
            async with client.stream("GET") as newer:
                assert messages(await older.events()) == []
                assert (older.status, older.complete) == (200, True)
                session.notify_nowait("notifications/said", {"n": 2})
                assert await until_heard(newer, 1) == [said(2)]
                async with client.stream("GET") as newest:
                    assert messages(await newer.events()) == []
                    await settle()
                    assert (newest.status, newer.complete) == (200, True)
                    assert s.streams_of(client).listeners == 1
        assert s.streams_of(client).listeners == 0
        assert session.metrics.dropped == 0


@STORES
@pytest.mark.parametrize("version", [B, D])
async def test_what_the_older_connection_does_not_take_is_sent_on_the_newer_one(
    version: str, store: dict[str, None], autojump_clock: MockClock
) -> None:
    """Its client has vanished: nothing can be written to it."""
    async with site(**store) as s:
        client = await s.client(version)
        session = s.session_of(client)
        async with client.stream("GET") as vanished:
            await settle()
            vanished.stall()
            for number in range(4):
                session.notify_nowait("notifications/said", {"n": number})
                await settle()
            # The first one is being written, and may have arrived.
            async with client.stream("GET") as response:
                heard = [await response.event() for _ in range(3)]
                assert messages(heard) == [said(1), said(2), said(3)]
                assert all((event.id is None) is bool(store) for event in heard)
                session.notify_nowait("notifications/said", {"n": 4})
                assert await until_heard(response, 1) == [said(4)]
            if not store:
                # The ids continue from the older connection.
                again = {"last-event-id": heard[0].id}
                async with client.stream("GET", headers=again) as response:
                    assert await until_heard(response, 3) == [said(2), said(3), said(4)]
            vanished.resume()
            await vanished.read()
            assert vanished.complete
        assert session.metrics.dropped == 0


async def test_comments_that_wait_are_not_sent_again(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("GET") as vanished:
            await settle()
            carrier = s.streams_of(client).standalone.response
            assert carrier is not None
            carrier.tick(trio.current_time() + s.app.options.keep_alive)
            async with client.stream("GET") as response:
                event = await response.event()
                assert (event.data, event.retry) == ("", 3000)  # It begins as every stream.
            assert vanished.complete


@pytest.mark.parametrize("version", VERSIONS)
async def test_with_last_event_id_the_newest_get_takes_the_stream_over_too(
    version: str, autojump_clock: MockClock
) -> None:
    async with site() as s:
        client = await s.client(version)
        steps = [["say", 1], ["wait", "x"], ["say", 2], ["wait", "y"]]
        async with client.stream("POST", do(1, *steps)) as post:
            first = await post.event()
            while not first.data:
                first = await post.event()
            resumed = {"last-event-id": first.id}
            async with client.stream("GET", headers=resumed) as older:
                assert messages(await post.events()) == []
                s.script.gates["x"].set()
                assert await until_heard(older, 1) == [said(2)]
                async with client.stream("GET", headers=resumed) as newer:
                    assert messages(await older.events()) == []
                    assert (post.complete, older.complete) == (True, True)
                    s.script.gates["y"].set()
                    # It gets what it has not seen, as its id says.
                    assert messages(await newer.events()) == [said(2), did(1)]


async def test_a_get_at_the_limit_takes_the_place_of_the_one_that_it_relieves(
    autojump_clock: MockClock,
) -> None:
    """Otherwise a client whose connection died unnoticed would be refused with 429."""
    async with site(max_streams=1) as s:
        client = await s.client()
        session = s.session_of(client)
        async with client.stream("GET") as vanished:
            last = (await vanished.event()).id
            vanished.stall()
            session.notify_nowait("notifications/said", {"n": 1})
            await settle()
            for again in ({}, {"last-event-id": last}):
                async with client.stream("GET", headers=again) as response:
                    assert (await response.started()).status == 200
                    await settle()
                    assert s.streams_of(client).listeners == 1
        assert s.streams_of(client).listeners == 0


async def test_a_post_at_the_limit_is_not_taken_over(autojump_clock: MockClock) -> None:
    """It does not count, so there is no place to take."""
    async with site(max_streams=1) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1], ["wait", "x"])) as post:
            first = (await post.event()).id
            async with client.stream("GET"):
                await settle()
                response = await client.request("GET", headers={"last-event-id": first})
                assert response.status == 429
            s.script.gates["x"].set()
            assert messages(await post.events()) == [said(1), did(1)]


@pytest.mark.parametrize("resumes", [True, False])
async def test_an_older_get_whose_look_up_takes_longer_ends_at_once(
    resumes: bool, autojump_clock: MockClock
) -> None:
    """The order of arrival decides, not the order of the store's answers."""
    seconds = iter((2, 1))

    async def look_up(call: str, stream: int, number: int) -> None:
        if call == "after":
            await trio.sleep(next(seconds))

    async with site(event_store=AsyncStore(look_up)) as s:
        client = await s.client(B)
        session = s.session_of(client)
        headers: dict[str, str | None] = {}
        if resumes:
            async with client.stream("POST", do(1, ["say", 0], ["say", 1], ["wait", "x"])) as post:
                headers["last-event-id"] = (await post.event()).id
        else:
            session.notify_nowait("notifications/said", {"n": 1})
        await settle()
        start = trio.current_time()
        async with client.stream("GET", headers=headers) as older:
            await settle()
            async with client.stream("GET", headers=headers) as newer:
                assert await until_heard(newer, 1) == [said(1)]
                assert trio.current_time() == start + 1
                assert messages(await older.events()) == []
                assert trio.current_time() == start + 2
                assert (older.status, older.complete) == (200, True)
                if resumes:
                    s.script.gates["x"].set()
                    assert messages(await newer.events()) == [did(1)]
                else:
                    session.notify_nowait("notifications/said", {"n": 2})
                    assert await until_heard(newer, 1) == [said(2)]
        assert session.metrics.dropped == 0


async def test_a_stream_that_cannot_be_resumed_begins_anew_on_the_newer_connection(
    autojump_clock: MockClock,
) -> None:
    async def fail(call: str, stream: int, number: int) -> None:
        if (call, number) == ("append", 1):
            raise OSError("disk full")

    async with site(event_store=AsyncStore(fail)) as s:
        client = await s.client()
        session = s.session_of(client)
        async with client.stream("GET") as older:
            await settle()
            session.notify_nowait("notifications/said", {"n": 1})
            assert await until_heard(older, 1) == [said(1)]
            assert s.streams_of(client).standalone.is_lost
            async with client.stream("GET") as newer:
                primed = await newer.event()
                assert (primed.data, bool(primed.id)) == ("", True)
                session.notify_nowait("notifications/said", {"n": 2})
                assert await until_heard(newer, 1) == [said(2)]


@pytest.mark.parametrize("policy", SlowReader)
async def test_senders_that_wait_for_a_vanished_client_continue(
    policy: SlowReader, autojump_clock: MockClock
) -> None:
    async with site(slow_reader=policy) as s:
        client = await s.client()
        session = s.session_of(client)
        async with client.stream("GET") as vanished, trio.open_nursery() as nursery:
            await settle()
            vanished.stall()
            for _ in range(3):
                nursery.start_soon(session.notify, "notifications/said", {"n": "x" * 600_000})
                await settle()
            async with client.stream("GET") as response:
                with trio.fail_after(1):  # noqa: ASYNC912  # `event` is one
                    while nursery.child_tasks:
                        await response.event()
            vanished.resume()


@pytest.mark.parametrize("server", SERVERS)
async def test_a_real_connection_that_died_unnoticed(
    server: ServerName, mock_clock: MockClock
) -> None:
    """Over TCP: the server gets neither an end nor a reset of the first connection."""
    with trio.fail_after(HANG_GUARD):
        async with live(server=server, options=HttpOptions(max_streams=1)) as it:
            caller = await it.open_session()
            async with await it.connect() as dead, await it.connect() as wire:
                first = await dead.begin("GET", headers=caller.headers)
                assert first.status == 200
                second = await wire.begin("GET", headers=caller.headers)
                assert second.status == 200
                caller.session.notify_nowait("notifications/said", {"n": 1})
                assert (await wire.message(second))["params"] == {"n": 1}
            await caller.echo("still there")


async def test_what_is_sent_again_moves_to_the_newer_connection(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        session = s.session_of(client)
        async with client.stream("GET") as response:
            await settle()
            session.notify_nowait("notifications/said", {"n": 0})
            await until_heard(response, 1)
        await settle()
        for number in (1, 2, 3):
            session.notify_nowait("notifications/said", {"n": number})
        await settle()
        async with client.stream("GET") as vanished:
            vanished.stall()
            await settle()
            session.notify_nowait("notifications/said", {"n": 4})
            held = session.metrics.bytes_held
            assert held > 0
            async with client.stream("GET") as response:
                assert await until_heard(response, 4) == [said(1), said(2), said(3), said(4)]
                await settle()
                assert session.metrics.bytes_held == 0
            vanished.resume()
            assert messages(await vanished.events()) == []
        assert session.metrics.dropped == 0
        assert session.metrics.bytes_held == 0
