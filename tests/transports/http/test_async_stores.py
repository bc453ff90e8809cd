"""Event stores that wait, and event stores that fail: a client never waits for its store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain, cycle, repeat
from typing import Any, NoReturn

import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints

from tests.transports.http.asgi_client import Client, Event, Response
from tests.transports.http.scripted import (
    VERSIONS,
    C,
    D,
    did,
    do,
    messages,
    said,
    settle,
    site,
    until_heard,
)
from tests.transports.http.stores import AsyncLog, AsyncStore
from trio_mcp_session import (
    CleanupConfig,
    Error,
    EventsPurged,
    EventStoreFailed,
    MemoryEventStore,
    Session,
    SessionLimits,
    UnknownEvent,
)
from trio_mcp_session.core.errors import ExitRequested
from trio_mcp_session.sessions.failures import first_of
from trio_mcp_session.transports.http.request_stream import RequestStream
from trio_mcp_session.transports.http.session_log import MAX_LOST_STREAMS, _LookUp
from trio_mcp_session.transports.http.session_streams import streams_of

BUDGET = 5.0
TICK = 1.0
"""How late a clock may be."""


def at(call: str, number: int, action: Callable[[], Awaitable[object]]) -> AsyncStore:
    """Return a store that does something before one kind of call for events of one number."""

    async def before(called: str, stream: int, place: int) -> None:
        await trio.lowlevel.checkpoint()
        if (called, place) == (call, number):
            await action()

    return AsyncStore(before)


async def fail() -> NoReturn:
    raise OSError("disk full")


async def exit_program() -> NoReturn:
    raise SystemExit(3)


async def fail_in_a_group() -> NoReturn:
    raise BaseExceptionGroup("several", [OSError("disk full"), SystemExit(3)])


async def come_back(client: Client, event_id: str | None) -> tuple[int, list[Any]]:
    """Resume a stream; return the status, and the messages where there is a stream."""
    async with client.stream("GET", headers={"last-event-id": event_id}) as response:
        status = (await response.started()).status
        return status, messages(await response.events()) if status == 200 else []


def ids(events: list[Event]) -> list[str | None]:
    """The ids of the events that carry a message."""
    return [event.id for event in events if event.data]


# A store that does not wait.


class Spawned(trio.abc.Instrument):
    """Counts the tasks that begin."""

    def __init__(self) -> None:
        self.count = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_a_synchronous_store_costs_neither_a_checkpoint_nor_a_task(
    autojump_clock: MockClock,
) -> None:
    async with site() as s:
        client = await s.client()
        session, streams = s.session_of(client), s.streams_of(client)
        spawned = Spawned()
        trio.lowlevel.add_instrument(spawned)
        with assert_no_checkpoints():
            for number in range(100):
                assert session.notify_nowait("notifications/said", {"n": number})
            assert streams.log is not None
            response = await streams.resume(f"{streams.log.name}.1.40", 1)
            streams.standalone.detach(response)
            await streams.log.close()
        await settle()
        assert spawned.count == 0
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task is what it counts
            nursery.start_soon(trio.lowlevel.checkpoint)
        assert spawned.count == 1
        trio.lowlevel.remove_instrument(spawned)
        assert session.metrics.dropped == 0
        assert response._replay_size > 0


# A store that waits.


@pytest.mark.parametrize("version", VERSIONS)
async def test_streams_are_resumed_from_an_asynchronous_store(
    version: str, autojump_clock: MockClock
) -> None:
    store = AsyncStore()
    async with site(event_store=store) as s:
        client = await s.client(version)
        steps = [["say", 1], ["say", 2], ["wait", "x"], ["say", 3]]
        async with client.stream("POST", do(1, *steps)) as response:
            first = await response.event()
            while not first.data:
                first = await response.event()
        s.session_of(client).notify_nowait("notifications/said", {"n": "get"})
        await settle()
        assert store.stored() == {1: [1, 2], 2: [1]}
        async with client.stream("GET", headers={"last-event-id": first.id}) as response:
            assert await until_heard(response, 1) == [said(2)]
            s.script.gates["x"].set()
            events = await response.events()
        assert messages(events) == [said(3), did(1)]
        await settle()
        # The stream has ended, and can be read again from anywhere but its end.
        assert await come_back(client, first.id) == (200, [said(2), said(3), did(1)])
        assert await come_back(client, events[-1].id) == (204, [])
        async with client.stream("GET") as response:
            assert await until_heard(response, 1) == [said("get")]
        assert s.session_of(client).metrics.dropped == 0
        await client.request("DELETE")
        await settle()
        assert store.logs == {}
        assert store.calls[-1] == ("close", 0, 0)


async def test_a_store_in_threads() -> None:
    async def in_a_thread(call: str, stream: int, number: int) -> None:
        await trio.to_thread.run_sync(list)

    store = AsyncStore(in_a_thread)
    async with site(event_store=store) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1], ["say", 2])) as response:
            events = await response.events()
        assert await come_back(client, events[0].id) == (200, [said(1), said(2), did(1)])


@given(delays=st.lists(st.sampled_from([0.0, 0.1, 1.0, 4.9]), min_size=1, max_size=5))
@settings(max_examples=20)
def test_a_connected_client_does_not_wait_for_the_store(delays: list[float]) -> None:
    async def main() -> None:
        async def before(call: str, stream: int, number: int) -> None:
            await trio.sleep(0 if call == "answer" else delays[number % len(delays)])

        store = AsyncStore(before)
        async with site(event_store=store, answers="sse") as s:
            client = await s.client()
            begin = trio.current_time()
            async with client.stream("POST", do(1, *(["say", n] for n in range(9)))) as response:
                events = await response.events()
            assert trio.current_time() == begin
            assert messages(events) == [*map(said, range(9)), did(1)]
            # What is not stored yet is part of what is sent again.
            again = await come_back(client, events[3].id)
            assert again == (200, [*map(said, range(3, 9)), did(1)])
            await trio.sleep(100)
            assert store.stored() == {1: list(range(1, 11))}
            assert await come_back(client, events[3].id) == again

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_a_stream_that_is_lost_before_its_event_is_stored(autojump_clock: MockClock) -> None:
    store = AsyncStore()
    async with site(event_store=store) as s:
        client = await s.client()
        session, streams = s.session_of(client), s.streams_of(client)
        session.notify_nowait("notifications/said", {"n": 1})
        kept = streams.standalone.kept
        assert kept is not None
        kept.lose(OSError("disk full"))
        await settle()
        assert store.calls == []
        assert session.termination_reason is None


async def test_what_waits_for_the_store_is_bounded(autojump_clock: MockClock) -> None:
    """Handlers wait; results do not."""
    gate = trio.Event()
    async with site(
        event_store=at("append", 3, gate.wait), limits=SessionLimits(max_output=500)
    ) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["let go"])) as response:
            await response.events()
        steps = [["let go"], *(["shout", 200] for _ in range(20))]
        async with client.stream("POST", do(2, *steps)) as response:
            first = await response.event()
        await settle()
        (stream,) = (s.streams_of(client)._unfinished or {}).values()
        assert isinstance(stream, RequestStream)
        kept: Any = stream.kept
        assert kept.full
        assert kept._waiting_size < 1_000
        assert not stream.send_message(b"{}")
        with assert_checkpoints(), trio.move_on_after(1) as scope:
            await stream.wait_writable()
        assert scope.cancelled_caught
        gate.set()
        await settle()
        assert not kept.full
        assert await come_back(client, first.id) == (200, [said("x" * 200)] * 20 + [did(2, True)])


# A store that fails.


@pytest.mark.parametrize("version", [C, D])
@pytest.mark.parametrize(
    "how, cause",
    [
        (fail, OSError),
        (exit_program, ExitRequested),
        (fail_in_a_group, ExitRequested),
        (trio.sleep_forever, trio.TooSlowError),
    ],
)
async def test_a_stream_whose_event_cannot_be_stored_continues_without_ids(
    how: Callable[[], Awaitable[None]],
    cause: type[Exception],
    version: str,
    autojump_clock: MockClock,
) -> None:
    store = at("append", 2, how)
    async with site(event_store=store) as s:
        client = await s.client(version)
        session = s.session_of(client)
        with session.subscribe() as told:
            steps = [["say", 1], ["say", 2], ["say", 3], ["sleep", 2 * BUDGET], ["let go"]]
            async with client.stream("POST", do(1, *steps, ["say", 4])) as response:
                events = await response.events()
            # The client gets everything. It is told that it cannot resume.
            assert messages(events) == [*map(said, (1, 2, 3, 4)), did(1, False)]
            (lost,) = [n for n, event in enumerate(events) if event.id == "" and not event.data]
            assert all(ids(events[:lost]))
            assert ids(events[lost:]) == [None, None]
            for event in events[:lost]:
                assert (await come_back(client, event.id))[0] == 410
            assert session.termination_reason is None
            await client.request("DELETE")
            failures = [event.error async for event in told if isinstance(event, Error)]
        (report,) = failures
        assert isinstance(report, EventStoreFailed)
        assert isinstance(report.__cause__, cause)
        assert session.metrics.dropped == 0


@pytest.mark.parametrize("seconds, lost", [(BUDGET - 0.01, False), (BUDGET + TICK, True)])
async def test_the_budget_of_a_store_at_its_edge(
    seconds: float, lost: bool, autojump_clock: MockClock
) -> None:
    store = at("append", 1, partial(trio.sleep, seconds))
    async with site(event_store=store, event_store_timeout=BUDGET) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1], ["sleep", 10])) as response:
            events = await response.events()
        assert ids(events)[-1] is (None if lost else events[-1].id)
        assert (await come_back(client, events[0].id))[0] == (410 if lost else 200)


async def test_a_store_that_is_late_and_cannot_be_cancelled(autojump_clock: MockClock) -> None:
    """As a thread that is not abandoned: it stores the event long after the stream was lost."""

    async def late() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    store = at("append", 2, late)
    async with site(event_store=store) as s:
        client = await s.client()
        begin = trio.current_time()
        steps = [["let go"], ["say", 1], ["say", 2], ["say", 3], ["wait", "x"]]
        async with client.stream("POST", do(1, *steps)) as response:
            (first,) = await response.events()
        await trio.sleep(BUDGET + TICK)
        assert (await come_back(client, first.id))[0] == 410
        assert trio.current_time() == begin + BUDGET + TICK
        s.script.gates["x"].set()
        await trio.sleep(200)
        # What came late is not taken for the whole stream.
        assert store.stored() == {1: [1, 2]}
        assert (await come_back(client, first.id))[0] == 410
        # Three messages and the result reach no client.
        assert s.session_of(client).metrics.dropped == 4
        assert await client.post(do(2)) == did(2)


async def test_streams_after_a_failure_are_kept_again(autojump_clock: MockClock) -> None:
    """The store's failure was its stream's, and not the session's."""
    broken = [True]

    async def before(call: str, stream: int, number: int) -> None:
        await trio.lowlevel.checkpoint()
        if broken[0]:
            raise OSError("no connection")

    async with site(event_store=AsyncStore(before)) as s:
        client = await s.client()
        session = s.session_of(client)
        with session.subscribe() as told:
            async with client.stream("POST", do(1, ["say", 1], ["wait", "x"])) as response:
                await until_heard(response, 1)
                session.notify_nowait("notifications/said", {"n": "lost"})
                await settle()
                assert session.metrics.dropped == 1
                # No client reads, and nothing can be kept.
                assert not s.streams_of(client).reachable
                assert s.streams_of(client).send_message(b"{}")
                assert session.metrics.dropped == 2
                broken[0] = False
                s.script.gates["x"].set()
                assert ids(await response.events()) == [None]
            async with client.stream("POST", do(2, ["say", 1], ["say", 2])) as response:
                events = await response.events()
            await settle()
            assert await come_back(client, events[0].id) == (200, [said(1), said(2), did(2)])
            # The next GET begins another stream.
            async with client.stream("GET") as response:
                first = await response.event()
                session.notify_nowait("notifications/said", {"n": "kept"})
                assert await until_heard(response, 1) == [said("kept")]
            session.notify_nowait("notifications/said", {"n": "later"})
            async with client.stream("GET", headers={"last-event-id": first.id}) as response:
                assert await until_heard(response, 2) == [said("kept"), said("later")]
            await client.request("DELETE")
            assert len([event async for event in told if isinstance(event, Error)]) == 1


