"""Clients that resume: nothing of a stream is lost, doubled, or another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import attrs
import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import MockClock

from tests.helpers import request
from tests.transports.http.asgi_client import Client, Event, Response
from tests.transports.http.scripted import (
    VERSIONS,
    B,
    C,
    D,
    did,
    do,
    messages,
    parse,
    progressed,
    reply,
    said,
    settle,
    site,
    until_heard,
)
from tests.transports.http.stores import AsyncStore
from trio_mcp_session import SessionLimits
from trio_mcp_session.transports.http.memory_event_store import MemoryEventStore


async def again(client: Client, event_id: str | None) -> list[Event]:
    """Resume a stream and read it to its end."""
    async with client.stream("GET", headers={"last-event-id": event_id}) as response:
        assert (await response.started()).status == 200
        events = await response.events()
    assert response.complete
    return events


# One stream, by hand.


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_finished_stream_can_be_read_from_anywhere(
    version: str, autojump_clock: MockClock
) -> None:
    async with site() as s:
        client = await s.client(version)
        async with client.stream(
            "POST", do(1, ["say", 1], ["progress", 2], ["say", 3])
        ) as response:
            events = await response.events()
        everything = [said(1), progressed(2), said(3), did(1)]
        assert messages(events) == everything
        names = [event.id for event in events if event.id]
        assert len(set(names)) == len(names) == (5 if version == D else 4)
        for _ in range(2):
            # A client that has seen all is told so: it would resume an empty stream for ever.
            response = await client.request("GET", headers={"last-event-id": names[-1]})
            assert response.status == 204
            for position, event_id in enumerate(reversed(names[:-1]), 1):
                back = await again(client, event_id)
                assert messages(back) == everything[4 - position :]
                # The events are what they were.
                assert [one for one in back if one.data] == [one for one in events if one.data][
                    4 - position :
                ]
                if version == D:
                    assert back[0].id == event_id
        assert s.streams_of(client).listeners == 0


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_resumed_stream_replays_and_then_continues_live(
    version: str, autojump_clock: MockClock
) -> None:
    async with site() as s:
        client = await s.client(version)
        steps = [["say", 1], ["say", 2], ["wait", "x"], ["say", 3], ["sleep", 1]]
        async with client.stream("POST", do(1, *steps)) as response:
            event = await response.event()
            while not event.data:
                event = await response.event()
            assert event.json == said(1)
            response.server_task.cancel()
        async with client.stream("GET", headers={"last-event-id": event.id}) as response:
            assert await until_heard(response, 1) == [said(2)]
            s.script.gates["x"].set()
            assert messages(await response.events()) == [said(3), did(1)]
            assert response.complete


async def test_a_resumed_stream_replays_only_its_own_messages(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        primed: dict[int, str | None] = {}
        for number in (1, 2):
            steps = [["say", number], ["broadcast", "get"], ["say", 10 * number]]
            async with client.stream("POST", do(number, *steps)) as response:
                primed[number] = (await response.event()).id
        for number in (1, 2, 1):
            heard = messages(await again(client, primed[number]))
            assert heard == [said(number), said(10 * number), did(number, True)]
        async with client.stream("GET") as response:
            assert await until_heard(response, 2) == [said("get")] * 2


@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_taking_over_from_a_connection_that_hangs(
    verb: str, autojump_clock: MockClock
) -> None:
    async with site() as s:
        client = await s.client()
        session = s.session_of(client)
        json = do(1, ["say", 1], ["wait", "x"]) if verb == "POST" else None
        async with client.stream(verb, json) as old:
            first = await old.event()
            await settle()
            old.stall()
            if verb == "GET":
                session.notify_nowait("notifications/said", {"n": 1})
            async with client.stream("GET", headers={"last-event-id": first.id}) as new:
                with trio.fail_after(1):
                    assert await until_heard(new, 1) == [said(1)]
                # What is sent now is on the new one only.
                if verb == "GET":
                    session.notify_nowait("notifications/said", {"n": 2})
                    assert await until_heard(new, 1) == [said(2)]
                else:
                    s.script.gates["x"].set()
                    assert messages(await new.events()) == [did(1)]
                before = len(old.writes)
                old.resume()
                await settle()
                # The old one ends, and properly.
                assert old.complete
                written = [event for write in old.writes[before:] for event in parse(write)]
                assert messages(written) in ([], [said(1)])


async def test_the_old_connection_ends_also_if_it_never_reads_again(
    autojump_clock: MockClock,
) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("GET") as old:
            first = await old.event()
            old.stall()
            s.session_of(client).notify_nowait("notifications/said", {"n": 1})
            await settle()
            async with client.stream("GET", headers={"last-event-id": first.id}) as new:
                await until_heard(new, 1)
                await trio.sleep(32)
                assert await old.events() == []
                assert not old.complete
                assert s.streams_of(client).listeners == 1
                assert s.session_of(client).termination_reason is None


async def test_two_clients_resume_a_finished_stream_at_once(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1])) as response:
            first = await response.event()
        async with trio.open_nursery() as nursery:
            for _ in range(5):

                async def read() -> None:
                    assert messages(await again(client, first.id)) == [said(1), did(1)]

                nursery.start_soon(read)


async def test_the_answer_comes_while_the_old_connection_hangs(
    autojump_clock: MockClock,
) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1])) as old:
            first = await old.event()
            old.stall()
            await settle()
            assert messages(await again(client, first.id)) == [said(1), did(1)]
            old.resume()
            # Two connections, and each is whole.
            assert messages(await old.events()) == [said(1), did(1)]


@pytest.mark.parametrize("version", [B, C])
async def test_a_stream_lost_before_its_first_event_id_cannot_be_resumed(
    version: str, autojump_clock: MockClock
) -> None:
    """Revisions without an event at the beginning; what is kept goes with the session."""
    async with site() as s:
        client = await s.client(version)
        async with client.stream("POST", do(1, ["say", 1], ["sleep", 5])) as response:
            await response.started()
            response.server_task.cancel()
        await trio.sleep(6)
        assert s.script.log == ["did"]
        assert len(s.store) == 2
        await client.request("DELETE")
        assert len(s.store) == 0


async def test_after_delete_an_event_id_cannot_be_resumed(autojump_clock: MockClock) -> None:
    async with site() as s:
        client, other = await s.client(), await s.client()
        async with client.stream("POST", do(1, ["say", 1])) as response:
            first = await response.event()
        headers = {"last-event-id": first.id}
        await client.request("DELETE")
        assert (await client.request("GET", headers=headers)).status == 404
        assert (await other.request("GET", headers=headers)).status == 400


async def test_ids_outlive_their_events_by_a_refusal(autojump_clock: MockClock) -> None:
    async with site(event_store=MemoryEventStore(max_age=60)) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1])) as response:
            *_, last = events = await response.events()
        await trio.sleep(59)
        assert messages(await again(client, events[0].id)) == [said(1), did(1)]
        await trio.sleep(1)
        # A client that has seen the last event has missed nothing.
        for event, status in ((events[0], 410), (last, 204)):
            response = await client.request("GET", headers={"last-event-id": event.id})
            assert response.status == status


async def test_a_replay_that_is_larger_than_the_buffer(autojump_clock: MockClock) -> None:
    """What is kept may be more than what may wait: the live part has to wait then."""
    async with site(limits=SessionLimits(max_output=200)) as s:
        client = await s.client()
        steps = [["say", number] for number in range(50)]
        async with client.stream(
            "POST", do(1, ["let go"], *steps, ["wait", "x"], *steps)
        ) as response:
            (first,) = await response.events()
        await settle()
        async with client.stream("GET", headers={"last-event-id": first.id}) as response:
            await settle()
            s.script.gates["x"].set()
            heard = messages(await response.events())
        assert heard == [said(n) for n in range(50)] * 2 + [did(1, True)]


# Any streams, cut anywhere, any number of times.


@final
@attrs.frozen
class Cut:
    """One connection that does not last."""

    after: int
    """Events that are read before."""
    how: str
    pause: float
    """Seconds until the client resumes."""


CUTS = st.lists(
    st.builds(
        Cut,
        st.integers(0, 4),
        st.sampled_from(["leaves", "hangs", "is cancelled"]),
        st.sampled_from([0.0, 0.5, 3.0, 20.0]),
    ),
    max_size=6,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers()),
        st.tuples(st.just("tell"), st.integers()),
        st.tuples(st.just("sleep"), st.sampled_from([0.0, 0.5, 1.0, 2.0, 20.0])),
        st.tuples(st.just("ask"), st.none()),
        st.tuples(st.just("let go"), st.sampled_from([None, 1.0])),
    ),
    max_size=8,
)


@final
@attrs.define
class Reader:
    """A client that loses its connection again and again, and reads one stream to its end."""

    client: Client
    nursery: trio.Nursery
    cuts: Sequence[Cut]
    heard: list[Any] = attrs.field(factory=list)
    names: list[str] = attrs.field(factory=list)
    last: str | None = None
    done: bool = False
    wanted: int | None = None
    """How many messages come, where the stream itself has no end."""

    async def follow(self, verb: str, json: Any = None) -> None:
        cuts = list(self.cuts)
        while not self.done:
            cut = cuts.pop(0) if cuts else None
            connection = await self.nursery.start(self.connect, verb, json)
            await self.read(connection.response, cut)
            # One that hangs for long would cost the session its life, by the policy.
            match None if cut is None or self.done else cut.how:
                case "hangs":
                    connection.response.stall()
                case "is cancelled":
                    connection.response.server_task.cancel()
                    connection.over.set()
                case _:
                    connection.over.set()
            if cut is not None:
                await trio.sleep(cut.pause)
            verb, json = "GET", None
        assert len(set(self.names)) == len(self.names)

    async def connect(
        self, verb: str, json: Any, *, task_status: trio.TaskStatus[Connection]
    ) -> None:
        async with self.client.stream(verb, json, headers={"last-event-id": self.last}) as response:
            connection = Connection(response)
            task_status.started(connection)
            # One that hangs does so until its client program ends.
            with trio.move_on_after(1_000):
                await connection.over.wait()

    async def read(self, response: Response, cut: Cut | None) -> None:
        await response.started()
        assert response.status == 200, response.status
        if response.headers["content-type"] == "application/json":
            self.heard.append(await response.json())
            self.done = True
            return
        count = 0
        # A client that has received nothing yet could not resume.
        while cut is None or count < cut.after or self.last is None:
            if self.wanted is not None and len(self.heard) == self.wanted:
                self.done = True
                return
            try:
                event = await response.event()
            except trio.EndOfChannel:
                assert self.wanted is None
                return
            count += 1
            if event.id is not None:
                if event.data:
                    self.names.append(event.id)
                self.last = event.id
            if event.data:
                await self.hear(event.json)

    async def hear(self, message: Any) -> None:
        self.heard.append(message)
        if "result" in message:
            self.done = True
        elif "id" in message:
            await reply(self.client, message, {"roots": []})


@final
@attrs.define
class Connection:
    response: Response
    over: trio.Event = attrs.field(factory=trio.Event)


def expected(number: int, version: str, steps: Sequence[tuple[str, Any]]) -> list[Any]:
    """What comes on the stream of a request, questions by their method."""
    found: list[Any] = []
    outcomes: list[object] = []
    for step, value in steps:
        if step == "say":
            found.append(said(value))
        elif step == "ask":
            found.append("roots/list")
            outcomes.append([])
        elif step == "let go":
            outcomes.append("let go")
    return [*found, did(number, *outcomes)]


def plain(messages: Sequence[Any]) -> list[Any]:
    """The same messages; what depends on the moment is left out."""
    found: list[Any] = []
    for message in messages:
        if "method" in message and "id" in message:
            found.append(message["method"])
        elif "result" in message:
            outcomes = [
                "let go" if isinstance(one, bool) else one for one in message["result"]["did"]
            ]
            found.append(did(message["id"], *outcomes))
        else:
            found.append(message)
    return found


@pytest.mark.parametrize("version", VERSIONS)
@given(
    requests=st.lists(st.tuples(STEPS, CUTS), min_size=1, max_size=3),
    listener=CUTS,
    answers=st.sampled_from(["auto", "sse"]),
    max_output=st.sampled_from([1, 300, 2**20]),
    delay=st.sampled_from([None, 0.0, 0.3, 4.0]),
)
@settings(max_examples=60)
def test_nothing_is_lost_and_nothing_doubled(
    version: str,
    requests: list[tuple[list[tuple[str, Any]], list[Cut]]],
    listener: list[Cut],
    answers: str,
    max_output: int,
    delay: float | None,
) -> None:
    """The event store may take its time, within its budget."""

    async def before(call: str, stream: int, number: int) -> None:
        assert delay is not None
        await trio.sleep(0 if call == "answer" else delay)

    async def main() -> None:
        limits = SessionLimits(max_output=max_output)
        store = MemoryEventStore() if delay is None else AsyncStore(before)
        async with site(answers=answers, limits=limits, max_streams=100, event_store=store) as s:
            client = await s.client(version)
            told = [value for steps, _ in requests for step, value in steps if step == "tell"]
            async with trio.open_nursery() as connections:
                readers = [Reader(client, connections, cuts) for _, cuts in requests]
                ear = Reader(client, connections, listener, wanted=len(told))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ear.follow, "GET")
                    for number, (steps, _) in enumerate(requests):
                        nursery.start_soon(readers[number].follow, "POST", do(number, *steps))
                for reader, (number, (steps, _)) in zip(readers, enumerate(requests), strict=True):
                    assert plain(reader.heard) == expected(number, version, steps)
                heard = [one["params"]["n"] for one in ear.heard]
                assert sorted(heard) == sorted(told)
                assert s.session_of(client).metrics.dropped == 0
                connections.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_the_answer_to_a_ping_can_be_resumed_only_as_an_event_stream(
    autojump_clock: MockClock,
) -> None:
    async with site(answers="sse") as s:
        client = await s.client()
        async with client.stream("POST", request(1, "ping")) as response:
            first = await response.event()
        # It has one where all have one.
        (answer,) = messages(await again(client, first.id))
        assert answer["result"] == {}
