"""What a session keeps in its event store, whatever the store does.

A store is code of others: its disk may be full. Where it fails, the session goes on without it:
its streams carry events without ids from then on, and a client that was cut off cannot resume.
The first failure is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, final

import attrs

from ...sessions.failures import contained
from .event_store import Event, EventLog, EventsPurged, EventStore, StreamOver, UnknownEvent

T = TypeVar("T")


@final
@attrs.define(eq=False)
class SessionLog:
    """The event log of one session. Nothing here is a checkpoint, or raises what a store raises."""

    _store: EventStore
    _report: Callable[[Exception], object]
    _log: EventLog | None = attrs.field(default=None, init=False)
    failed: bool = attrs.field(default=False, init=False)
    """Whether the store has failed: nothing is kept any more."""

    def open_stream(self) -> int:
        """Begin another stream, and return its number; 0 where the store fails."""
        return self._call(lambda log: log.open_stream()) or 0

    def beginning(self, stream: int) -> str | None:
        """Return the id of the place before a stream's first event."""
        return self._call(lambda log: log.beginning(stream))

    def append(self, stream: int, frame: bytes) -> str | None:
        """Keep a message that goes out on a stream, and return its event's id."""
        return self._call(lambda log: log.append(stream, frame))

    def close_stream(self, stream: int) -> None:
        """Note that no more goes out on a stream."""
        self._call(lambda log: log.close_stream(stream))

    def after(self, event_id: str) -> tuple[int, Sequence[Event]]:
        """Return what went out on a stream after one of its events, and the stream's number.

        Raises:
            UnknownEvent: It is no event of this session, or the store fails.
            EventsPurged: Some of what went out after it is gone.
        """
        refusal: UnknownEvent | EventsPurged | StreamOver | None = None

        def ask(log: EventLog) -> tuple[int, Sequence[Event]] | None:
            nonlocal refusal
            try:
                return log.after(event_id)
            except (UnknownEvent, EventsPurged, StreamOver) as error:
                refusal = error
                return None

        found = self._call(ask)
        if found is None:
            raise refusal or UnknownEvent
        return found

    def close(self) -> None:
        """Forget everything, also where the store has failed before: the session has ended."""
        if self._log is not None:
            with contained(self._fail, waits=False):
                self._log.close()

    def _call(self, operation: Callable[[EventLog], T]) -> T | None:
        """Call the store; return None where it fails, and where it has failed before."""
        if not self.failed:
            with contained(self._fail, waits=False):
                if self._log is None:
                    self._log = self._store.open_log()
                return operation(self._log)
        return None

    def _fail(self, error: Exception) -> None:
        if not self.failed:
            self.failed = True
            self._report(error)