class FailingStore:
    """A synchronous store that raises."""

    def __init__(self, *calls: str, error: BaseException | None = None) -> None:
        self.calls = calls
        self.error = error or OSError("disk full")
        self.store = MemoryEventStore()
        self.count = 0

    def open_log(self, name: str) -> FailingStore:
        self.log = self.store.open_log(name)
        self.take("open_log", None)
        return self

    def append(self, stream: int, number: int, message: bytes) -> None:
        self.take("append", None)
        self.log.append(stream, number, message)

    def after(self, stream: int, number: int) -> Any:
        return self.take("after", self.log.after(stream, number))

    def close(self) -> None:
        self.log.close()
        self.take("close", None)

    def take(self, call: str, result: Any) -> Any:
        if call in self.calls:
            self.count += 1
            raise self.error
        return result


@pytest.mark.parametrize("error", [OSError("disk full"), SystemExit(3)])
@pytest.mark.parametrize("call", ["open_log", "append", "after", "close"])
async def test_a_synchronous_store_that_raises(
    call: str, error: BaseException, autojump_clock: MockClock
) -> None:
    store = FailingStore(call, error=error)
    async with site(event_store=store) as s:
        client = await s.client()
        session = s.session_of(client)
        with session.subscribe() as told:
            async with client.stream("POST", do(1, ["say", 1], ["let go"], ["say", 2])) as response:
                events = await response.events()
            await settle()
            status, heard = await come_back(client, events[0].id or "x")
            if call == "open_log":
                # Nothing was promised.
                assert (ids(events), status) == ([None] * 3, 400)
                assert messages(events) == [said(1), said(2), did(1, False)]
            elif call == "append":
                assert (ids(events), status) == ([None] * 3, 410)
                assert messages(events) == [said(1), said(2), did(1, False)]
            else:
                # The handler closed the stream, and the client resumes for the rest.
                assert messages(events) == [said(1)]
                assert (status, heard) == (
                    (410, []) if call == "after" else (200, [said(1), said(2), did(1, True)])
                )
            assert session.termination_reason is None
            await client.request("DELETE")
            failures = [event.error async for event in told if isinstance(event, Error)]
        (report,) = failures
        assert isinstance(report, EventStoreFailed)
        assert report.__cause__ is error or isinstance(report.__cause__, ExitRequested)
        assert session.error is None
        assert len(store.store) == 0


