"""What is kept for clients that come back: exactly what the bounds allow, under ids of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, final

import attrs
import pytest
import trio
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import MockClock, assert_no_checkpoints

from tests.leaks.guest import Guest
from trio_mcp_session.transports.http.event_store import (
    EVENT_OVERHEAD,
    MAX_EVENT_ID_LENGTH,
    Event,
    EventLog,
    EventsPurged,
    MemoryEventStore,
    UnknownEvent,
)


def frames(events: Sequence[Event]) -> list[bytes]:
    return [frame for _, frame in events]


async def test_what_came_after_an_event_of_one_stream() -> None:
    store = MemoryEventStore()
    with assert_no_checkpoints():
        log = store.open_log()
        one, two = log.open_stream(), log.open_stream()
        assert one != two
        start = log.beginning(one)
        ids = [log.append(one, b"a"), log.append(two, b"x"), log.append(one, b"b")]
        assert log.after(start) == (one, [(ids[0], b"a"), (ids[2], b"b")])
        assert log.after(ids[0]) == (one, [(ids[2], b"b")])
        assert log.after(ids[2]) == (one, [])
        assert log.after(log.beginning(two)) == (two, [(ids[1], b"x")])
        # That a stream is finished changes nothing of that.
        log.close_stream(one)
        assert log.after(ids[0]) == (one, [(ids[2], b"b")])
        log.close()
    assert (len(store), store.size) == (0, 0)


async def test_ids_are_of_one_log_and_name_their_stream() -> None:
    store = MemoryEventStore()
    logs = [store.open_log() for _ in range(50)]
    ids = []
    for log in logs:
        for stream in (log.open_stream(), log.open_stream()):
            ids += [log.beginning(stream), log.append(stream, b"1"), log.append(stream, b"2")]
    assert len(set(ids)) == len(ids)
    for number, event_id in enumerate(ids):
        assert event_id.isascii()
        assert event_id.isprintable()
        assert len(event_id) < MAX_EVENT_ID_LENGTH
        for which, log in enumerate(logs):
            if which != number // 6:
                with pytest.raises(UnknownEvent):
                    log.after(event_id)
        assert logs[number // 6].after(event_id)[0] == 1 + number // 3 % 2


def malformed(event_id: str) -> dict[str, str]:
    """Ids that are nearly the given one."""
    tag, stream, place = event_id.split(".")
    return {
        "nothing": "",
        "a tag": tag,
        "no place": f"{tag}.{stream}",
        "an empty place": f"{tag}.{stream}.",
        "an empty stream": f"{tag}..{place}",
        "another tag": f"x{tag}.{stream}.{place}",
        "another case": f"{tag.swapcase()}.{stream}.{place}",
        "no such stream": f"{tag}.{int(stream) + 1}.{place}",
        "stream 0": f"{tag}.0.0",
        "a place to come": f"{tag}.{stream}.{int(place) + 1}",
        "too much": f"{event_id}.1",
        "a sign": f"{tag}.{stream}.-1",
        "a plus": f"{tag}.{stream}.+{place}",
        "space": f"{tag}.{stream}. {place}",
        "more space": f"{event_id} ",
        "a fraction": f"{tag}.{stream}.1.0",
        "other digits": f"{tag}.{stream}.\N{ARABIC-INDIC DIGIT ONE}",
        "superscript": f"{tag}.{stream}.\N{SUPERSCRIPT TWO}",
        "too long": f"{tag}.{stream}.{place.zfill(MAX_EVENT_ID_LENGTH)}",
        "far too long": f"{tag}.{stream}.{'9' * 100_000}",
        "NUL": f"{event_id}\0",
    }


@pytest.mark.parametrize("what", malformed("a.1.1"))
async def test_whatever_else_is_no_event(what: str) -> None:
    log = MemoryEventStore().open_log()
    event_id = log.append(log.open_stream(), b"a")
    assert log.after(event_id) == (1, [])
    with pytest.raises(UnknownEvent):
        log.after(malformed(event_id)[what])


@given(st.text())
def test_any_text_is_an_event_or_is_not(text: str) -> None:
    async def main() -> None:
        log = MemoryEventStore().open_log()
        log.append(log.open_stream(), b"a")
        tag = log.beginning(1).split(".")[0]
        for event_id in (text, f"{tag}.{text}", f"{tag}.1.{text}"):
            with suppress(UnknownEvent):
                assert log.after(event_id)[0] == 1

    trio.run(main)


# Bounds, each at its edge.


def kept(log: EventLog, ids: Sequence[str]) -> list[bool]:
    """Which events are kept: what came before a kept one can be named."""
    stream = ids[0].rsplit(".", 1)[0]
    found = []
    for event_id in ids:
        place = int(event_id.rsplit(".", 1)[1])
        try:
            log.after(f"{stream}.{place - 1}")
            found.append(True)
        except EventsPurged:
            found.append(False)
    return found


@pytest.mark.parametrize(
    "bounds",
    [
        {"max_session_events": 3},
        {"max_session_bytes": 3 * (EVENT_OVERHEAD + 10)},
        {"max_bytes": 3 * (EVENT_OVERHEAD + 10)},
    ],
)
async def test_the_oldest_goes_when_there_is_one_too_many(bounds: dict[str, Any]) -> None:
    store = MemoryEventStore(**bounds)
    log = store.open_log()
    stream = log.open_stream()
    ids = [log.append(stream, b"x" * 10) for _ in range(3)]
    assert kept(log, ids) == [True] * 3
    assert (len(store), store.size) == (3, 3 * (EVENT_OVERHEAD + 10))
    ids.append(log.append(stream, b"x" * 10))
    assert kept(log, ids) == [False, True, True, True]
    # One byte more pushes two out, where bytes are what counts.
    ids.append(log.append(stream, b"x" * 11))
    gone = 2 if "max_session_events" in bounds else 3
    assert kept(log, ids) == [False] * gone + [True] * (5 - gone)


async def test_what_is_larger_than_all_is_not_kept() -> None:
    for bounds in ({"max_session_bytes": 300}, {"max_bytes": 300}):
        store = MemoryEventStore(**bounds)
        log = store.open_log()
        stream = log.open_stream()
        event_id = log.append(stream, b"x" * 101)
        assert (len(store), store.size) == (0, 0)
        # It was sent all the same, and has its place.
        assert log.after(event_id) == (stream, [])
        with pytest.raises(EventsPurged):
            log.after(log.beginning(stream))


async def test_age(autojump_clock: MockClock) -> None:
    store = MemoryEventStore(max_age=10)
    log, other = store.open_log(), store.open_log()
    stream = log.open_stream()
    first = log.append(stream, b"1")
    await trio.sleep(5)
    other.append(other.open_stream(), b"2")
    await trio.sleep(4.9)
    assert frames(log.after(log.beginning(stream))[1]) == [b"1"]
    await trio.sleep(0.1)
    with pytest.raises(EventsPurged):
        log.after(log.beginning(stream))
    assert log.after(first) == (stream, [])
    assert len(store) == 1
    await trio.sleep(5)
    # Whoever keeps something sweeps for all.
    log.append(stream, b"3")
    assert len(store) == 1


async def test_sessions_share_the_store_but_not_their_bounds() -> None:
    size = EVENT_OVERHEAD + 1
    store = MemoryEventStore(max_bytes=4 * size, max_session_events=2)
    quiet, noisy = store.open_log(), store.open_log()
    streams = quiet.open_stream(), noisy.open_stream()
    for _ in range(2):
        quiet.append(streams[0], b"q")
    for _ in range(100):
        noisy.append(streams[1], b"n")
    # The one that sends too much pays for it.
    assert frames(quiet.after(quiet.beginning(streams[0]))[1]) == [b"q"] * 2
    third = store.open_log()
    third.append(third.open_stream(), b"t")
    with pytest.raises(EventsPurged):
        quiet.after(quiet.beginning(streams[0]))
    quiet.close()
    assert (len(store), store.size) == (3, 3 * size)
    noisy.close()
    third.close()
    assert (len(store), store.size) == (0, 0)


async def test_a_finished_stream_is_forgotten_with_its_last_event() -> None:
    store = MemoryEventStore(max_session_events=1)
    log = store.open_log()
    empty, one, two = (log.open_stream() for _ in range(3))
    log.close_stream(empty)
    last = log.append(one, b"1")
    log.close_stream(one)
    assert log.after(last) == (one, [])
    log.append(two, b"2")
    for gone in (log.beginning(empty), log.beginning(one), last):
        with pytest.raises(EventsPurged):
            log.after(gone)
    assert list(log._streams) == [two]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["max_bytes", "max_session_bytes", "max_session_events"])
def test_bounds_are_checked(name: str) -> None:
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
        self.finished: set[tuple[int, int]] = set()
        self.ids: list[tuple[int, int, int, str]] = []
        self.now = 0.0

    def teardown(self) -> None:
        self.guest.run(self._close_all)
        assert (len(self.store), self.store.size, self.store._events) == (0, 0, {})
        self.guest.close()

    async def _close_all(self) -> None:
        for log in self.logs:
            if log is not None:
                log.close()

    @rule()
    def open_log(self) -> None:
        self.logs.append(self.store.open_log())

    def open_logs(self) -> list[int]:
        return [number for number, log in enumerate(self.logs) if log is not None]

    def open_streams(self) -> list[tuple[int, int]]:
        return [s for s in self.last if s not in self.finished and self.logs[s[0]] is not None]

    @precondition(lambda self: self.open_logs())
    @rule(data=st.data())
    def open_stream(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.open_logs()))
        log = self.logs[number]
        assert log is not None
        stream = log.open_stream()
        assert (number, stream) not in self.last
        self.last[number, stream] = 0
        self.ids.append((number, stream, 0, log.beginning(stream)))

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
        self.ids.append((number, stream, place, log.append(stream, frame)))
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

    @precondition(lambda self: self.open_streams())
    @rule(data=st.data())
    def finish_stream(self, data: st.DataObject) -> None:
        number, stream = data.draw(st.sampled_from(self.open_streams()))
        log = self.logs[number]
        assert log is not None
        log.close_stream(stream)
        self.finished.add((number, stream))

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

    @precondition(lambda self: self.ids and self.open_logs())
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        number, stream, place, event_id = data.draw(st.sampled_from(self.ids))
        asked = data.draw(st.sampled_from(self.open_logs()))
        self.guest.run(self._come_back, asked, number, stream, place, event_id)

    async def _come_back(
        self, asked: int, number: int, stream: int, place: int, event_id: str
    ) -> None:
        log = self.logs[asked]
        assert log is not None
        if asked != number:
            with pytest.raises(UnknownEvent):
                log.after(event_id)
            return
        self.forget_the_old()
        of_stream = [one for one in self.kept if (one.log, one.stream) == (number, stream)]
        wanted = range(place + 1, self.last[number, stream] + 1)
        found = [one for one in of_stream if one.place in wanted]
        forgotten = (number, stream) in self.finished and not of_stream
        if forgotten or len(found) < len(wanted):
            with pytest.raises(EventsPurged):
                log.after(event_id)
            return
        at, events = log.after(event_id)
        assert at == stream
        names = {(n, s, p): name for n, s, p, name in self.ids}
        assert list(events) == [(names[number, stream, one.place], one.frame) for one in found]

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.store) == len(self.kept)
        assert self.store.size == sum(record.size for record in self.kept) <= self.store.max_bytes


TestEventStoreMachine = EventStoreMachine.TestCase
TestEventStoreMachine.settings = settings(max_examples=60, stateful_step_count=40)
