"""What a session keeps in its event store, whatever the store does.

A store is user code: its disk may be full, its database may hang. `SessionLog` calls it for one
session, and `StreamLog` for one stream. Neither raises what a store raises, and a message goes to
its client without waiting for the store.

Where `EventLog.append` returns an awaitable, a service task of the session awaits it. Later
messages of the stream wait behind it, in memory, and a client that reconnects gets them, too. They
are bounded as output is: from `SessionLimits.max_output` bytes on, code that sends on the stream
waits. A store that does not wait costs neither a task nor a checkpoint.

Where the store raises, or takes longer than `HttpOptions.event_store_timeout`, the stream is lost:
it can no longer be resumed. Other streams still use the store, until `MAX_LOST_STREAMS` are
lost: then the store has failed for the whole session. So it has where no log can be opened.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from ...core.errors import EventStoreFailed, SessionTerminated
from ...sessions.failures import contained, report_or_raise
from .event_ids import EventId, read_event_id
from .event_store import EventLog, EventsPurged, EventStore, StoredEvent, UnknownEvent
from .ticker import Ticker

if TYPE_CHECKING:
    from ...sessions.session import Session

MAX_LOST_STREAMS: Final = 100
"""Lost streams of a session, after which its store is not called again."""


class StreamOver(Exception):
    """The stream ended with that event."""


@final
@attrs.frozen
class Found:
    """What was sent on a stream after one of its events, as far as it is kept."""

    events: Sequence[StoredEvent]
    missing: int = 0
    """How many events are gone."""


@final
@attrs.define(eq=False)
class StreamLog:
    """The events of one stream. Only `after` and `wait_for_progress` may wait."""

    _session_log: SessionLog
    number: int
    """The stream's number in its session."""
    _on_lost: Callable[[], None] | None
    """Called when the stream can no longer be resumed; None when it needs no notice."""
    last: int = attrs.field(default=0, init=False)
    """The number of the newest event."""
    lost: bool = attrs.field(default=False, init=False)
    """Whether the stream can no longer be resumed."""
    _finished: bool = attrs.field(default=False, init=False)
    _waiting: deque[StoredEvent] = attrs.field(factory=deque[StoredEvent], init=False)
    """Events that are not stored yet. The store is busy with the first."""
    _stored_meanwhile: list[StoredEvent] = attrs.field(factory=list[StoredEvent], init=False)
    """Events that were stored while a look-up runs, which may not find them."""
    _look_ups: int = attrs.field(default=0, init=False)
    _waiting_size: int = attrs.field(default=0, init=False)
    """Bytes of both."""
    _unstarted: Awaitable[object] | None = attrs.field(default=None, init=False)
    """What the store returned for the first of them, until the task awaits it."""
    _scope: trio.CancelScope | None = attrs.field(default=None, init=False)
    """Around the calls of the store, while they are awaited."""
    _busy_since: float = attrs.field(default=inf, init=False)
    _progress: trio.Event | None = attrs.field(default=None, init=False)

    @property
    def full(self) -> bool:
        """Whether too much waits for the store already."""
        return self._waiting_size >= self._session_log.max_waiting

    def id_of(self, number: int, *, is_last: bool = False) -> str:
        """Return the id of an event. Not a checkpoint."""
        return EventId(self.number, number, is_last).encode(self._session_log.name)

    def append(self, message: bytes, *, is_last: bool = False) -> str | None:
        """Keep a message. Not a checkpoint.

        Args:
            message: What goes out on the stream.
            is_last: Whether the stream ends with it.

        Returns:
            The event's id; None where it cannot be kept.
        """
        log = None if self.lost else self._session_log.open()
        if log is None:
            return None
        number = self.last + 1
        if self._waiting:  # The store is busy with this stream.
            self._wait_with(number, message)
        else:
            with contained(self.lose, waits=False):
                result = log.append(self.number, number, message)
                if isinstance(result, Awaitable):
                    self._begin_storing(result, number, message)
                else:
                    self._stored((number, message))
            if self.lost:
                return None
        self.last = number
        return self.id_of(number, is_last=is_last)

    def finish(self) -> None:
        """Note that no other event will come. Not a checkpoint."""
        self._finished = True
        if not self._waiting:
            self._session_log.forget(self)

    def lose(self, error: Exception) -> None:
        """Give the stream up: the store failed. Not a checkpoint."""
        if not self.lost:
            self.lost = True
            self.abandon()
            self._session_log.stream_lost(self.number, error)
            if self._on_lost is not None:
                self._on_lost()

    def abandon(self) -> None:
        """Store nothing more. Not a checkpoint."""
        self._waiting.clear()
        self._stored_meanwhile.clear()
        self._count(-self._waiting_size)
        if self._scope is not None:
            self._scope.cancel(reason="event is not stored")
        _close(self._unstarted)
        self._unstarted = None
        self._made_progress()

    async def after(self, number: int) -> Found:
        """See `SessionLog.after`."""
        return await self._session_log.after(self.number, number)

    async def wait_for_progress(self) -> None:
        """Wait until an event was stored, or none will be. A checkpoint."""
        if self._progress is None:
            self._progress = trio.Event()
        await self._progress.wait()

    def tick(self, now: float) -> None:
        """Look at the clock: notice a store that takes too long."""
        if now - self._busy_since >= self._session_log.timeout:
            self.lose(self._session_log.too_slow())

    def begin_look_up(self) -> None:
        """Keep what is stored from now on in memory, too. Not a checkpoint."""
        self._look_ups += 1

    def recent(self) -> Sequence[StoredEvent]:
        """Return the events that a look-up may have missed. Not a checkpoint."""
        return [*self._stored_meanwhile, *self._waiting]

    def end_look_up(self) -> None:
        """End what `begin_look_up` began. Not a checkpoint."""
        self._look_ups -= 1
        if not self._look_ups and self._stored_meanwhile:
            self._count(-sum(len(message) for _, message in self._stored_meanwhile))
            self._stored_meanwhile.clear()
            self._made_progress()

    def release(self) -> None:
        """Release the stream's owner: `on_lost` is not called. Not a checkpoint."""
        self._on_lost = None

    def _count(self, change: int) -> None:
        """Count bytes that wait for the store, or no longer wait."""
        if change:
            self._waiting_size += change
            self._session_log.count(change)

    def _wait_with(self, number: int, message: bytes) -> None:
        self._waiting.append((number, message))
        self._count(len(message))

    def _stored(self, event: StoredEvent) -> None:
        if self._look_ups:
            self._stored_meanwhile.append(event)
            self._count(len(event[1]))

    def _begin_storing(self, first: Awaitable[object], number: int, message: bytes) -> None:
        self._unstarted = first
        self._session_log.start(self._store)
        self._wait_with(number, message)

    async def _store(self) -> None:
        """Store what waits, one event after the other. The session runs this task."""
        awaitable, self._unstarted = self._unstarted, None
        if awaitable is None:  # Given up before it began.
            return
        self._session_log.ticker.add(self)
        try:
            with contained(self.lose), trio.CancelScope() as self._scope:
                await self._store_all(awaitable)
        finally:
            self._session_log.ticker.discard(self)
            self._scope = None
            self._busy_since = inf
        if self._waiting:
            self.lose(RuntimeError("the event store raised a cancellation of its own"))
        elif self._finished:
            self._session_log.forget(self)

    async def _store_all(self, awaitable: Awaitable[object]) -> None:
        result: object = awaitable
        while True:  # noqa: ASYNC913  # what waits has an end
            if isinstance(result, Awaitable):
                self._busy_since = trio.current_time()
                await result
            if not self._waiting:  # Given up meanwhile.
                return
            event = self._waiting.popleft()
            self._count(-len(event[1]))
            self._stored(event)
            self._made_progress()
            log = self._session_log.open()
            if not self._waiting or log is None:
                return
            result = log.append(self.number, *self._waiting[0])

    def _made_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None