async def test_a_store_that_loses_many_streams_has_failed_for_the_session(
    autojump_clock: MockClock,
) -> None:
    store = FailingStore("append")
    async with site(event_store=store) as s:
        client = await s.client()
        session = s.session_of(client)
        with session.subscribe() as told:
            async with client.stream("GET") as listening:
                primed = await listening.event()
                for number in range(MAX_LOST_STREAMS + 10):
                    await client.request("POST", do(number, ["say", 1]))
                assert store.count == MAX_LOST_STREAMS
                assert not s.streams_of(client).can_poll
                # The stream of GET is told, too, though nothing was sent on it.
                assert (await listening.event()).id == ""
                session.notify_nowait("notifications/said", {"n": 1})
                (event,) = [await listening.event()]
                assert (event.id, event.json) == (None, said(1))
                assert (await come_back(client, primed.id))[0] == 400
            await client.request("DELETE")
            assert len([event async for event in told if isinstance(event, Error)]) == 1


async def test_a_store_that_raises_a_cancellation_of_its_own(autojump_clock: MockClock) -> None:
    caught: list[trio.Cancelled] = []

    async def raise_a_strangers_cancellation() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                caught.append(error)
                raise
        raise caught[0]

    store = at("append", 1, raise_a_strangers_cancellation)
    async with site(event_store=store) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1], ["sleep", 1])) as response:
            events = await response.events()
        assert ids(events)[-1] is None
        assert (await come_back(client, events[0].id))[0] == 410


