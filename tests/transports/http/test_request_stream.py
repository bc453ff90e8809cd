"""The response to a request: JSON or a stream is decided as late as possible."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints

from tests.helpers import brief, cancelled, error, request, result
from tests.transports.http.asgi_client import Response
from tests.transports.http.scripted import (
    VERSIONS,
    B,
    C,
    D,
    did,
    do,
    messages,
    progressed,
    reply,
    said,
    settle,
    site,
    until_heard,
)
from trio_mcp_session import CleanupConfig, SessionLimits
from trio_mcp_session.protocol import jsonrpc
from trio_mcp_session.protocol.error_codes import INTERNAL_ERROR
from trio_mcp_session.transports.http.request_stream import RequestStream

JSON = "application/json"
EVENTS = "text/event-stream"


def kind_of(response: Response) -> str:
    return response.headers["content-type"]


# JSON or a stream.


@pytest.mark.parametrize("version", VERSIONS)
async def test_just_an_answer_is_json(version: str, autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client(version)
        response = await client.request("POST", do(1, ["sleep", 1.9]))
        assert (response.status, kind_of(response)) == (200, JSON)
        assert response.headers["content-length"] == str(len(response.body))
        assert msgspec.json.decode(response.body) == did(1)
        # Nothing was kept for a client that has all.
        assert len(s.store) == 0
        assert s.streams_of(client)._log is None


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_first_message_opens_a_stream(version: str, autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client(version)
        async with client.stream(
            "POST", do(1, ["sleep", 1], ["say", 1], ["wait", "x"])
        ) as response:
            await trio.sleep(0.9)
            assert not response.headers
            await response.started()
            assert trio.current_time() == 1
            assert kind_of(response) == EVENTS
            assert await until_heard(response, 1) == [said(1)]
            s.script.gates["x"].set()
            assert messages(await response.events()) == [did(1)]
            assert response.complete


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stream_after", [0.5, 2.0, 10.0])
async def test_so_does_waiting_for_long(
    version: str, stream_after: float, autojump_clock: MockClock
) -> None:
    async with site(stream_after=stream_after) as s:
        client = await s.client(version)
        async with client.stream("POST", do(1, ["sleep", stream_after + 5])) as response:
            start = trio.current_time()
            await response.started()
            assert stream_after <= trio.current_time() - start <= stream_after + 1
            assert kind_of(response) == EVENTS
            assert messages(await response.events()) == [did(1)]


async def test_with_answers_sse_every_answer_is_an_event_stream(autojump_clock: MockClock) -> None:
    async with site(answers="sse") as s:
        client = await s.client()
        for message, answer in (
            (do(1), did(1)),
            (request(2, "ping"), result(2)),
            (request(3, "nothing"), error(3, -32601)),
        ):
            async with client.stream("POST", message) as response:
                events = await response.events()
            assert kind_of(response) == EVENTS
            assert [brief(one) for one in messages(events)] == [answer]
            assert response.complete
        # What opens the session names it in its headers: that is JSON all the same.
        other = await s.client()
        assert other.headers["mcp-session-id"] != client.headers["mcp-session-id"]


@pytest.mark.parametrize("when", ["queued", "running"])
async def test_an_answer_that_has_waited_in_line(when: str, autojump_clock: MockClock) -> None:
    """The clock runs from when the request came, not from when it is its turn."""
    async with site(limits=SessionLimits(max_in_flight=1)) as s:
        client = await s.client()
        async with trio.open_nursery() as nursery:
            if when == "queued":
                nursery.start_soon(client.request, "POST", do(1, ["sleep", 10]))
                await settle()
            async with client.stream("POST", do(2, ["sleep", 5])) as response:
                await response.started()
                assert trio.current_time() <= 3
                assert messages(await response.events()) == [did(2)]


# What goes where.


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("version", VERSIONS)
async def test_each_message_is_on_one_stream(
    version: str, store: bool, autojump_clock: MockClock
) -> None:
    options: dict[str, Any] = {} if store else {"event_store": None}
    async with site(**options) as s:
        client, other = await s.client(version), await s.client(version)
        heard: dict[object, list[Any]] = {}

        async def listen(who: str, response: Response) -> None:
            heard[who] = messages(await response.events())

        def talk(number: int) -> Any:
            steps = [["say", number], ["broadcast", -number], ["progress", number], ["ask"]]
            return do(number, *steps, ["wait", "x"], ["say", 10 * number])

        async with AsyncExitStack() as stack:
            listener = await stack.enter_async_context(client.stream("GET"))
            stranger = await stack.enter_async_context(other.stream("GET"))
            await settle()
            one = await stack.enter_async_context(client.stream("POST", talk(1)))
            await settle()
            two = await stack.enter_async_context(client.stream("POST", talk(2)))
            nursery = await stack.enter_async_context(trio.open_nursery())
            for who, response in (("1", one), ("2", two), ("get", listener), ("other", stranger)):
                nursery.start_soon(listen, who, response)
            await settle()
            for question_id in (1, 2):
                await reply(client, {"id": question_id}, {"roots": []})
            await settle()
            s.manager.broadcast("notifications/said", {"n": "all"})
            s.script.gates["x"].set()
            await settle()
            for ended in (client, other):
                await ended.request("DELETE")
        questions = []
        for number in (1, 2):
            first, progress, question, last, answer = heard[str(number)]
            assert (first, progress) == (said(number), progressed(number))
            assert question["method"] == "roots/list"
            questions.append(question["id"])
            assert (last, answer) == (said(10 * number), did(number, True, []))
        assert sorted(questions) == [1, 2]
        assert heard["get"] == [said(-1), said(-2), said("all")]
        assert heard["other"] == [said("all")]


async def test_one_id_at_the_same_time(autojump_clock: MockClock) -> None:
    """Real clients do that. Each gets what belongs to it."""
    async with site() as s:
        client = await s.client()
        async with (
            client.stream("POST", do(1, ["say", "a"], ["sleep", 3], ["say", "b"])) as one,
            client.stream("POST", do(1, ["say", "c"], ["sleep", 1], ["broadcast", "d"])) as two,
        ):
            assert messages(await two.events()) == [said("c"), did(1, True)]
            assert messages(await one.events()) == [said("a"), said("b"), did(1)]


async def test_messages_after_the_answer_are_sent_on_the_get_stream(
    autojump_clock: MockClock,
) -> None:
    """A question that is taken back, for one: its request is over by then."""
    async with site() as s:
        client = await s.client()
        streams = s.streams_of(client)
        for stream in (
            RequestStream(streams, request_id=1),
            RequestStream(streams, request_id=1, may_stream=False),
        ):
            with assert_no_checkpoints():
                stream.send_result(b"{}")
                assert stream.send_message(jsonrpc.encode_notification("late"))
                stream.start_stream()
                stream.tick(trio.current_time() + 1000)
                assert not stream.close_stream(None)
            assert await stream.decided() is None
            assert stream.answer == b"{}"
            assert not stream.connected
        assert s.session_of(client).metrics.dropped == 0
        async with client.stream("GET") as response:
            late = [await response.event() for _ in range(3)]
        assert [event.json["method"] for event in late if event.data] == ["late", "late"]


async def test_a_stream_cannot_be_opened_where_it_may_not(autojump_clock: MockClock) -> None:
    async with site(answers="sse") as s:
        client = await s.client()
        stream = RequestStream(s.streams_of(client), request_id=1, may_stream=False)
        assert not stream.connected
        assert not stream.reachable
        stream.tick(trio.current_time() + 1000)
        assert not stream.close_stream(None)
        assert stream.send_message(b"nobody can hear this")
        assert s.session_of(client).metrics.dropped == 1
        assert stream._first_response is None
        stream.send_result(b"{}")


# Cancelled by the client.


async def test_cancelled_before_anything_was_sent(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("POST", do("a", ["wait", "x"])) as response:
            await settle()
            assert (await client.request("POST", cancelled("a"))).status == 202
            answer = await response.json()
        assert kind_of(response) == JSON
        assert brief(answer) == error("a", INTERNAL_ERROR)
        assert s.script.log == ["Cancelled"]


@pytest.mark.parametrize("answers", ["auto", "sse"])
async def test_cancelled_in_the_middle_of_a_stream(answers: str, autojump_clock: MockClock) -> None:
    async with site(answers=answers) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1], ["wait", "x"])) as response:
            await settle()
            assert (await client.request("POST", cancelled(1))).status == 202
            events = await response.events()
        # Clients resume a stream that ends without an answer, again and again.
        everything = messages(events)
        assert everything[0] == said(1)
        assert list(map(brief, everything[1:])) == [error(1, INTERNAL_ERROR)]
        assert response.complete
        streams = s.streams_of(client)
        assert not streams._unfinished
        # It can be read again like any other.
        async with client.stream("GET", headers={"last-event-id": events[0].id}) as response:
            assert messages(await response.events()) == everything
            assert response.complete


@pytest.mark.parametrize("streams", [True, False])
async def test_a_batch_all_of_which_is_cancelled(streams: bool, autojump_clock: MockClock) -> None:
    async with site(answers="sse" if streams else "auto") as s:
        client = await s.client(B)
        batch = [do(1, ["wait", "x"]), do(2, ["wait", "x"])]
        async with client.stream("POST", batch) as response:
            await settle()
            for number in (1, 2):
                await client.request("POST", cancelled(number))
            body = await response.read()
        assert response.complete
        if streams:
            body = body.rpartition(b"data: ")[2]
        assert brief(msgspec.json.decode(body)) == error(None, INTERNAL_ERROR)


async def test_a_batch_streams_too(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client(B)
        batch = [do(1, ["say", 1], ["ask"]), do(2, ["sleep", 1]), request(3, "ping")]
        async with client.stream("POST", batch) as response:
            heard = await until_heard(response, 2)
            assert heard[0] == said(1)
            await reply(client, heard[1], {"roots": []})
            (answers,) = messages(await response.events())
        assert sorted(answers, key=lambda one: one["id"]) == [did(1, []), did(2), result(3)]
        answers = await client.post([do(4), do(5)])
        assert sorted(answers, key=lambda one: one["id"]) == [did(4), did(5)]


# A client that is gone is not a client that cancels.


KEPT = {
    ("leaves", "before"): 3,
    ("leaves", "in a stream"): 4,
    ("is cancelled by its server", "before"): 0,
    ("is cancelled by its server", "in a stream"): 4,
}
"""Events, by how the connection ended, and when."""


@pytest.mark.parametrize("how", ["leaves", "is cancelled by its server"])
@pytest.mark.parametrize("when", ["before", "in a stream"])
async def test_a_lost_connection_ends_no_work(
    how: str, when: str, autojump_clock: MockClock
) -> None:
    async with site() as s:
        client = await s.client()
        first = [["say", 1]] if when == "in a stream" else []
        async with client.stream(
            "POST", do(1, *first, ["wait", "x"], ["say", 2], ["progress", 1])
        ) as response:
            if when == "in a stream":
                assert (await response.event()).data == ""
                assert await until_heard(response, 1) == [said(1)]
            await settle()
            if how != "leaves":
                response.server_task.cancel()
        session = s.session_of(client)
        busy = [session.busy]
        s.script.gates["x"].set()
        await settle()
        busy.append(session.busy)
        assert busy == [True, False]
        assert s.script.log == ["did"]
        assert not s.streams_of(client)._unfinished
        # The answer waits for a client that can resume.
        if how == "leaves" or when == "in a stream":
            assert session.metrics.dropped == 0
        assert len(s.store) == KEPT[how, when]


@pytest.mark.parametrize("store", [True, False])
async def test_a_connection_lost_before_there_was_an_event(
    store: bool, autojump_clock: MockClock
) -> None:
    """No client can resume that: nothing is kept for it, and no task waits for room in it."""
    options: dict[str, Any] = {} if store else {"event_store": None}
    async with site(limits=SessionLimits(max_output=100), **options) as s:
        client = await s.client()
        steps = [["wait", "x"], *[["shout", 100]] * 3, ["let go"], ["ask", 5]]
        async with client.stream("POST", do(1, *steps)) as response:
            await settle()
            response.server_task.cancel()
        s.script.gates["x"].set()
        with trio.fail_after(1):
            await settle()
        # It is told so, where it asks.
        assert s.script.log == ["NoChannel"]
        assert s.session_of(client).metrics.dropped == 3
        assert s.streams_of(client)._log is None


async def test_a_stream_begun_in_the_moment_of_cancellation(autojump_clock: MockClock) -> None:
    async with site(limits=SessionLimits(max_output=100)) as s:
        client = await s.client()
        streams = s.streams_of(client)
        stream = RequestStream(streams, request_id=1)
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                await stream.decided()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await settle()
            assert len(s.app.ticker) == 1
            scope.cancel()
            # Its task has not had a turn yet.
            stream.start_stream()
        assert scope.cancelled_caught
        assert len(s.app.ticker) == 0
        assert not stream.connected
        assert not stream.reachable
        assert stream.send_message(b"x" * 1000)
        await stream.wait_writable()
        stream.send_result(b"{}")
        assert not streams._unfinished


async def test_decided_and_cancelled_in_the_same_moment(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream(
            "POST", do(1, ["wait", "x"], ["say", 1], ["wait", "y"])
        ) as response:
            await settle()
            s.script.gates["x"].set()
            (stream,) = s.app.ticker._members
            assert isinstance(stream, RequestStream)
            stream.start_stream()
            response.server_task.cancel()
        assert not response.headers
        s.script.gates["y"].set()
        await settle()
        assert s.script.log == ["did"]


# Questions.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("store", [True, False])
async def test_a_question_is_asked_on_the_stream_of_its_request(
    version: str, store: bool, autojump_clock: MockClock
) -> None:
    """Also where it is the first that is heard, and nothing is kept."""
    options: dict[str, Any] = {} if store else {"event_store": None}
    async with site(**options) as s:
        client = await s.client(version)
        async with client.stream("POST", do(1, ["ask"], ["ask"])) as response:
            for _ in range(2):
                (question,) = await until_heard(response, 1)
                assert question["method"] == "roots/list"
                await reply(client, question, {"roots": []})
            assert messages(await response.events()) == [did(1, [], [])]


async def test_a_question_on_a_lost_stream_without_a_store_raises_no_channel(
    autojump_clock: MockClock,
) -> None:
    async with site(event_store=None) as s:
        client = await s.client()
        async with client.stream(
            "POST", do(1, ["say", 1], ["wait", "x"], ["ask", 1000])
        ) as response:
            await response.event()
            response.server_task.cancel()
        s.script.gates["x"].set()
        await settle()
        assert s.script.log == ["NoChannel"]


async def test_a_question_that_waits_for_room_when_the_client_goes(
    autojump_clock: MockClock,
) -> None:
    async with site(event_store=None, limits=SessionLimits(max_output=100)) as s:
        client = await s.client()
        async with client.stream(
            "POST", do(1, ["say", 1], ["shout", 100], ["ask", 1000])
        ) as response:
            response.stall()
            await settle()
            assert not s.script.log
            response.server_task.cancel()
            await settle()
            assert s.script.log == ["NoChannel"]


async def test_a_question_whose_time_is_over_is_taken_back(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["ask", 5])) as response:
            question, forget, answer = messages(await response.events())
        assert forget["params"]["requestId"] == question["id"]
        assert brief(answer) == error(1, INTERNAL_ERROR)


# Letting the client go.


async def test_a_request_stream_closed_early_is_resumed_with_get(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        steps = [["let go", 0.25], ["let go"], ["say", 1], ["sleep", 50], ["say", 2]]
        async with client.stream("POST", do(1, *steps)) as response:
            first, retry = await response.events()
        assert (first.data, first.retry) == ("", 3000)
        assert (retry.id, retry.data, retry.retry) == (None, None, 250)
        assert response.complete
        assert trio.current_time() == 0
        # There was no open stream to close the second time.
        async with client.stream("GET", headers={"last-event-id": first.id}) as response:
            events = await response.events()
        assert messages(events) == [said(1), said(2), did(1, True, False)]
        assert trio.current_time() == 50


async def test_a_request_stream_closed_early_several_times_is_resumed_each_time(
    autojump_clock: MockClock,
) -> None:
    async with site(retry=1.5) as s:
        client = await s.client()
        rounds = [[["say", n], ["let go"], ["sleep", 10]] for n in range(3)]
        steps = [step for one in rounds for step in one]
        heard: list[Any] = []
        last: str | None = None
        verb, json = "POST", do(1, *steps)
        while not any("result" in one for one in heard):
            async with client.stream(verb, json, headers={"last-event-id": last}) as response:
                events = await response.events()
            assert response.complete
            assert events[0].retry == 1500
            heard += messages(events)
            last, verb, json = events[-1].id, "GET", {}
            await trio.sleep(1.5)
        assert heard == [said(0), said(1), said(2), did(1, True, True, True)]


async def test_questions_after_letting_go(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["let go"], ["ask"])) as response:
            (first,) = await response.events()
        await settle()
        assert s.session_of(client).busy
        async with client.stream("GET", headers={"last-event-id": first.id}) as response:
            (question,) = await until_heard(response, 1)
            await reply(client, question, {"roots": []})
            assert messages(await response.events()) == [did(1, True, [])]


@pytest.mark.parametrize("version, store", [(B, True), (C, True), (D, False)])
async def test_a_request_stream_is_not_closed_early_where_the_client_cannot_resume(
    version: str, store: bool, autojump_clock: MockClock
) -> None:
    options: dict[str, Any] = {} if store else {"event_store": None}
    async with site(**options) as s:
        client = await s.client(version)
        # It does not even open a stream.
        assert await client.post(do(1, ["let go"])) == did(1, False)
        async with client.stream("POST", do(1, ["say", 1], ["let go"], ["say", 2])) as response:
            assert messages(await response.events()) == [said(1), said(2), did(1, False)]


async def test_the_stream_of_a_batch_is_not_closed_early(autojump_clock: MockClock) -> None:
    """Batches are of a revision that knows no polling."""
    async with site() as s:
        client = await s.client(B)
        assert await client.post([do(1, ["let go"])]) == [did(1, False)]


# Waiting.


async def test_each_wait_can_be_cancelled(autojump_clock: MockClock) -> None:
    """Wherever a server stops to run the request: the session continues, nothing is left."""
    for seconds in (0.1, 0.5, 1, 1.5, 2, 2.5, 3, 3.5):
        async with site(cleanup=CleanupConfig(max_idle_time=1000)) as s:
            client = await s.client()
            steps = [["sleep", 1], ["say", 1], ["sleep", 1], ["say", 2], ["sleep", 1], ["say", 3]]
            async with client.stream("POST", do(1, *steps)) as response:
                await trio.sleep(seconds)
                response.server_task.cancel()
            await trio.sleep(4)
            assert s.script.log == ["did"]
            assert await client.post(do(2)) == did(2)
            assert s.session_of(client).error is None
            assert len(s.app.ticker) == 0
