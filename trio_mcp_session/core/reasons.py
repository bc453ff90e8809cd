"""Why sessions end: one value for hooks, events, metrics, pending requests and waiters."""

from __future__ import annotations

import enum


class TerminationReason(enum.Enum):
    """Why a session ended. The first reason given wins; later ones change nothing."""

    CLIENT_CLOSED = "client closed"
    """The client left: end of its stream, or an explicit DELETE."""

    IDLE = "idle"
    """Nothing happened for `CleanupConfig.max_idle_time`; for `CleanupConfig.connection_idle_time`,
    where a connection carries the session."""

    LIFETIME = "lifetime"
    """`CleanupConfig.max_session_time` was over and nobody renewed the session."""

    HANDSHAKE_TIMEOUT = "handshake timeout"
    """The client did not finish its handshake within `CleanupConfig.handshake_timeout`, or
    `CleanupConfig.connection_handshake_timeout` where a connection carries the session."""

    EVICTED = "evicted"
    """At the session limit, a newcomer took the place of the longest-idle session."""

    REPLACED = "replaced"
    """At the session limit, the same principal's newer session took its place."""

    REVOKED = "revoked"
    """All that the principal held was revoked."""

    CRASHED = "crashed"
    """A task, the lifespan or the clean-up of the session failed; `Session.error` tells how."""

    UNRESPONSIVE = "unresponsive"
    """The client stopped reading, or stopped answering keep-alive pings."""

    TRANSPORT_FAILED = "transport failed"
    """The transport broke under the session."""

    REQUESTED = "requested"
    """The application asked for it."""

    CANCELLED = "cancelled"
    """The scope around the manager, the connection or the opening was cancelled."""

    SHUTDOWN = "shutdown"
    """The manager, or this session, was drained."""