# Look-ups.


@pytest.mark.parametrize(
    "how, status",
    [
        (fail, 410),
        (exit_program, 410),
        (trio.sleep_forever, 410),
        (EventsPurged, 410),
        (UnknownEvent, 400),
    ],
)
async def test_a_look_up_that_fails_is_a_refusal(
    how: Any, status: int, autojump_clock: MockClock
) -> None:
    async def act() -> None:
        if isinstance(how, type):
            raise how
        await how()

    async with site(event_store=at("after", 0, act)) as s:
        client = await s.client()
        session = s.session_of(client)
        with session.subscribe() as told:
            async with client.stream("POST", do(1, ["say", 1], ["wait", "x"])) as response:
                first = await response.event()
            begin = trio.current_time()
            assert (await come_back(client, first.id))[0] == status
            assert trio.current_time() - begin == (BUDGET if how is trio.sleep_forever else 0)
            s.script.gates["x"].set()
            await client.request("DELETE")
            failures = [event.error async for event in told if isinstance(event, Error)]
        # Purged events are not a failure.
        assert len(failures) == (0 if isinstance(how, type) else 1)


async def test_missed_messages_that_cannot_be_looked_up_count_as_dropped(
    autojump_clock: MockClock,
) -> None:
    async def purged() -> None:
        raise EventsPurged

    for how, dropped in ((purged, 2), (fail, 2)):
        async with site(event_store=at("after", 0, how)) as s:
            client = await s.client()
            session = s.session_of(client)
            for number in (1, 2):
                session.notify_nowait("notifications/said", {"n": number})
            await settle()
            async with client.stream("GET") as response:
                await settle()
                session.notify_nowait("notifications/said", {"n": 3})
                assert await until_heard(response, 1) == [said(3)]
            assert session.metrics.dropped == dropped


