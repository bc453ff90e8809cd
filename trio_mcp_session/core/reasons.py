"""The reasons for which sessions and handlers end."""

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


class EndingReason(enum.Enum):
    """Why a handler is about to end (`RequestContext.ending`). The first reason stays."""

    CLIENT_LEFT = "client left"
    """The client of a request of 2026-07-28 closed its HTTP response, which cancels the request
    unless its tool was registered with ``on_disconnect``. Also for the tool of an earlier revision
    that is cancelled then."""

    CANCELLED = "cancelled"
    """The client cancelled the request: the handler is cancelled now."""

    SESSION_ENDS = "session ends"
    """The session begins to end: the handler is cancelled when what is open has been answered,
    within `CleanupConfig.flush_budget`."""

    DRAIN = "drain"
    """The manager or the session drains: the handler may run until the grace is over."""

    DEADLINE = "deadline"
    """Its time is over in `CleanupConfig.ending_notice` seconds or less."""