@final
@attrs.define(eq=False)
class _LookUp:
    """One call of `EventLog.after` that has to be awaited. A task of the session does that."""

    _call: Awaitable[Sequence[StoredEvent]] | None
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _ended: trio.Event = attrs.field(factory=trio.Event, init=False)
    _answer: Sequence[StoredEvent] | None = attrs.field(default=None, init=False)
    _error: Exception | None = attrs.field(default=None, init=False)

    async def run(self) -> None:
        """Await the call."""
        call, self._call = self._call, None
        try:
            if call is not None:
                with contained(self._fail), self._scope:
                    self._answer = await call
        finally:
            self._ended.set()

    async def wait(self, seconds: float) -> Sequence[StoredEvent] | None:
        """Wait for what the store returns. A checkpoint.

        Returns:
            None where it is still running after so many seconds, or was given up.

        Raises:
            Exception: What the store raised.
        """
        with trio.move_on_after(seconds):
            await self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._answer

    def abandon(self) -> None:
        """Cancel the call. Not a checkpoint."""
        self._scope.cancel(reason="look-up is given up")
        _close(self._call)
        self._call = None
        self._ended.set()

    def _fail(self, error: Exception) -> None:
        self._error = error


@final
@attrs.define(eq=False)
class SessionLog:
    """The event log of one session.

    Args:
        store: Where the events are stored.
        session: What runs the store's awaitables.
        ticker: What looks at the clocks.
        timeout: Seconds that an awaitable may take.
        max_waiting: Bytes of one stream that may wait for the store.
    """

    _store: EventStore
    _session: Session
    ticker: Ticker
    timeout: float
    max_waiting: int
    name: str = attrs.field(factory=lambda: secrets.token_urlsafe(9), init=False)
    failed: bool = attrs.field(default=False, init=False)
    """Whether the store has failed for the whole session: it is not called again."""
    _log: EventLog | None = attrs.field(default=None, init=False)
    _newest: int = attrs.field(default=0, init=False)
    _streams: dict[int, StreamLog] = attrs.field(factory=dict[int, StreamLog], init=False)
    """Streams that are open, or have messages that are not stored yet."""
    _lost: set[int] = attrs.field(factory=set[int], init=False)
    _reported: bool = attrs.field(default=False, init=False)
    _look_ups: set[_LookUp] = attrs.field(factory=set[_LookUp], init=False)
    _running: int = attrs.field(default=0, init=False)
    """Tasks that await the store."""
    _quiet: trio.Event | None = attrs.field(default=None, init=False)

    @property
    def is_closed(self) -> bool:
        """Whether nothing of it is left."""
        return self._log is None and not (self._streams or self._look_ups or self._running)

    def open_stream(self, on_lost: Callable[[], None]) -> StreamLog | None:
        """Begin to keep another stream. Not a checkpoint.

        Args:
            on_lost: Called when the stream can no longer be resumed.

        Returns:
            None where the event store has failed, or the session ends.
        """
        if self.open() is None:
            return None
        self._newest += 1
        stream = StreamLog(self, self._newest, on_lost)
        self._streams[stream.number] = stream
        return stream

    def open(self) -> EventLog | None:
        """Return the store's log. Not a checkpoint.

        Returns:
            None where the store has failed, and where the session ends: nothing of it can be
            resumed then.
        """
        if self.failed or self._session.termination_reason is not None:
            return None
        if self._log is None:
            with contained(self._fail, waits=False):
                self._log = self._store.open_log(self.name)
        return self._log

    def read(self, event_id: str) -> EventId:
        """Read an id that the client sent. Not a checkpoint.

        Raises:
            UnknownEvent: It is not the id of an event of this session.
            EventsPurged: The stream can no longer be resumed.
            StreamOver: The stream ended with that event.
        """
        place = read_event_id(event_id, self.name)
        stream = self._streams.get(place.stream)
        if not 1 <= place.stream <= self._newest:
            raise UnknownEvent
        if stream is not None and place.number > stream.last:
            raise UnknownEvent
        if place.is_last:
            raise StreamOver
        if place.stream in self._lost:
            raise EventsPurged
        return place

    async def after(self, stream: int, number: int) -> Found:
        """Return what was sent on a stream after one of its events.

        A checkpoint only if the store has to be awaited. What is sent meanwhile is part of it.

        Raises:
            EventsPurged: The stream can no longer be resumed, or the store raised this.
            UnknownEvent: The store raised this.
            SessionTerminated: The session has ended meanwhile.
        """
        live = self._streams.get(stream)
        if live is None:
            return _combine(await self._ask(stream, number), (), number)
        live.begin_look_up()
        try:
            stored = await self._ask(stream, number)
            return _combine(stored, live.recent(), number, live.last)
        finally:
            live.end_look_up()

    async def close(self) -> None:
        """Delete everything: the session has ended. A checkpoint only where something is awaited.

        When cancelled, it does not wait for the tasks that still await the store.
        """
        for stream in self._streams.values():
            stream.abandon()
            stream.release()
        self._streams.clear()
        for look_up in self._look_ups:
            look_up.abandon()
        try:
            if self._running:
                self._quiet = trio.Event()
                await self._quiet.wait()
        finally:
            log, self._log = self._log, None
            if log is not None:
                with contained(self.report):
                    closing = log.close()
                    if isinstance(closing, Awaitable):
                        await closing  # noqa: ASYNC102  # begins also where it cannot wait

    # For streams.

    def start(self, async_fn: Callable[[], Awaitable[object]]) -> None:
        """Run what awaits the store. Not a checkpoint.

        Raises:
            SessionTerminated: The session ends.
        """
        self._session.start_soon(self._run, async_fn, name="event store", service=True)

    def count(self, change: int) -> None:
        """Count bytes that wait for the store, or no longer wait. Not a checkpoint."""
        self._session._byte_budget().add(change)

    def forget(self, stream: StreamLog) -> None:
        """Drop a stream that has ended, and is stored. Not a checkpoint."""
        self._streams.pop(stream.number, None)
        stream.release()

    def stream_lost(self, stream: int, error: Exception) -> None:
        """Note that a stream can no longer be resumed. Not a checkpoint."""
        self._streams.pop(stream, None)
        self._lost.add(stream)
        if len(self._lost) >= MAX_LOST_STREAMS and not self.failed:
            self._fail(error)
        else:
            self.report(error)

    def report(self, error: Exception) -> None:
        """Report that the store failed, unless that was reported before. Not a checkpoint."""
        if not self._reported:
            self._reported = True
            report = EventStoreFailed()
            report.__cause__ = error
            self._session._report(report)

    def too_slow(self) -> Exception:
        """Return the error of a store that took too long."""
        return trio.TooSlowError(
            f"the event store took longer than {self.timeout:g} seconds"
            " (HttpOptions.event_store_timeout)"
        )

    # The inside.

    async def _ask(self, stream: int, number: int) -> Sequence[StoredEvent]:
        """Ask the store. Where that fails, the stream can no longer be resumed."""
        log = self.open()
        self._check_live()
        assert log is not None
        try:
            result = log.after(stream, number)
            if isinstance(result, Awaitable):
                result = await self._wait_for(result)
            found = _in_order(result, number)
        except (EventsPurged, UnknownEvent, SessionTerminated):
            raise
        except BaseException as error:  # noqa: BLE001  # raised again, if it has to propagate
            report_or_raise(error, partial(self._look_up_failed, stream))
            raise EventsPurged from None  # noqa: ASYNC104  # what has to propagate was raised
        if stream in self._lost:  # An append has failed meanwhile.
            raise EventsPurged
        return found

    async def _wait_for(self, call: Awaitable[Sequence[StoredEvent]]) -> Sequence[StoredEvent]:
        look_up = _LookUp(call)
        self._look_ups.add(look_up)
        try:
            self.start(look_up.run)
            answer = await look_up.wait(self.timeout)
        finally:
            look_up.abandon()
            self._look_ups.discard(look_up)
        self._check_live()
        if answer is None:
            raise self.too_slow()
        return answer

    def _check_live(self) -> None:
        reason = self._session.termination_reason
        if reason is not None:
            raise SessionTerminated(reason)

    def _look_up_failed(self, stream: int, error: Exception) -> None:
        live = self._streams.get(stream)
        if live is None:
            self.stream_lost(stream, error)
        else:
            live.lose(error)

    async def _run(self, async_fn: Callable[[], Awaitable[object]]) -> None:
        self._running += 1
        try:
            await async_fn()
        finally:
            self._running -= 1
            if not self._running and self._quiet is not None:
                self._quiet.set()

    def _fail(self, error: Exception) -> None:
        """Note that the store has failed for the whole session."""
        self.failed = True
        self.report(error)
        for stream in list(self._streams.values()):
            stream.lose(error)


def _combine(
    stored: Sequence[StoredEvent], recent: Sequence[StoredEvent], after: int, last: int = 0
) -> Found:
    """Return the events after one, in order, and how many of them are missing.

    Args:
        stored: What the store returned.
        recent: What it may not have known yet.
        after: The number of that event.
        last: The number of the stream's newest event; 0 where the stream has ended.
    """
    newest = stored[-1][0] if stored else after
    events = [*stored, *(event for event in recent if event[0] > newest)]
    newest = events[-1][0] if events else after
    return Found(events, max(newest, last) - after - len(events))


def _in_order(events: Sequence[StoredEvent], number: int) -> Sequence[StoredEvent]:
    """Return what a store returned, if the numbers are in order and come after ``number``."""
    for found, _ in events:
        if found <= number:
            raise ValueError(f"the event store returned event {found} behind event {number}")
        number = found
    return events


def _close(awaitable: object) -> None:
    """Close a coroutine that will not run, which would warn of that. Not a checkpoint."""
    if isinstance(awaitable, Coroutine):
        awaitable.close()