async def test_numbers_out_of_order_are_a_failure(autojump_clock: MockClock) -> None:
    class Store(FailingStore):
        def after(self, stream: int, number: int) -> Any:
            return [(2, b"{}"), (1, b"{}")]

    async with site(event_store=Store()) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1], ["say", 2])) as response:
            events = await response.events()
        assert (await come_back(client, events[0].id))[0] == 410


async def test_one_connection_carries_a_stream_after_two_look_ups(
    autojump_clock: MockClock,
) -> None:
    async with site(event_store=at("after", 0, partial(trio.sleep, 1))) as s:
        client = await s.client()
        s.session_of(client).notify_nowait("notifications/said", {"n": 1})
        await settle()
        async with client.stream("GET") as older:
            await settle()
            async with client.stream("GET") as newer:
                heard = messages(await older.events())
                assert (older.status, older.complete) == (200, True)
                # The look-up of the older one may have come first, and then it has heard it.
                assert heard or await until_heard(newer, 1) == [said(1)]
                s.session_of(client).notify_nowait("notifications/said", {"n": 2})
                assert await until_heard(newer, 1) == [said(2)]
                assert not newer.complete
        assert s.session_of(client).metrics.dropped == 0


async def test_what_is_sent_during_a_look_up_is_part_of_it(autojump_clock: MockClock) -> None:
    """A look-up does not see what is stored while it runs."""
    store = at("answer", 0, partial(trio.sleep, 2.5))
    async with site(event_store=store) as s:
        client = await s.client()
        steps = [step for n in range(4) for step in (["say", n], ["sleep", 1])]
        async with client.stream("POST", do(1, *steps)) as response:
            first = await response.event()
        assert await come_back(client, first.id) == (200, [*map(said, range(4)), did(1)])
        assert sum(call == "after" for call, _, _ in store.calls) == 1


async def test_a_stream_that_is_lost_during_a_look_up(autojump_clock: MockClock) -> None:
    async def before(call: str, stream: int, number: int) -> None:
        await trio.sleep({"answer": 2, "append": number}.get(call, 0))
        if (call, number) == ("append", 1):
            raise OSError("disk full")

    async with site(event_store=AsyncStore(before)) as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["let go"], ["say", 1], ["wait", "x"])) as response:
            first = await response.event()
        assert (await come_back(client, first.id))[0] == 410
        assert s.session_of(client).metrics.dropped == 1
        # The same of the stream of GET, which begins anew.
        s.session_of(client).notify_nowait("notifications/said", {"n": 1})
        async with client.stream("GET") as response:
            assert await response.event() != first
            s.session_of(client).notify_nowait("notifications/said", {"n": 2})
            assert await until_heard(response, 1) == [said(2)]
        assert s.session_of(client).metrics.dropped == 2


