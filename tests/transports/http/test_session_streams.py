"""All streams of a session: counted, remembered while they are needed, and ended together."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints

from tests.helpers import notification
from tests.transports.http.scripted import (
    D,
    did,
    do,
    is_over,
    messages,
    said,
    settle,
    site,
    until_heard,
)
from trio_mcp_session.server.client_connection import client_of
from trio_mcp_session.transports.http.request_stream import RequestStream


async def test_results_have_streams_of_their_own(autojump_clock: MockClock) -> None:
    async with site() as s:
        streams = s.streams_of(await s.client())
        with pytest.raises(AssertionError, match="own stream"):
            streams.send_result(b"{}")
        streams.send_no_result()


async def test_a_session_that_only_answers_makes_nothing(autojump_clock: MockClock) -> None:
    """Idle sessions are many."""
    async with site() as s:
        client = await s.client()
        await client.post(do(1))
        streams = s.streams_of(client)
        assert streams._standalone is None
        assert streams._log is None
        assert streams._unfinished is None
        assert streams._sse_responses is None
        assert (streams.connected, streams.reachable, streams.can_poll) == (False, True, True)
        assert len(s.app.ticker) == 0


async def test_no_stream_is_closed_early_before_the_handshake(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        session = s.session_of(client)
        streams = s.streams_of(client)
        revision, client_of(session).revision = client_of(session).revision, None
        assert not streams.can_poll
        client_of(session).revision = revision
        assert streams.can_poll


async def test_unfinished_streams_are_remembered_and_finished_ones_kept(
    autojump_clock: MockClock,
) -> None:
    async with site() as s:
        client = await s.client()
        streams = s.streams_of(client)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                steps = [["say", 1], ["wait", number]]
                nursery.start_soon(client.request, "POST", do(number, *steps))
            await settle()
            assert streams._unfinished is not None
            assert len(streams._unfinished) == 3
            assert all(isinstance(one, RequestStream) for one in streams._unfinished.values())
            for left in (2, 1, 0):
                s.script.gates[left].set()  # type: ignore[index]
                await settle()
                assert len(streams._unfinished) == left
        assert len(s.store) == 6


async def test_without_a_store_none_is_remembered(autojump_clock: MockClock) -> None:
    async with site(event_store=None) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1], ["wait", "x"])) as response:
            assert await until_heard(response, 1) == [said(1)]
            assert s.streams_of(client)._unfinished is None
            s.script.gates["x"].set()
            assert messages(await response.events()) == [did(1)]


async def test_messages_to_the_streams_of_an_ended_session_are_dropped(
    autojump_clock: MockClock,
) -> None:
    """The session is ending; its handlers may not know yet."""
    async with site() as s:
        client = await s.client()
        session, streams = s.session_of(client), s.streams_of(client)
        async with client.stream("POST", do(1, ["say", 1], ["wait", "x"])) as response:
            await until_heard(response, 1)
            (stream,) = (streams._unfinished or {}).values()
            assert isinstance(stream, RequestStream)
            session.terminate()
            await session.wait_terminated()
            with assert_no_checkpoints():
                assert stream.send_message(b"{}")
                assert streams.send_message(b"{}")
                stream.start_stream()
                assert not stream.close_stream(None)
                assert not streams.close_stream(None)
            with assert_checkpoints():
                await stream.wait_writable()
        assert session.metrics.dropped == 2
        assert streams.closed


async def test_a_message_after_the_end_opens_no_event_log(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        session, streams = s.session_of(client), s.streams_of(client)
        session.terminate()
        await session.wait_terminated()
        assert streams.send_message(b"{}")
        assert streams.log is None
        assert session.metrics.dropped == 1


async def test_the_last_words_are_waited_for(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        session = s.session_of(client)
        async with (
            client.stream("GET") as listener,
            client.stream("POST", do(1, ["say", 1], ["wait", "x"])) as stream,
            client.stream("POST", do(2, ["wait", "x"])) as plain,
        ):
            await settle()
            for response in (listener, stream, plain):
                response.stall()
            session.notify_nowait("notifications/said", {"n": "last"})
            start = trio.current_time()
            session.terminate()
            await trio.sleep(0.9)
            # It is over when all of it is read...
            assert not is_over(session)
            for response in (listener, stream):
                response.resume()
            await settle()
            assert not is_over(session)
            plain.resume()
            await settle()
            assert is_over(session)
            assert trio.current_time() - start < 1
            assert messages(await listener.events()) == [said("last")]
            heard = messages(await stream.events())
            assert heard[0] == said(1)
            assert "requested" in heard[1]["error"]["message"]
            assert "requested" in (await plain.json())["error"]["message"]
            assert listener.complete
            assert stream.complete
            assert plain.complete


async def test_the_last_words_have_a_budget(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        session = s.session_of(client)
        async with client.stream("GET") as listener:
            await settle()
            listener.stall()
            session.notify_nowait("notifications/said", {"n": "last"})
            start = trio.current_time()
            session.terminate()
            await session.wait_terminated()
            # ...or when its time is.
            assert trio.current_time() == start + 1
            await settle()
            assert not listener.complete


async def test_finishing_is_a_checkpoint(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        with assert_checkpoints():
            await s.streams_of(client).finish()
        s.session_of(client).terminate()


async def test_notifications_of_the_client_are_served_where_the_session_speaks(
    autojump_clock: MockClock,
) -> None:
    async with site() as s:
        client = await s.client(D)
        async with client.stream("GET") as listener:
            await settle()
            message = notification("notifications/do", {"steps": [["say", 1], ["tell", 2]]})
            response = await client.request("POST", message)
            assert (response.status, response.body) == (202, b"")
            assert await until_heard(listener, 2) == [said(1), said(2)]
