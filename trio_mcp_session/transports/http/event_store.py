"""The interface of event stores: they keep messages for clients that resume a stream.

The library numbers streams and events, makes the event ids, and checks them when a client brings
one back. A store keeps messages under these numbers, and returns them. `MemoryEventStore` is one;
``docs/resumption.md`` shows how to write another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeAlias

StoredEvent: TypeAlias = tuple[int, bytes]
"""An event's number on its stream, and its message."""


class UnknownEvent(Exception):
    """The session has not sent an event with this id."""


class EventsPurged(Exception):
    """Some events after that one are gone: the stream cannot be continued whole."""


class EventLog(Protocol):
    """The stored events of one session.

    Each method either returns its result, or an awaitable of it, as an ``async def`` method does.
    A method that returns its result must be fast: everything else waits for it. An awaitable runs
    in a task of the session. It may take `HttpOptions.event_store_timeout` seconds; then it is
    cancelled, and the stream can no longer be resumed. The same happens where a method raises.
    Calls for different streams may run at the same time; of one stream only one `append` does.
    """

    def append(self, stream: int, number: int, message: bytes) -> Awaitable[object] | None:
        """Store a message.

        Args:
            stream: The stream's number in this session.
            number: The event's number on the stream: 1 for the first, without gaps.
            message: One JSON message.
        """
        ...

    def after(
        self, stream: int, number: int
    ) -> Sequence[StoredEvent] | Awaitable[Sequence[StoredEvent]]:
        """Return what is stored of a stream after one of its events, in the order of the numbers.

        The library notices by the numbers whether events are missing.

        Args:
            stream: The stream's number. There may be nothing of it.
            number: The number of the last event that the client has seen; 0 before the first.

        Raises:
            EventsPurged: Some of these events are gone. Raising it is optional.
        """
        ...

    def close(self) -> Awaitable[object] | None:
        """Delete everything of this session: it has ended, and no other call follows.

        An awaitable may take what is left of `CleanupConfig.flush_budget`.
        """
        ...


class EventStore(Protocol):
    """Stores the events of sessions. `MemoryEventStore` is one."""

    def open_log(self, name: str) -> EventLog:
        """Return the log of another session. This must not wait.

        Args:
            name: A random text, different for each log: a key to store the events under.
        """
        ...
