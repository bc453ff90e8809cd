"""The event store that is used by default: in memory, within bounds.

An event is one object besides its message. It is linked to the next event of its log, and to the
events before and after it of all logs; so it takes no place in any other collection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import attrs
import trio

from ...core.config import at_least_one, positive_seconds
from .event_store import EventLog, StoredEvent

EVENT_OVERHEAD: Final = 200
"""Bytes that an event takes besides its message, as measured. They count towards the bounds."""


@final
@attrs.define(eq=False, weakref_slot=False, on_setattr=None)
class _Kept:
    log: _MemoryLog
    stream: int
    number: int
    message: bytes
    time: float
    older: _Kept | None
    """The event before it, of any log."""
    newer: _Kept | None = attrs.field(default=None, init=False)
    """The event after it, of any log."""
    following: _Kept | None = attrs.field(default=None, init=False)
    """The next event of its log."""


@final
@attrs.define(eq=False)
class _AllKept:
    """The events of all sessions, the oldest first. Those of one log are in the log's own order.

    Apart from `MemoryEventStore`, whose attributes are checked whenever they are set.
    """

    oldest: _Kept | None = attrs.field(default=None, init=False)
    newest: _Kept | None = attrs.field(default=None, init=False)
    count: int = attrs.field(default=0, init=False)
    size: int = attrs.field(default=0, init=False)

    def add(self, event: _Kept, size: int) -> None:
        """Make an event, which is linked to the newest one, the newest."""
        newest = event.older
        if newest is None:
            self.oldest = event
        else:
            newest.newer = event
        self.newest = event
        self.count += 1
        self.size += size

    def remove(self, event: _Kept, size: int) -> None:
        """Remove an event: no other refers to it then."""
        older, newer = event.older, event.newer
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
        if newer is None:
            self.newest = older
        else:
            newer.older = older
        self.count -= 1
        self.size -= size


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

    _all: _AllKept = attrs.field(factory=_AllKept, init=False, repr=False)

    def __len__(self) -> int:
        return self._all.count

    @property
    def size(self) -> int:
        """Bytes that are kept now, for all sessions."""
        return self._all.size

    def open_log(self, name: str) -> EventLog:  # noqa: ARG002  # the object itself is the key
        """See `EventStore.open_log`."""
        return _MemoryLog(self, self._all)

    def _purge(self, now: float) -> None:
        """Drop what is too old, and what does not fit in the bounds of all."""
        kept = self._all
        while (oldest := kept.oldest) is not None and (
            now - oldest.time >= self.max_age or kept.size > self.max_bytes
        ):
            oldest.log._purge_oldest()  # The oldest event of all is the oldest of its log.


@final
@attrs.define(eq=False)
class _MemoryLog:
    """The events of one session, the oldest first."""

    _store: MemoryEventStore
    _all: _AllKept
    _first: _Kept | None = attrs.field(default=None, init=False)
    _last: _Kept | None = attrs.field(default=None, init=False)
    _count: int = attrs.field(default=0, init=False)
    _size: int = attrs.field(default=0, init=False)

    def append(self, stream: int, number: int, message: bytes) -> None:
        """See `EventLog.append`."""
        store, last = self._store, self._last
        now, size = trio.current_time(), len(message) + EVENT_OVERHEAD
        event = _Kept(self, stream, number, message, now, self._all.newest)
        if last is None:
            self._first = event
        else:
            last.following = event
        self._last = event
        self._count += 1
        self._size += size
        self._all.add(event, size)
        # The session's own bounds come first: what it keeps too much costs no other session.
        while self._size > store.max_session_bytes or self._count > store.max_session_events:
            self._purge_oldest()
        store._purge(now)

    def after(self, stream: int, number: int) -> Sequence[StoredEvent]:
        """See `EventLog.after`. It reads all events of the session."""
        self._store._purge(trio.current_time())
        found: list[StoredEvent] = []
        event = self._first
        while event is not None:
            if event.stream == stream and event.number > number:
                found.append((event.number, event.message))
            event = event.following
        return found

    def close(self) -> None:
        """See `EventLog.close`."""
        while self._first is not None:
            self._purge_oldest()

    def _purge_oldest(self) -> None:
        """Drop one event: the one place where that happens."""
        event = self._first
        assert event is not None
        self._first = event.following
        if self._first is None:
            self._last = None
        size = len(event.message) + EVENT_OVERHEAD
        self._count -= 1
        self._size -= size
        self._all.remove(event, size)
