"""The events of sessions.

They are sent over memory channels (`SessionManager.subscribe`, `Session.subscribe`). They do not
refer to the session object, so a slow reader keeps no session in memory.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from .identity import ClientInfo
from .ids import SessionId, SessionKind
from .lifecycle_states import SessionState
from .reasons import TerminationReason
from .task_info import TaskStatus


@attrs.frozen(kw_only=True)
class SessionEvent:
    """Base class of the events of a session."""

    session_id: SessionId
    """The id of the session."""

    kind: SessionKind
    """The kind of the session."""

    time: float
    """When it happened: seconds of Trio's clock."""


@attrs.frozen(kw_only=True)
class Connected(SessionEvent):
    """A session was established: its handshake is accepted and its lifespan entered."""

    client: ClientInfo
    """The name, version and capabilities that the client declared."""


@attrs.frozen(kw_only=True)
class Disconnected(SessionEvent):
    """A session has ended, and its clean-up is done. Always the last event of a session."""

    reason: TerminationReason
    """Why it ended."""

    error: BaseException | None = None
    """`Session.error`: one error, or a group of several; None if nothing failed."""


@attrs.frozen(kw_only=True)
class StateChanged(SessionEvent):
    """A session moved along the transition table."""

    old: SessionState
    """The state that it left."""

    new: SessionState
    """The state that it entered."""

    reason: TerminationReason | None = None
    """Why it ends, if ``new`` is terminating or terminated."""


@attrs.frozen(kw_only=True)
class Error(SessionEvent):
    """Something failed in a session; the subclass of `SessionError` says what."""

    error: Exception
    """The error, with its cause."""


@attrs.frozen(kw_only=True)
class LifetimeExpiring(SessionEvent):
    """A session's lifetime ends soon; `Session.renew` gives it another one."""

    seconds_left: float
    """Seconds until it ends."""


@attrs.frozen(kw_only=True)
class TaskChanged(SessionEvent):
    """The status of a task has changed (2026-07-28)."""

    status: TaskStatus
    """The new status."""


@attrs.frozen(kw_only=True)
class RequestFailed:
    """Something failed in a request that has no session (from 2026-07-28 on)."""

    time: float
    """When it happened: seconds of Trio's clock."""

    error: Exception
    """The error, with its cause."""


@attrs.frozen(kw_only=True)
class EventLoopBlocked:
    """User code blocked the event loop; nothing else ran meanwhile. Sent when the loop runs again.

    See `CleanupConfig.loop_blocked_after`.
    """

    time: float
    """When the event loop ran again: seconds of Trio's clock."""

    seconds: float
    """For how long it was blocked, at least."""

    task: str
    """The name of the task that ran when this was noticed; empty if no task ran."""

    where: str
    """The function, file and line that ran then, such as ``search (server.py:12)``."""

    session_id: SessionId | None = None
    """The session of the task; None if it has none."""


@attrs.frozen
class Lagged:
    """The subscriber read too slowly: ``missed`` events were dropped in this place."""

    missed: int
    """The number of dropped events."""


Event: TypeAlias = (
    Connected
    | Disconnected
    | StateChanged
    | Error
    | LifetimeExpiring
    | TaskChanged
    | RequestFailed
    | EventLoopBlocked
    | Lagged
)
"""The type of the values that a subscription yields."""
