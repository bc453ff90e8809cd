"""The reasons for which sessions end."""

from __future__ import annotations

import enum


class TerminationReason(enum.Enum):
    """Why a session ended: the first reason that was given."""

    CLIENT_CLOSED = "client closed"
    """The client left: it closed its stream, or sent DELETE."""

    IDLE = "idle"
    """The session was not active for `CleanupConfig.max_idle_time`; for
    `CleanupConfig.connection_idle_time`, if a connection carries it."""

    LIFETIME = "lifetime"
    """`CleanupConfig.max_session_time` passed without a call of `Session.renew`."""

    HANDSHAKE_TIMEOUT = "handshake timeout"
    """The client did not finish its handshake within `CleanupConfig.handshake_timeout`, or
    `CleanupConfig.connection_handshake_timeout`, if a connection carries the session."""

    EVICTED = "evicted"
    """At the limit, a new session took the place of the one that was quiet for longest."""

    REPLACED = "replaced"
    """At the limit, a new session of the same principal took its place."""

    REVOKED = "revoked"
    """`SessionManager.revoke` was called for its principal."""

    CRASHED = "crashed"
    """A task, the lifespan or the clean-up of the session failed; see `Session.error`."""

    UNRESPONSIVE = "unresponsive"
    """The client stopped reading, or stopped answering keep-alive pings."""

    TRANSPORT_FAILED = "transport failed"
    """The connection failed."""

    REQUESTED = "requested"
    """The application ended it."""

    CANCELLED = "cancelled"
    """The cancel scope around the manager, the connection or the opening was cancelled."""

    SHUTDOWN = "shutdown"
    """The manager, or this session, was drained."""
