"""What was sent on a stream, kept for a client whose connection was cut.

An event's id names the session's log, the stream and the event's place on it: ``TAG.STREAM.N``.
Place 0 is the beginning of the stream, before its first event.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias, final

import attrs
import trio

from ...core.config import at_least_one, positive_seconds

EVENT_OVERHEAD: Final = 200
"""Bytes that an event takes besides its message, by estimate: it counts towards the limits."""

MAX_EVENT_ID_LENGTH: Final = 100
"""Longest text that is taken for an event's id."""

Event: TypeAlias = tuple[str, bytes]
"""An event's id and its message."""


class UnknownEvent(Exception):
    """No event of this session has that id."""


class EventsPurged(Exception):
    """Events after that one are not kept any more: the stream cannot be continued whole.

    Args:
        missing: How many are gone, as far as that is known.
        kept: What came after those, and is kept still.
    """

    def __init__(self, missing: int = 1, kept: Sequence[Event] = ()) -> None:
        super().__init__(missing)
        self.missing = missing
        self.kept = kept


class StreamOver(Exception):
    """The stream ended with that event."""


class EventLog(Protocol):
    """What is kept for one session. Nothing of it is a checkpoint."""

    def open_stream(self) -> int:
        """Begin another stream, and return its number."""
        ...

    def beginning(self, stream: int) -> str:
        """Return the id of the place before the first event of a stream."""
        ...

    def append(self, stream: int, frame: bytes) -> str:
        """Keep a message that goes out on a stream; return its event's id."""
        ...

    def close_stream(self, stream: int) -> None:
        """Learn that no more goes out on a stream. What was sent is kept as before."""
        ...

    def after(self, event_id: str) -> tuple[int, Sequence[Event]]:
        """Return what went out on a stream after one of its events, and the stream's number.

        Args:
            event_id: What the client sent: any text.

        Raises:
            UnknownEvent: It is no event of this session.
            EventsPurged: Some of what went out after it is gone.
        """
        ...

    def close(self) -> None:
        """Forget everything: the session has ended."""
        ...


class EventStore(Protocol):
    """Keeps the events of sessions. `MemoryEventStore` is one."""

    def open_log(self) -> EventLog:
        """Begin to keep the events of another session."""
        ...


@final
@attrs.define(eq=False)
class _Kept:
    log: _MemoryLog
    stream: _Stream
    place: int
    frame: bytes
    time: float

    @property
    def size(self) -> int:
        return len(self.frame) + EVENT_OVERHEAD


@final
@attrs.define(eq=False)
class _Stream:
    number: int
    last: int = 0
    """The place of its newest event."""
    is_open: bool = True
    kept: deque[_Kept] = attrs.field(factory=deque[_Kept])


@final
@attrs.define(eq=False, kw_only=True)
class MemoryEventStore:
    """Keeps events in memory, within bounds; the oldest go first."""

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
    """All events, the oldest first: of one log, too, they lie in its order."""
    _size: int = attrs.field(default=0, init=False, repr=False)

    def __len__(self) -> int:
        return len(self._events)

    @property
    def size(self) -> int:
        """Bytes that are kept now, for all sessions."""
        return self._size

    def open_log(self) -> EventLog:
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
        # The oldest of all is the oldest of its log.
        next(iter(self._events)).log._purge_oldest()

    def _forget(self, event: _Kept) -> None:
        del self._events[event]
        self._size -= event.size


@final
@attrs.define(eq=False)
class _MemoryLog:
    """The events of one session, the oldest first."""

    _store: MemoryEventStore
    _tag: str = attrs.field(factory=lambda: secrets.token_urlsafe(9), init=False)
    _events: deque[_Kept] = attrs.field(factory=deque[_Kept], init=False)
    _size: int = attrs.field(default=0, init=False)
    _streams: dict[int, _Stream] = attrs.field(factory=dict[int, _Stream], init=False)
    _newest: int = attrs.field(default=0, init=False)

    def open_stream(self) -> int:
        """See `EventLog.open_stream`."""
        self._newest += 1
        self._streams[self._newest] = _Stream(self._newest)
        return self._newest

    def beginning(self, stream: int) -> str:
        """See `EventLog.beginning`."""
        return self._name(stream, 0)

    def append(self, stream: int, frame: bytes) -> str:
        """See `EventLog.append`."""
        on = self._streams[stream]
        on.last += 1
        event = _Kept(self, on, on.last, frame, trio.current_time())
        on.kept.append(event)
        self._events.append(event)
        self._size += event.size
        self._store._keep(event)
        # Its own bounds first: a session that keeps too much is at nobody else's expense.
        while (
            self._size > self._store.max_session_bytes
            or len(self._events) > self._store.max_session_events
        ):
            self._purge_oldest()
        self._store._make_room(event.time)
        return self._name(stream, event.place)

    def close_stream(self, stream: int) -> None:
        """See `EventLog.close_stream`."""
        on = self._streams[stream]
        on.is_open = False
        self._tidy(on)

    def after(self, event_id: str) -> tuple[int, Sequence[Event]]:
        """See `EventLog.after`."""
        number, place = self._read(event_id)
        self._store._purge_old(trio.current_time())
        stream = self._streams.get(number)
        if stream is None:
            raise EventsPurged
        if place > stream.last:
            raise UnknownEvent
        oldest = stream.kept[0].place if stream.kept else stream.last + 1
        events = [
            (self._name(number, event.place), event.frame)
            for event in stream.kept
            if event.place > place
        ]
        if oldest > place + 1:
            raise EventsPurged(oldest - place - 1, events)
        return number, events

    def close(self) -> None:
        """See `EventLog.close`."""
        while self._events:
            self._purge_oldest()
        self._streams.clear()

    def _purge_oldest(self) -> None:
        """Let go of one event: the one place where that happens."""
        event = self._events.popleft()
        self._size -= event.size
        self._store._forget(event)
        event.stream.kept.popleft()
        self._tidy(event.stream)

    def _tidy(self, stream: _Stream) -> None:
        """Forget a stream of which nothing is left, and to which nothing will be added."""
        if not stream.is_open and not stream.kept:
            del self._streams[stream.number]

    def _name(self, stream: int, place: int) -> str:
        return f"{self._tag}.{stream}.{place}"

    def _read(self, event_id: str) -> tuple[int, int]:
        tag, _, rest = event_id.partition(".")
        number, _, place = rest.partition(".")
        # Its length first: the conversion of a long text to a number is slow.
        if tag != self._tag or len(event_id) > MAX_EVENT_ID_LENGTH:
            raise UnknownEvent
        if not (_is_number(number) and _is_number(place)):
            raise UnknownEvent
        if not 1 <= int(number) <= self._newest:
            raise UnknownEvent
        return int(number), int(place)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
