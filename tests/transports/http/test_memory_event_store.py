"""The event store in memory: it keeps exactly what its bounds allow."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from typing import Any, cast, final

import attrs
import pytest
import trio
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import MockClock, assert_no_checkpoints

from tests.leaks.guest import Guest
from trio_mcp_session.transports.http.event_store import EventLog, StoredEvent
from trio_mcp_session.transports.http.memory_event_store import EVENT_OVERHEAD, MemoryEventStore


def after(log: EventLog, stream: int, number: int) -> Sequence[StoredEvent]:
    """What a log that does not wait returns."""
    return cast("Sequence[StoredEvent]", log.after(stream, number))


async def test_what_came_after_an_event_of_one_stream() -> None:
    store = MemoryEventStore()
    with assert_no_checkpoints():
        log = store.open_log("log")
        for stream, number, message in ((1, 1, b"a"), (2, 1, b"x"), (1, 2, b"b")):
            assert log.append(stream, number, message) is None
        assert after(log, 1, 0) == [(1, b"a"), (2, b"b")]
        assert after(log, 1, 1) == [(2, b"b")]
        assert after(log, 1, 2) == []
        assert after(log, 2, 0) == [(1, b"x")]
        assert after(log, 3, 0) == []
        assert log.close() is None
    assert (len(store), store.size) == (0, 0)


async def test_logs_do_not_share_events() -> None:
    store = MemoryEventStore()
    one, other = store.open_log("one"), store.open_log("other")
    one.append(1, 1, b"a")
    assert after(other, 1, 0) == []
    other.close()
    assert after(one, 1, 0) == [(1, b"a")]


# Bounds, each at its edge.


def kept(log: EventLog, stream: int = 1) -> list[int]:
    """The numbers of the events that are kept."""
    return [number for number, _ in after(log, stream, 0)]


@pytest.mark.parametrize(
    "bounds",
    [
        {"max_session_events": 3},
        {"max_session_bytes": 3 * (EVENT_OVERHEAD + 10)},
        {"max_bytes": 3 * (EVENT_OVERHEAD + 10)},
    ],
)
async def test_the_oldest_event_is_dropped_above_each_limit(bounds: dict[str, Any]) -> None:
    store = MemoryEventStore(**bounds)
    log = store.open_log("log")
    for number in (1, 2, 3):
        log.append(1, number, b"x" * 10)
    assert kept(log) == [1, 2, 3]
    assert (len(store), store.size) == (3, 3 * (EVENT_OVERHEAD + 10))
    log.append(1, 4, b"x" * 10)
    assert kept(log) == [2, 3, 4]
    # One byte more pushes two out, where bytes are what counts.
    log.append(1, 5, b"x" * 11)
    assert kept(log) == ([3, 4, 5] if "max_session_events" in bounds else [4, 5])


async def test_what_is_larger_than_all_is_not_kept() -> None:
    for bounds in ({"max_session_bytes": 300}, {"max_bytes": 300}):
        store = MemoryEventStore(**bounds)
        log = store.open_log("log")
        log.append(1, 1, b"x" * 101)
        assert (len(store), store.size) == (0, 0)
        assert kept(log) == []


async def test_events_are_dropped_at_their_age(autojump_clock: MockClock) -> None:
    store = MemoryEventStore(max_age=10)
    log, other = store.open_log("log"), store.open_log("other")
    log.append(1, 1, b"1")
    await trio.sleep(5)
    other.append(1, 1, b"2")
    await trio.sleep(4.9)
    assert kept(log) == [1]
    await trio.sleep(0.1)
    assert kept(log) == []
    assert len(store) == 1
    await trio.sleep(5)
    # A log that is appended to sweeps for all.
    log.append(1, 2, b"3")
    assert len(store) == 1


async def test_sessions_share_the_store_but_not_their_bounds() -> None:
    size = EVENT_OVERHEAD + 1
    store = MemoryEventStore(max_bytes=4 * size, max_session_events=2)
    quiet, noisy = store.open_log("quiet"), store.open_log("noisy")
    for number in (1, 2):
        quiet.append(1, number, b"q")
    for number in range(1, 101):
        noisy.append(1, number, b"n")
    # The session that sends too much loses its own events.
    assert kept(quiet) == [1, 2]
    third = store.open_log("third")
    third.append(1, 1, b"t")
    assert kept(quiet) == [2]
    quiet.close()
    assert (len(store), store.size) == (3, 3 * size)
    noisy.close()
    third.close()
    assert (len(store), store.size) == (0, 0)


async def test_an_event_that_is_dropped_is_freed_at_once() -> None:
    store = MemoryEventStore(max_session_events=1)
    log = store.open_log("log")
    gc.collect()
    gc.disable()
    try:
        for number in range(1, 10):
            log.append(number, 1, b"x")
        events = [one for one in gc.get_objects() if type(one).__name__ == "_Kept"]
    finally:
        gc.enable()
    assert len(events) == 1


@pytest.mark.parametrize("per_stream", [1, 2, 500])
@pytest.mark.parametrize("per_session", [1, 4, 500])
async def test_the_store_counts_the_bytes_that_the_allocator_gives(
    per_session: int, per_stream: int
) -> None:
    store = MemoryEventStore(max_bytes=2**30)
    logs = [store.open_log("log") for _ in range(2000 // per_session)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for log in logs:
            for number in range(per_session):
                message = b"x" * 170 + str(number).encode()
                log.append(1000 + number // per_stream, 1 + number % per_stream, message)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.8 < store.size / taken < 1.5


@pytest.mark.parametrize("name", ["max_bytes", "max_session_bytes", "max_session_events"])
def test_bad_limits_of_the_event_store_are_refused_by_name(name: str) -> None:
    values: list[Any] = [0, -1, 1.5, True, None]
    for value in values:
        with pytest.raises(ValueError, match=name):
            MemoryEventStore(**{name: value})
    with pytest.raises(ValueError, match="max_age"):
        MemoryEventStore(max_age=0)
    assert repr(MemoryEventStore()).startswith("MemoryEventStore(max_bytes=67108864, ")


# Against a model.


@final
@attrs.define(eq=False)
class Record:
    """One event, as the model knows it."""

    log: int
    stream: int
    place: int
    frame: bytes
    time: float

    @property
    def size(self) -> int:
        return len(self.frame) + EVENT_OVERHEAD


class EventStoreMachine(RuleBasedStateMachine):
    """Any number of sessions and streams, and a list of what should be kept, oldest first."""

    @initialize(
        max_bytes=st.integers(1, 2_000),
        max_session_bytes=st.integers(1, 3_000),
        max_session_events=st.integers(1, 6),
        max_age=st.integers(1, 20),
    )
    def begin(self, **bounds: int) -> None:
        self.guest = Guest()
        self.store = MemoryEventStore(**bounds)
        self.logs: list[EventLog | None] = []
        self.kept: list[Record] = []
        self.last: dict[tuple[int, int], int] = {}
        self.now = 0.0

    def teardown(self) -> None:
        self.guest.run(self._close_all)
        assert (len(self.store), self.store.size, self.store._all.oldest) == (0, 0, None)
        self.guest.close()

    async def _close_all(self) -> None:
        for log in self.logs:
            if log is not None:
                log.close()

    @rule()
    def open_log(self) -> None:
        self.logs.append(self.store.open_log(str(len(self.logs))))

    def open_logs(self) -> list[int]:
        return [number for number, log in enumerate(self.logs) if log is not None]

    def open_streams(self) -> list[tuple[int, int]]:
        return [stream for stream in self.last if self.logs[stream[0]] is not None]

    @precondition(lambda self: self.open_logs())
    @rule(data=st.data())
    def open_stream(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.open_logs()))
        self.last[number, 1 + sum(log == number for log, _ in self.last)] = 0

    @precondition(lambda self: self.open_streams())
    @rule(data=st.data(), size=st.integers(0, 600))
    def append(self, data: st.DataObject, size: int) -> None:
        number, stream = data.draw(st.sampled_from(self.open_streams()))
        self.guest.run(self._append, number, stream, b"x" * size)

    async def _append(self, number: int, stream: int, frame: bytes) -> None:
        log = self.logs[number]
        assert log is not None
        self.last[number, stream] += 1
        place = self.last[number, stream]
        assert log.append(stream, place, frame) is None
        self.kept.append(Record(number, stream, place, frame, self.now))
        own = [record for record in self.kept if record.log == number]
        while own and (
            sum(record.size for record in own) > self.store.max_session_bytes
            or len(own) > self.store.max_session_events
        ):
            self.kept.remove(own.pop(0))
        self.forget_the_old()
        size = sum(record.size for record in self.kept)
        while size > self.store.max_bytes:  # pragma: no branch  # in some examples only
            size -= self.kept.pop(0).size  # pragma: no cover  # the same

    def forget_the_old(self) -> None:
        self.kept = [one for one in self.kept if self.now - one.time < self.store.max_age]

    @precondition(lambda self: self.open_logs())
    @rule(data=st.data())
    def close_log(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.open_logs()))
        log = self.logs[number]
        assert log is not None
        log.close()
        self.logs[number] = None
        self.kept = [record for record in self.kept if record.log != number]

    @rule(seconds=st.integers(1, 6))
    def time_passes(self, seconds: int) -> None:
        self.guest.clock.jump(seconds)
        self.now += seconds

    @precondition(lambda self: self.open_streams())
    @rule(data=st.data())
    def look_up(self, data: st.DataObject) -> None:
        number, stream = data.draw(st.sampled_from(self.open_streams()))
        place = data.draw(st.integers(0, self.last[number, stream]))
        self.guest.run(self._look_up, number, stream, place)

    async def _look_up(self, number: int, stream: int, place: int) -> None:
        log = self.logs[number]
        assert log is not None
        self.forget_the_old()
        assert after(log, stream, place) == [
            (one.place, one.frame)
            for one in self.kept
            if (one.log, one.stream) == (number, stream) and one.place > place
        ]

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.store) == len(self.kept)
        assert self.store.size == sum(record.size for record in self.kept) <= self.store.max_bytes


TestEventStoreMachine = EventStoreMachine.TestCase
TestEventStoreMachine.settings = settings(max_examples=60, stateful_step_count=40)