async def test_an_event_that_is_yet_to_come_is_unknown(autojump_clock: MockClock) -> None:
    async with site() as s:
        client = await s.client()
        async with client.stream("POST", do(1, ["say", 1], ["wait", "x"])) as response:
            first = await response.event()
            assert first.id
            to_come = first.id.removesuffix("0") + "2"
            assert (await come_back(client, to_come))[0] == 400
            assert (await come_back(client, f"{to_come}.last"))[0] == 400


async def test_a_look_up_that_is_given_up_before_it_begins(autojump_clock: MockClock) -> None:
    store = AsyncStore()
    look_up = _LookUp(AsyncLog(store, "log").after(1, 1))
    look_up.abandon()
    await look_up.run()
    assert await look_up.wait(1) is None
    assert store.calls == []


# The end of the session.


async def test_a_store_that_raises_when_it_is_cancelled(autojump_clock: MockClock) -> None:
    async def wait_and_fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("disk full")

    async with site(event_store=at("append", 1, wait_and_fail)) as s:
        session = s.session_of(await s.client())
        with session.subscribe() as told:
            session.notify_nowait("notifications/said", {"n": 1})
            await settle()
            session.terminate()
            failures = [event.error async for event in told if isinstance(event, Error)]
        (report,) = failures
        assert isinstance(report, EventStoreFailed)
        assert session.error is None


@pytest.mark.parametrize("call", ["append", "after", "close"])
async def test_a_store_that_hangs_when_its_session_ends(
    call: str, autojump_clock: MockClock
) -> None:
    store = at(call, 0 if call != "append" else 1, trio.sleep_forever)
    statuses: list[int] = []
    async with site(event_store=store, cleanup=CleanupConfig(flush_budget=1.0)) as s:
        client = await s.client()
        session = s.session_of(client)
        async with client.stream("POST", do(1, ["say", 1], ["wait", "x"])) as response:
            first = await response.event()

        async def resume() -> None:
            statuses.append((await come_back(client, first.id))[0])

        async with trio.open_nursery() as nursery:
            if call == "after":
                nursery.start_soon(resume)
            await settle()
            begin = trio.current_time()
            session.terminate()
            await session.wait_terminated()
            # Only the clean-up of the store is waited for, within the budget.
            assert trio.current_time() - begin == (1 if call == "close" else 0)
        assert statuses == ([404] if call == "after" else [])
        assert session.error is None
        assert (store.logs == {}) is (call != "close")


async def test_a_store_that_cannot_be_cancelled_is_joined(autojump_clock: MockClock) -> None:
    """No task of it is left when the session counts as terminated."""

    async def late() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(3)

    store = at("append", 1, late)
    async with site(event_store=store) as s:
        client = await s.client()
        session = s.session_of(client)
        session.notify_nowait("notifications/said", {"n": 1})
        await settle()
        begin = trio.current_time()
        session.terminate()
        await session.wait_terminated()
        assert trio.current_time() - begin == 3
        assert store.calls[-1] == ("append", 1, 1)


@pytest.mark.parametrize("opens", [True, False])
async def test_an_event_that_comes_before_its_session_is_open(
    opens: bool, autojump_clock: MockClock
) -> None:
    """It is stored when the session opens. Where that never comes, nothing is left to await."""
    store = AsyncStore()
    async with site(event_store=store) as s:

        @asynccontextmanager
        async def lifespan(session: Session) -> AsyncIterator[None]:
            streams = streams_of(session)
            assert streams.send_message(b"{}")
            assert streams.send_message(b"{}")
            await settle()
            assert store.calls == []
            if not opens:
                raise ValueError("as told")
            yield

        s.script.router._parts.lifespan = lifespan
        client = Client(s.app)
        if opens:
            await client.initialize(D)
            await settle()
            assert store.stored() == {1: [1, 2]}
        else:
            with pytest.raises(KeyError, match="mcp-session-id"):
                await client.initialize(D)
            assert store.calls == [("close", 0, 0)]


