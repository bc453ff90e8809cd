"""The event store that is used by default: in memory, within bounds."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final, final

import attrs
import trio

from ...core.config import at_least_one, positive_seconds
from .event_store import EventLog, StoredEvent

EVENT_OVERHEAD: Final = 200
"""Bytes that an event takes besides its message, by estimate. They count towards the bounds."""


@final
@attrs.define(eq=False)
class _Kept:
    log: _MemoryLog
    stream: int
    number: int
    message: bytes
    time: float

    @property
    def size(self) -> int:
        return len(self.message) + EVENT_OVERHEAD


@final
@attrs.define(eq=False, kw_only=True)
class MemoryEventStore:
    """Keeps events in memory, within bounds; the oldest are dropped first. It never waits."""

    max_bytes: int = attrs.field(default=64 * 2**20, validator=at_least_one)
    """Bytes of all sessions together."""

    max_session_bytes: int = attrs.field(default=2**20, validator=at_least_one)
    """Bytes of one session."""

    max_session_events: int = attrs.field(default=1_000, validator=at_least_one)
    """Events of one session."""

    max_age: float = attrs.field(default=300.0, validator=positive_seconds)
    """Seconds that an event is kept."""

    _events: OrderedDict[_Kept, None] = attrs.field(
        factory=OrderedDict[_Kept, None], init=False, repr=False
    )
    """All events, the oldest first. Those of one log are in the log's own order."""
    _size: int = attrs.field(default=0, init=False, repr=False)

    def __len__(self) -> int:
        return len(self._events)

    @property
    def size(self) -> int:
        """Bytes that are kept now, for all sessions."""
        return self._size

    def open_log(self, name: str) -> EventLog:  # noqa: ARG002  # the object itself is the key
        """See `EventStore.open_log`."""
        return _MemoryLog(self)

    def _keep(self, event: _Kept) -> None:
        self._events[event] = None
        self._size += event.size

    def _make_room(self, now: float) -> None:
        self._purge_old(now)
        while self._size > self.max_bytes:
            self._purge_oldest()

    def _purge_old(self, now: float) -> None:
        while self._events and now - next(iter(self._events)).time >= self.max_age:
            self._purge_oldest()

    def _purge_oldest(self) -> None:
        # The oldest event of all is the oldest of its log.
        next(iter(self._events)).log._purge_oldest()

    def _remove(self, event: _Kept) -> None:
        del self._events[event]
        self._size -= event.size


@final
@attrs.define(eq=False)
class _MemoryLog:
    """The events of one session, the oldest first."""

    _store: MemoryEventStore
    _events: deque[_Kept] = attrs.field(factory=deque[_Kept], init=False)
    _size: int = attrs.field(default=0, init=False)
    _streams: dict[int, deque[_Kept]] = attrs.field(factory=dict[int, "deque[_Kept]"], init=False)
    """The events of each stream that has any."""

    def append(self, stream: int, number: int, message: bytes) -> None:
        """See `EventLog.append`."""
        event = _Kept(self, stream, number, message, trio.current_time())
        self._streams.setdefault(stream, deque()).append(event)
        self._events.append(event)
        self._size += event.size
        self._store._keep(event)
        # The session's own bounds come first: what it keeps too much costs no other session.
        while (
            self._size > self._store.max_session_bytes
            or len(self._events) > self._store.max_session_events
        ):
            self._purge_oldest()
        self._store._make_room(event.time)

    def after(self, stream: int, number: int) -> Sequence[StoredEvent]:
        """See `EventLog.after`."""
        self._store._purge_old(trio.current_time())
        kept = self._streams.get(stream, ())
        return [(event.number, event.message) for event in kept if event.number > number]

    def close(self) -> None:
        """See `EventLog.close`."""
        while self._events:
            self._purge_oldest()

    def _purge_oldest(self) -> None:
        """Drop one event: the one place where that happens."""
        event = self._events.popleft()
        self._size -= event.size
        self._store._remove(event)
        stream = self._streams[event.stream]
        stream.popleft()
        if not stream:
            del self._streams[event.stream]
