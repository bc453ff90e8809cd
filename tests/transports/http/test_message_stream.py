"""The stream that GET opens: what waits for it, what carries it, and what gets lost."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
)

from tests.helpers import notification
from tests.transports.http.scripted import (
    VERSIONS,
    B,
    C,
    D,
    did,
    do,
    messages,
    parse,
    said,
    settle,
    site,
    until_heard,
)
from trio_mcp_session import NoChannel, SessionLimits
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.transports.http.memory_event_store import MemoryEventStore

NEVER = {"event_store": None}


@pytest.mark.parametrize("version", VERSIONS)
async def test_messages_sent_without_a_get_stream_are_delivered_to_the_next_one(
    version: str, autojump_clock: MockClock
) -> None:
    async with site() as s:
        client = await s.client(version)
        session = s.session_of(client)
        for round_ in range(3):
            for number in range(3):
                assert session.notify_nowait("notifications/said", {"n": (round_, number)})
            assert s.manager.broadcast("notifications/said", {"n": "all"}).sent == 1
            async with client.stream("GET") as response:
                assert await until_heard(response, 4) == [
                    *(said([round_, number]) for number in range(3)),
                    said("all"),
                ]
                # What is said now comes behind.
                session.notify_nowait("notifications/said", {"n": "live"})
                assert await until_heard(response, 1) == [said("live")]
            assert s.streams_of(client).standalone._response is None
        assert session.metrics.dropped == 0


async def test_a_message_is_delivered_on_one_get_stream_only(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        session = s.session_of(client)
        session.notify_nowait("notifications/said", {"n": 1})
        for _ in range(2):
            async with client.stream("GET") as response:
                await settle()
            heard = messages([await response.event() for _ in response.writes[1:]])
            assert heard == [] or heard == [said(1)]
        async with client.stream("GET") as response:
            await settle()
            session.notify_nowait("notifications/said", {"n": 2})
            first, second = await response.event(), await response.event()
            # It begins where the last one ended: there is nothing to go back for.
            assert first.data == ""
            assert second.json == said(2)


async def test_without_a_store_it_is_dropped_and_counted(autojump_clock: MockClock) -> None:
    async with site(**NEVER) as s:
        client = await s.client()
        session = s.session_of(client)
        report = s.manager.broadcast("notifications/said", {"n": 1})
        assert (report.sent, report.dropped) == (0, 1)
        assert session.metrics.dropped == 1
        with pytest.raises(NoChannel):
            session.notify_nowait("notifications/said")
        for attempt in (session.notify, session.ask):
            with pytest.raises(NoChannel), assert_checkpoints():
                await attempt("notifications/said")
        # A handler's own requests are served all the same.
        assert await client.post(do(1, ["sleep", 1])) == did(1)
        async with client.stream("GET") as response:
            await settle()
            assert s.manager.broadcast("notifications/said", {"n": 2}).sent == 1
            assert await until_heard(response, 1) == [said(2)]
        assert s.manager.broadcast("notifications/said", {"n": 3}).dropped == 1
        assert session.metrics.dropped == 2


async def test_what_is_kept_has_bounds(autojump_clock: MockClock) -> None:
    """What is gone cannot be had; the stream continues from there."""
    async with site(event_store=MemoryEventStore(max_session_events=2)) as s:
        client = await s.client()
        session = s.session_of(client)
        for number in range(3):
            session.notify_nowait("notifications/said", {"n": number})
        async with client.stream("GET") as response:
            await settle()
            session.notify_nowait("notifications/said", {"n": "live"})
            await settle()
            heard = messages([event for write in response.writes for event in parse(write)])
            assert heard[-1] == said("live")
            assert said(0) not in heard


async def test_a_sender_that_waits_for_room_continues_on_the_resumed_stream(
    autojump_clock: MockClock,
) -> None:
    async with site(limits=SessionLimits(max_output=100)) as s:
        client = await s.client()
        session = s.session_of(client)
        async with client.stream("GET") as hanging, trio.open_nursery() as nursery:
            primed = await hanging.event()
            hanging.stall()
            session.notify_nowait("notifications/said", {"n": "x" * 100})
            nursery.start_soon(session.notify, "notifications/said", {"n": 2})
            await settle()
            assert len(nursery.child_tasks) == 1
            assert not session.notify_nowait("notifications/said", {"n": "no room"})
            async with client.stream("GET", headers={"last-event-id": primed.id}) as response:
                # At once, and not when the old connection is given up.
                with trio.fail_after(1):
                    assert await until_heard(response, 2) == [said("x" * 100), said(2)]


async def test_letting_the_listener_go(autojump_clock: MockClock) -> None:
    """Handlers of notifications have no stream of their own."""
    async with site() as s:
        client = await s.client()
        session = s.session_of(client)

        async def tell(*steps: object) -> None:
            message = notification("notifications/do", {"steps": steps})
            assert (await client.request("POST", message)).status == 202
            await settle()

        await tell(["let go"], ["say", "early"])
        async with client.stream("GET") as response:
            assert await until_heard(response, 1) == [said("early")]
            await tell(["say", 1], ["let go", 0.5], ["say", 2])
            events = await response.events()
            assert messages(events) == [said(1)]
            assert events[-1].retry == 500
            assert response.complete
        async with client.stream("GET", headers={"last-event-id": events[0].id}) as response:
            assert await until_heard(response, 1) == [said(2)]
        assert session.metrics.dropped == 0


@pytest.mark.parametrize("version, store", [(B, True), (C, True), (D, False)])
async def test_a_get_stream_is_not_closed_early_where_the_client_cannot_resume(
    version: str, store: bool, autojump_clock: MockClock
) -> None:
    async with site(**({} if store else NEVER)) as s:
        client = await s.client(version)
        streams = s.streams_of(client)
        with assert_no_checkpoints():
            assert not streams.close_stream(None)
        async with client.stream("GET") as response:
            await settle()
            assert not streams.close_stream(1)
            assert streams.connected
            await settle()
            assert not response.complete


async def test_waiting_for_room_is_a_checkpoint(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        streams = s.streams_of(client)
        with assert_checkpoints():
            await streams.wait_writable()
        async with client.stream("GET"):
            await settle()
            with assert_checkpoints():
                await streams.wait_writable()


@pytest.mark.parametrize("policy", ["a wait for room", "notify"])
async def test_waiting_for_room_can_be_cancelled(policy: str, autojump_clock: MockClock) -> None:
    async with site(limits=SessionLimits(max_output=10)) as s:
        client = await s.client()
        session = s.session_of(client)
        async with client.stream("GET") as response:
            await settle()
            response.stall()
            session.notify_nowait("notifications/said", {"n": 1})
            with trio.move_on_after(1) as scope:
                if policy == "notify":
                    await session.notify("notifications/said", {"n": "never"})
                else:
                    await s.streams_of(client).wait_writable()
            assert scope.cancelled_caught
            response.resume()
            assert await until_heard(response, 1) == [said(1)]
            session.notify_nowait("notifications/said", {"n": 2})
            assert await until_heard(response, 1) == [said(2)]


async def test_the_channel_may_close_while_a_task_waits_for_room(autojump_clock: MockClock) -> None:
    outcomes: list[Any] = []
    async with site(limits=SessionLimits(max_output=10), **NEVER) as s:
        client = await s.client()
        session = s.session_of(client)

        async def attempt(async_fn: Any) -> None:
            try:
                await async_fn("notifications/said", {"n": "x" * 10})
            except NoChannel as error:
                outcomes.append(error)

        async with trio.open_nursery() as nursery:
            async with client.stream("GET") as response:
                await settle()
                response.stall()
                session.notify_nowait("notifications/said", {"n": 1})
                nursery.start_soon(attempt, session.notify)
                nursery.start_soon(attempt, session.ask)
                await settle()
                assert not outcomes
        assert len(outcomes) == 2
        assert session.termination_reason is None
        assert (open_ := client_of(session).outgoing) is not None
        assert len(open_) == 0
