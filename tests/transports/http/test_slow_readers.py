"""Clients that do not read: they hurt only their own stream, by the policy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, final

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.transports.http.asgi_client import Client, Response
from tests.transports.http.scripted import (
    Site,
    did,
    do,
    messages,
    said,
    settle,
    site,
    until_heard,
)
from trio_mcp_session import CleanupConfig, SessionLimits, TerminationReason
from trio_mcp_session.transports.http.http_options import SlowReader

ROOM = 1_000
COUNT = 20
SHOUT = said("x" * 100)
VERBS = ["GET", "POST"]


@final
@attrs.define
class Slow:
    """A client that stopped reading, and a handler that still sends to it."""

    site: Site
    client: Client
    response: Response
    primed: str | None

    @property
    def finished(self) -> bool:
        """Whether the handler has said all."""
        return self.site.script.log == ["did"]

    @property
    def dropped(self) -> int:
        return self.site.session_of(self.client).metrics.dropped

    async def come_back(self) -> list[Any]:
        """Read what is kept, as far as there is some."""
        headers = {"last-event-id": self.primed}
        async with self.client.stream("GET", headers=headers) as response:
            await settle()
            found = [event for write in response.writes for event in write.split(b"\n\n")]
            return [event for event in found if b"data: {" in event]


@asynccontextmanager
async def slow(verb: str, policy: SlowReader, **options: Any) -> AsyncIterator[Slow]:
    limits = SessionLimits(max_output=ROOM)
    async with site(limits=limits, slow_reader=policy, **options) as s:
        client = await s.client()
        how = "shout" if verb == "POST" else "tell"
        value: Any = 100 if verb == "POST" else "x" * 100
        message = do(1, ["wait", "x"], *[[how, value]] * COUNT)
        async with trio.open_nursery() as nursery:
            if verb == "POST":
                stream = client.stream("POST", do(1, ["say", 0], *message["params"]["steps"]))
            else:
                stream = client.stream("GET")
                nursery.start_soon(client.request, "POST", message)
            async with stream as response:
                store = s.app.options.event_store is not None
                primed = (await response.event()).id if store else None
                if verb == "POST":
                    assert await until_heard(response, 1) == [said(0)]
                await settle()
                response.stall()
                s.script.gates["x"].set()
                await settle()
                yield Slow(s, client, response, primed)
            nursery.cancel_scope.cancel()


async def others_are_well(one: Slow) -> None:
    """Other streams of the session are, and other sessions."""
    with trio.fail_after(3):
        assert await one.client.post(do(7, ["sleep", 0.5])) == did(7)
        async with one.client.stream("POST", do(8, ["shout", 100], ["say", 1])) as response:
            heard = messages(await response.events())
        assert heard == [SHOUT, said(1), did(8)]
        other = await one.site.client()
        async with other.stream("GET") as response:
            await settle()
            one.site.session_of(other).notify_nowait("notifications/said", {"n": 1})
            assert await until_heard(response, 1) == [said(1)]


# The client comes to its senses.


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("verb", VERBS)
async def test_with_block_a_slow_reader_holds_up_its_handler_and_loses_nothing(
    verb: str, store: bool, autojump_clock: MockClock
) -> None:
    options: dict[str, Any] = {} if store else {"event_store": None}
    async with slow(verb, SlowReader.BLOCK, **options) as one:
        assert not one.finished
        await others_are_well(one)
        await trio.sleep(20)
        assert "did" not in one.site.script.log[2:]
        # What waits is bounded: the first write hangs, the rest of the room is taken.
        waiting = [one._size for one in one.site.streams_of(one.client)._sse_responses or ()]
        assert ROOM <= max(waiting) < ROOM + 300
        one.response.resume()
        assert await until_heard(one.response, COUNT) == [SHOUT] * COUNT
        await settle()
        assert one.dropped == 0


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("verb", VERBS)
async def test_with_drop_a_slow_reader_loses_notifications_but_not_the_answer(
    verb: str, store: bool, autojump_clock: MockClock
) -> None:
    options: dict[str, Any] = {} if store else {"event_store": None}
    async with slow(verb, SlowReader.DROP, **options) as one:
        assert one.finished
        assert 10 < one.dropped < COUNT
        await others_are_well(one)
        dropped = one.dropped
        one.response.resume()
        await settle()
        kept = COUNT - dropped
        assert await until_heard(one.response, kept) == [SHOUT] * kept
        if verb == "POST":
            # The answer is never dropped.
            assert messages(await one.response.events()) == [did(1)]
        else:
            # There is room again.
            one.site.manager.broadcast("notifications/said", {"n": 1})
            assert await until_heard(one.response, 1) == [said(1)]
        assert one.dropped == dropped


@pytest.mark.parametrize("verb", VERBS)
async def test_with_end_stream_a_slow_reader_loses_its_stream_and_may_resume(
    verb: str, autojump_clock: MockClock
) -> None:
    async with slow(verb, SlowReader.END_STREAM) as one:
        assert one.finished
        assert one.dropped == 0
        await others_are_well(one)
        one.response.resume()
        # It was broken off in the middle...
        await one.response.read()
        assert not one.response.complete
        # ...and nothing is lost to a client that resumes.
        kept = await one.come_back()
        assert len(kept) == (COUNT + 2 if verb == "POST" else COUNT)
        assert one.dropped == 0


@pytest.mark.parametrize("verb", VERBS)
async def test_end_stream_where_nothing_is_kept(verb: str, autojump_clock: MockClock) -> None:
    async with slow(verb, SlowReader.END_STREAM, event_store=None) as one:
        await settle()
        await one.response.read()
        assert not one.response.complete
        if verb == "POST":
            assert one.finished
            assert one.dropped > 10
        else:
            # Outside of requests the handler is told.
            assert one.site.script.log == ["NoChannel"]
        await others_are_well(one)


# The client does not.


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("verb", VERBS)
async def test_past_the_deadline_the_session_ends_and_no_other(
    verb: str, store: bool, autojump_clock: MockClock
) -> None:
    options: dict[str, Any] = {} if store else {"event_store": None}
    async with slow(verb, SlowReader.BLOCK, **options) as one:
        session = one.site.session_of(one.client)
        other = await one.site.client()
        async with other.stream("GET") as listener:
            start = trio.current_time()
            assert await session.wait_terminated() is TerminationReason.UNRESPONSIVE
            # The deadline, the look of the timer, and the flush.
            assert 30 <= trio.current_time() - start <= 32
            await settle()
            assert not one.response.complete
            assert one.site.script.log in (["Cancelled"], ["SessionTerminated"])
            assert (await one.client.request("POST", do(2))).status == 404
            assert not listener.complete
        assert await other.post(do(3)) == did(3)


@pytest.mark.parametrize("policy", [SlowReader.DROP, SlowReader.END_STREAM])
@pytest.mark.parametrize("verb", VERBS)
async def test_other_policies_end_no_session(
    verb: str, policy: SlowReader, autojump_clock: MockClock
) -> None:
    async with slow(verb, policy) as one:
        session = one.site.session_of(one.client)
        await trio.sleep(33)
        await one.response.read()
        assert not one.response.complete
        assert session.termination_reason is None
        assert await one.client.post(do(2)) == did(2)
        # What was put on its stream can be resumed.
        assert len(await one.come_back()) >= COUNT - one.dropped


@pytest.mark.parametrize("policy", SlowReader)
@pytest.mark.parametrize("verb", VERBS)
async def test_a_stream_that_stands_still_with_room_left_is_cut(
    verb: str, policy: SlowReader, autojump_clock: MockClock
) -> None:
    async with site(slow_reader=policy, cleanup=CleanupConfig(send_timeout=10)) as s:
        client = await s.client()
        json = do(1, ["say", 1], ["wait", "x"]) if verb == "POST" else None
        async with client.stream(verb, json) as response:
            first = await response.event()
            await settle()
            response.stall()
            if verb == "GET":
                s.session_of(client).notify_nowait("notifications/said", {"n": 1})
            else:
                s.script.gates["x"].set()
            await trio.sleep(9.9)
            assert len(s.streams_of(client)._sse_responses or ()) == 1
            await trio.sleep(1.1)
            assert not s.streams_of(client)._sse_responses
            assert not response.complete
        assert s.session_of(client).termination_reason is None
        headers = {"last-event-id": first.id}
        async with client.stream("GET", headers=headers) as response:
            assert await until_heard(response, 1) == [said(1)]


@pytest.mark.parametrize("comes_back", [True, False])
async def test_an_answer_that_is_not_read_is_cut_and_may_be_resumed(
    comes_back: bool, autojump_clock: MockClock
) -> None:
    """However large it is: its connection is cut, and the client may have it on another one."""
    async with site(limits=SessionLimits(max_output=10)) as s:
        client = await s.client()
        async with client.stream(
            "POST", do(1, ["let go"], ["wait", "x"], ["shout", 1])
        ) as response:
            (first,) = await response.events()
        headers = {"last-event-id": first.id}
        async with client.stream("GET", headers=headers) as response:
            await response.event()
            response.stall()
            s.script.gates["x"].set()
            await settle()
            if comes_back:
                async with client.stream("GET", headers=headers) as again:
                    assert messages(await again.events()) == [said("x"), did(1, True)]
            await trio.sleep(32)
            assert not response.complete
            assert not s.streams_of(client)._sse_responses
        assert s.script.log == ["did"]
        assert s.session_of(client).termination_reason is None
        async with client.stream("GET", headers=headers) as again:
            assert messages(await again.events()) == [said("x"), did(1, True)]


async def test_a_slow_reader_that_reads_now_and_then_keeps_its_session(
    autojump_clock: MockClock,
) -> None:
    """The clock is one write's: a client that reads a little now and then keeps its session."""
    async with slow("POST", SlowReader.BLOCK) as one:
        for _ in range(10):
            await trio.sleep(25)
            one.response.resume()
            await trio.lowlevel.checkpoint()
            one.response.stall()
        assert one.site.session_of(one.client).termination_reason is None
        one.response.resume()
        heard = messages(await one.response.events())
        assert heard[-1] == did(1)


async def test_without_a_send_timeout_a_slow_reader_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    limits, cleanup = SessionLimits(max_output=1), CleanupConfig(send_timeout=float("inf"))
    async with site(limits=limits, cleanup=cleanup) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1], ["say", 2], ["say", 3])) as response:
            response.stall()
            await trio.sleep(1_000)
            response.resume()
            assert messages(await response.events()) == [said(1), said(2), said(3), did(1)]
