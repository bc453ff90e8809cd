"""The settings of Streamable HTTP."""

from __future__ import annotations

import enum
from typing import Any, Literal

import attrs

from ...core.config import at_least_one, finite_seconds, positive_seconds
from .event_store import EventStore
from .memory_event_store import MemoryEventStore


class SlowReader(enum.Enum):
    """What happens to a stream that a client reads too slowly.

    That is when its buffer (`SessionLimits.max_output`) is full. No other stream is held up by it.
    What a subscription of 2026-07-28 has to tell is never waited for and never dropped: each change
    is kept once until there is room, unless the stream is ended.
    """

    BLOCK = "block"
    """Code that sends on the stream waits. A client that reads nothing at all for
    `CleanupConfig.send_timeout` loses its session, as unresponsive."""

    DROP = "drop"
    """Messages are dropped and counted; answers are kept."""

    END_STREAM = "end stream"
    """The connection is closed. The client can come back for what it missed, as far as it is
    kept."""


def _answers(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value not in ("auto", "sse"):
        raise ValueError(f"{attribute.name} must be 'auto' or 'sse', not {value!r}")


@attrs.frozen(kw_only=True)
class HttpOptions:
    """How sessions are served over Streamable HTTP. Times are in seconds."""

    answers: Literal["auto", "sse"] = attrs.field(default="auto", validator=_answers)
    """``auto`` answers as JSON where nothing else is sent for a request, and it does not take
    long; ``sse`` always opens a stream. Requests of 2026-07-28 are answered as JSON wherever they
    can be: their errors have statuses."""

    stream_after: float = attrs.field(default=2.0, validator=positive_seconds)
    """How long an answer may be waited for before a stream is opened for it, which a client can
    come back to."""

    keep_alive: float = attrs.field(default=15.0, validator=positive_seconds)
    """How long a stream may be silent before a comment is sent, for proxies to see it alive."""

    retry: float = attrs.field(default=3.0, validator=finite_seconds)
    """When clients should come back to a stream that was closed."""

    retry_after: int = attrs.field(default=5, validator=at_least_one)
    """When clients should ask again that were refused for want of room (``Retry-After``)."""

    body_timeout: float = attrs.field(default=30.0, validator=positive_seconds)
    """How long the whole body of a request may take."""

    max_streams: int = attrs.field(default=128, validator=at_least_one)
    """Streams of one session that clients may have opened with GET at the same time."""

    slow_reader: SlowReader = attrs.field(
        default=SlowReader.BLOCK, validator=attrs.validators.instance_of(SlowReader)
    )
    """What happens to clients that do not read."""

    event_store: EventStore | None = attrs.field(factory=MemoryEventStore)
    """Where events are kept for clients that come back; None keeps nothing."""

    event_store_timeout: float = attrs.field(
        default=5.0, validator=[positive_seconds, finite_seconds]
    )
    """How long one awaited call of the event store may take. Then the stream cannot be resumed any
    more; it goes on, and so does the session.

    Connected clients do not wait for the store. 5 by default: longer than a database is usually
    busy, and short, because what waits for the store takes memory."""