@pytest.mark.parametrize("call, number", [("append", 1), ("after", 0)])
def test_an_interrupt_in_a_store_is_not_taken_for_a_failure(call: str, number: int) -> None:
    """It is raised in the main program, as everywhere in a session."""

    async def interrupt() -> NoReturn:
        raise KeyboardInterrupt

    async def main() -> None:
        async with site(event_store=at(call, number, interrupt)) as s:
            client = await s.client()
            async with client.stream("POST", do(1, ["say", 1], ["wait", "x"])) as response:
                first = await response.event()
            await come_back(client, first.id)
            await trio.sleep_forever()

    with pytest.raises(BaseException) as caught:  # noqa: PT011  # alone or in a group
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert isinstance(first_of(caught.value), KeyboardInterrupt)


# Any store, any connections.

OUTCOMES = st.sampled_from([0.0, 0.1, 3.0, "raise", 7.0, None])
"""Of a call: seconds that it takes, a failure, too many seconds, or nothing to await."""


@given(
    outcomes=st.lists(OUTCOMES, min_size=1, max_size=10),
    steps=st.lists(st.sampled_from(["say", "sleep", "let go"]), max_size=10),
    reads=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 9.0])), max_size=5),
)
@settings(max_examples=150)
def test_a_client_gets_everything_in_order_or_is_told_that_it_cannot(
    outcomes: list[float | str | None],
    steps: list[str],
    reads: list[tuple[int, float]],
) -> None:
    async def main() -> None:
        store = RandomStore(outcomes)
        wanted = [said(number) for number, step in enumerate(steps) if step == "say"]
        heard: list[Any] = []
        async with site(event_store=store, answers="sse", max_streams=10) as s:
            client = await s.client()
            session = s.session_of(client)
            act = [[step, 1 if step == "sleep" else n] for n, step in enumerate(steps)]
            act = [[step, None if step == "let go" else value] for step, value in act]
            verb, last = "POST", None
            json: Any = do(1, *act)
            told_so = False
            for events, pause in chain(reads, repeat((1_000, 1.0))):  # pragma: no branch
                async with client.stream(verb, json, headers={"last-event-id": last}) as response:
                    if (await response.started()).status != 200:
                        assert response.status in (410, 400)
                        told_so = True
                        break
                    last = await read(response, events, heard, last)
                verb, json = "GET", None
                if (heard[-1:] and "result" in heard[-1]) or not last:
                    break
                await trio.sleep(pause)
            result = heard.pop() if heard[-1:] and "result" in heard[-1] else None
            assert heard == wanted[: len(heard)]
            if result is not None:
                assert heard == wanted
            else:
                assert told_so or not last
                assert store.failed
            assert session.termination_reason is None
            async with client.stream("POST", do(2)) as response:
                assert messages(await response.events()) == [did(2)]

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def read(response: Response, count: int, heard: list[Any], last: str | None) -> str | None:
    """Read so many messages of a stream, or to its end; return the last event id."""
    while count or not last:
        try:
            event = await response.event()
        except trio.EndOfChannel:
            break
        last = event.id
        if event.data:
            heard.append(event.json)
            count -= 1
        if event.id == "":
            break
    return last


class RandomStore:
    """A store whose calls have given outcomes, one after the other."""

    def __init__(self, outcomes: Sequence[float | str | None]) -> None:
        self.outcomes = cycle(outcomes)
        self.events: list[tuple[int, int, bytes]] = []
        self.failed = False

    def open_log(self, name: str) -> RandomStore:
        return self

    def append(self, stream: int, number: int, message: bytes) -> Any:
        return self.call(lambda: self.events.append((stream, number, message)))

    def after(self, stream: int, number: int) -> Any:
        return self.call(
            lambda: [one[1:] for one in self.events if one[0] == stream and one[1] > number]
        )

    def close(self) -> Any:
        return self.call(self.events.clear)

    def call(self, operation: Callable[[], Any]) -> Any:
        outcome = next(self.outcomes)
        if outcome is None:
            return operation()
        if outcome == "raise":
            self.failed = True
            raise OSError("as told")
        return self.wait(float(outcome), operation)

    async def wait(self, seconds: float, operation: Callable[[], Any]) -> Any:
        self.failed |= seconds > BUDGET
        await trio.sleep(seconds)
        return operation()
