"""What is counted: in a session while it lives, and over all sessions of a manager."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import attrs

from .ids import SessionKind
from .reasons import TerminationReason
from .state import SessionState


@attrs.define(eq=False)
class SessionCounters:
    """The counters of one session, written in place where things happen."""

    messages_received: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    requests: int = 0
    errors: int = 0
    cancelled: int = 0
    dropped: int = 0
    bad_input: int = 0


@attrs.frozen(kw_only=True)
class SessionMetrics:
    """A picture of what one session did so far."""

    created: datetime
    """When it was opened (wall-clock time, UTC)."""

    last_active: datetime
    """When it last did something that counts as activity (wall-clock time, UTC)."""

    messages_received: int
    """JSON-RPC messages from the client, bad ones included."""

    messages_sent: int
    """JSON-RPC messages to the client."""

    bytes_received: int
    """Bytes of those messages, without framing."""

    bytes_sent: int
    """Bytes of those messages, without framing."""

    requests: int
    """Requests that were handed to the application."""

    errors: int
    """Requests answered with an error, and failures of tasks, hooks and clean-up."""

    cancelled: int
    """Requests that the client cancelled while they were in flight or queued."""

    dropped: int
    """Messages for the client that were thrown away, because its buffer was full."""

    bad_input: int
    """Messages that broke the protocol, answered or not."""

    in_flight: int
    """Requests that run now."""

    queued: int
    """Requests that wait for one of those to finish."""


@attrs.frozen(kw_only=True)
class BroadcastReport:
    """How many clients a broadcast reached."""

    sent: int
    """Sessions that it was sent to."""

    dropped: int
    """Sessions whose client reads too slowly: there was no room for it."""

    listeners: int = 0
    """Subscriptions (2026-07-28) that it was sent to, or is kept for until there is room."""


DURATION_BUCKETS: Final = (
    1.0,
    10.0,
    60.0,
    300.0,
    1800.0,
    3600.0,
    4 * 3600.0,
    24 * 3600.0,
    7 * 24 * 3600.0,
    30 * 24 * 3600.0,
)
"""Upper bounds, in seconds, of the buckets that session durations are counted in."""


@attrs.frozen(kw_only=True)
class ManagerStatistics:
    """A picture of all sessions of a manager."""

    active: Mapping[SessionKind, int]
    """Sessions in the table, the terminating ones included."""

    states: Mapping[SessionState, int]
    """The same sessions by state."""

    reserved: int
    """Places taken by sessions that are just being opened."""

    opened: int
    """Sessions opened so far."""

    refused: Mapping[str, int]
    """Openings refused, by the name of the `SessionRejected` class that said why."""

    ended: Mapping[TerminationReason, int]
    """Sessions ended so far, by reason."""

    durations: tuple[int, ...]
    """Ended sessions by how long they lived: a count for each of `DURATION_BUCKETS`, one beyond."""

    in_flight: int
    """Requests that run now, in all sessions and outside of them."""

    listens: int
    """Open subscriptions of clients (``subscriptions/listen``, 2026-07-28)."""

    subscribers: int
    """Open event subscriptions of the manager."""

    events_missed: int
    """Events that subscribers of the manager were too slow for."""

    hook_failures: int
    """Hooks that failed, overran, or were dropped because too many waited."""

    http_refused: Mapping[int, int]
    """HTTP requests that reached no session, by the status that they were answered with."""

    draining: bool
    """Whether the manager drains. `SessionManager.ready` is False before that, from `retire` on."""


@attrs.define(eq=False)
class ManagerCounters:
    """The counters behind `ManagerStatistics`, written in place where things happen."""

    opened: int = 0
    events_missed: int = 0
    hook_failures: int = 0
    refused: Counter[str] = attrs.field(factory=Counter[str])
    http_refused: Counter[int] = attrs.field(factory=Counter[int])
    ended: Counter[TerminationReason] = attrs.field(factory=Counter[TerminationReason])
    durations: list[int] = attrs.field(factory=lambda: [0] * (len(DURATION_BUCKETS) + 1))

    def count_end(self, reason: TerminationReason, duration: float) -> None:
        """Count a session that ended for ``reason`` after ``duration`` seconds."""
        self.ended[reason] += 1
        self.durations[bisect_left(DURATION_BUCKETS, duration)] += 1
