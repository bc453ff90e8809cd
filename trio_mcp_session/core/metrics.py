"""The counters of each session, and of all sessions of a manager."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import attrs

from .ids import SessionKind
from .lifecycle_states import SessionState
from .reasons import TerminationReason


@attrs.define(eq=False)
class SessionCounters:
    """The counters of one session, which the library increments."""

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
    """The counters of one session at one moment."""

    created: datetime
    """When it was opened (wall-clock time, UTC)."""

    last_active: datetime
    """When it was last active (wall-clock time, UTC)."""

    messages_received: int
    """JSON-RPC messages from the client, malformed ones included."""

    messages_sent: int
    """JSON-RPC messages to the client."""

    bytes_received: int
    """Bytes of those messages, without framing."""

    bytes_sent: int
    """Bytes of those messages, without framing."""

    requests: int
    """Requests that were passed to the application."""

    errors: int
    """Requests answered with an error, and failures of tasks, hooks and clean-up."""

    cancelled: int
    """Requests that the client cancelled while they were in flight or queued."""

    dropped: int
    """Messages for the client that were dropped, because its buffer was full."""

    bad_input: int
    """Messages that violated the protocol, answered or not."""

    in_flight: int
    """Requests that run now."""

    queued: int
    """Requests that wait for one of those to finish."""

    bytes_held: int = 0
    """Bytes that the client makes the process hold now, as the session's byte budget counts
    them."""


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
"""Upper bounds of the buckets of session durations, in seconds."""


@attrs.frozen(kw_only=True)
class ManagerStatistics:
    """The counters of a manager and all its sessions at one moment."""

    active: Mapping[SessionKind, int]
    """Sessions that have not ended yet, terminating ones included."""

    states: Mapping[SessionState, int]
    """The same sessions by state."""

    reserved: int
    """Places reserved for sessions that are being opened."""

    opened: int
    """Sessions opened so far."""

    refused: Mapping[str, int]
    """Sessions refused so far, by the name of the `SessionRejected` class."""

    ended: Mapping[TerminationReason, int]
    """Sessions ended so far, by reason."""

    durations: tuple[int, ...]
    """Ended sessions by duration: a count for each of `DURATION_BUCKETS`, then one for the rest."""

    in_flight: int
    """Requests that run now, with and without a session."""

    listens: int
    """Open subscriptions of clients (``subscriptions/listen``, 2026-07-28)."""

    subscribers: int
    """Open event subscriptions of the manager."""

    events_missed: int
    """Events that were dropped, because a subscriber of the manager was too slow."""

    hook_failures: int
    """Hook calls that failed, ran over their budget, or were dropped because too many waited."""

    http_refused: Mapping[int, int]
    """HTTP requests that were refused before they reached a session, by HTTP status."""

    draining: bool
    """Whether the manager drains. `SessionManager.ready` is False before that, from `retire` on."""

    bytes_held: int = 0
    """Bytes that clients make the process hold now, as the byte budgets count them."""

    tasks: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """Tasks by status, such as ``input_required``; those of the kind *task* in ``active``."""

    bytes_refused: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """How often a byte budget had no room, by level: ``session``, ``principal``, ``address`` or
    ``manager``.
    """

    queued: int = 0
    """Requests that wait for one of those in ``in_flight`` to end."""

    active_by_state: Mapping[tuple[SessionKind, SessionState], int] = attrs.field(
        factory=dict[tuple[SessionKind, SessionState], int]
    )
    """The sessions of ``active`` by kind and state."""

    ended_by_kind: Mapping[tuple[SessionKind, TerminationReason], int] = attrs.field(
        factory=dict[tuple[SessionKind, TerminationReason], int]
    )
    """The sessions of ``ended`` by kind and reason."""


@attrs.define(eq=False)
class ManagerCounters:
    """The counters behind `ManagerStatistics`, which the library increments."""

    opened: int = 0
    events_missed: int = 0
    hook_failures: int = 0
    refused: Counter[str] = attrs.field(factory=Counter[str])
    http_refused: Counter[int] = attrs.field(factory=Counter[int])
    ended: Counter[TerminationReason] = attrs.field(factory=Counter[TerminationReason])
    ended_by_kind: Counter[tuple[SessionKind, TerminationReason]] = attrs.field(
        factory=Counter[tuple[SessionKind, TerminationReason]]
    )
    durations: list[int] = attrs.field(factory=lambda: [0] * (len(DURATION_BUCKETS) + 1))
    states: Counter[tuple[SessionKind, SessionState]] = attrs.field(
        factory=Counter[tuple[SessionKind, SessionState]]
    )
    """Sessions in the table by kind and state. Counting them anew would read every session."""
    tasks: Counter[str] = attrs.field(factory=Counter[str])
    """Tasks by status."""
    open_requests: int = 0
    """Requests that run or wait."""
    waiting_requests: int = 0
    """Those that wait for a place."""

    def state_changed(self, kind: SessionKind, old: SessionState, new: SessionState) -> None:
        """Count a session of a kind in another state."""
        self.states[kind, old] -= 1
        self.states[kind, new] += 1

    def count_end(
        self,
        reason: TerminationReason,
        duration: float,
        kind: SessionKind = SessionKind.CONNECTION,
    ) -> None:
        """Count a session of a kind that ended for ``reason`` after ``duration`` seconds."""
        self.ended[reason] += 1
        self.ended_by_kind[kind, reason] += 1
        self.durations[bisect_left(DURATION_BUCKETS, duration)] += 1
