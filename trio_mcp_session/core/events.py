"""What is told of a session's life.

The values travel over memory channels (`SessionManager.subscribe`, `Session.subscribe`) and are
plain facts: they hold no session, so that a slow reader keeps nothing alive.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from .identity import ClientInfo
from .ids import SessionId, SessionKind
from .reasons import TerminationReason
from .state import SessionState


@attrs.frozen(kw_only=True)
class SessionEvent:
    """Base of the events."""

    session_id: SessionId
    """The session that it is about."""

    kind: SessionKind
    """That session's kind."""

    time: float
    """When it happened: seconds of Trio's clock."""


@attrs.frozen(kw_only=True)
class Connected(SessionEvent):
    """A session was established: its handshake is accepted, its lifespan entered."""

    client: ClientInfo
    """What the client said of itself."""


@attrs.frozen(kw_only=True)
class Disconnected(SessionEvent):
    """A session has ended and nothing of it is left. Always the last event of a session."""

    reason: TerminationReason
    """Why it ended."""

    error: BaseException | None = None
    """The whole error (a group where several failed), if it crashed."""


@attrs.frozen(kw_only=True)
class StateChanged(SessionEvent):
    """A session moved along the transition table."""

    old: SessionState
    """The state that it left."""

    new: SessionState
    """The state that it is in."""

    reason: TerminationReason | None = None
    """Why it ends, when ``new`` is terminating or terminated."""


@attrs.frozen(kw_only=True)
class Error(SessionEvent):
    """Something failed in a session; see `SessionError` and its subclasses for what."""

    error: Exception
    """The error, with its cause."""


@attrs.frozen(kw_only=True)
class LifetimeExpiring(SessionEvent):
    """A session's lifetime is nearly over; `Session.renew` gives it another one."""

    seconds_left: float
    """Seconds until it ends."""


@attrs.frozen(kw_only=True)
class RequestFailed:
    """Something failed in a request that belongs to no session (from 2026-07-28 on)."""

    time: float
    """When it happened: seconds of Trio's clock."""

    error: Exception
    """The error, with its cause."""


@attrs.frozen
class Lagged:
    """The subscriber read too slowly: ``missed`` events are missing in this place."""

    missed: int
    """How many events were dropped here."""


Event: TypeAlias = (
    Connected | Disconnected | StateChanged | Error | LifetimeExpiring | RequestFailed | Lagged
)
"""What a subscription yields."""
