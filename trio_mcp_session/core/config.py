"""Every limit and every clock, checked when it is set.

A setting that makes no sense fails where it is written, with its name, and not at three in the
morning in the session that first needs it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from math import inf, isnan
from typing import Any, Final, cast

import attrs

from .ids import SessionKind
from .keys import RequestStateKeys


def at_least_one(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """A whole number, and no less than one."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number of at least 1, not {value!r}")


def _limits_of_kinds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    limits = cast("Mapping[object, object]", value) if isinstance(value, Mapping) else {None: None}
    if not all(isinstance(kind, SessionKind) for kind in limits):
        raise ValueError(f"{attribute.name} must map kinds of sessions to limits, not {value!r}")
    for limit in limits.values():
        at_least_one(None, attribute, limit)


def _not_negative(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{attribute.name} must be a whole number of at least 0, not {value!r}")


def _number(name: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Trio's clock counts in floats: a whole number that is too large for one is none of ours.
        with suppress(OverflowError):
            if not isnan(value):
                return value
    raise ValueError(f"{name} must be a number of seconds, not {value!r}")


def positive_seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Positive, and `math.inf` turns the clock off."""
    if not _number(attribute.name, value) > 0:
        raise ValueError(f"{attribute.name} must be more than 0 seconds, not {value!r}")


def positive_seconds_or_none(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Positive, `math.inf` for off, or None, which leaves the decision to something else."""
    if value is not None:
        positive_seconds(None, attribute, value)


def finite_seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Zero or more, and finite: a budget that never ends would let one session hold up all."""
    if not 0 <= _number(attribute.name, value) < inf:
        raise ValueError(f"{attribute.name} must be 0 or more seconds, and finite, not {value!r}")


def seconds_or_off(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Zero or more; `math.inf` for no limit."""
    if not _number(attribute.name, value) >= 0:
        raise ValueError(f"{attribute.name} must be 0 or more seconds, not {value!r}")


SHUTDOWN_TIMEOUT: Final = 9.0
"""Seconds that a shutdown of a program may take by default: ``docker stop`` kills after 10."""


class AdmissionPolicy(enum.Enum):
    """What happens when a session is asked for and the limit of its kind is reached."""

    REJECT = "reject"
    """Refuse the newcomer with `SessionLimitReached`."""

    EVICT_IDLE = "evict idle"
    """End the session that was quiet for longest and has nothing running; else refuse."""

    REPLACE_OWN = "replace own"
    """End the same principal's longest-quiet session with nothing running; else refuse."""


@attrs.frozen(kw_only=True)
class SessionLimits:
    """How much there may be of everything that a peer can make grow."""

    max_sessions: int = attrs.field(default=10_000, validator=at_least_one)
    """Sessions of each kind in one manager."""

    max_sessions_of: Mapping[SessionKind, int] = attrs.field(
        factory=dict[SessionKind, int], validator=_limits_of_kinds
    )
    """The same limit for single kinds that should differ."""

    max_sessions_per_principal: int = attrs.field(default=1_000, validator=at_least_one)
    """Sessions of each kind that one authenticated principal may hold."""

    admission: AdmissionPolicy = attrs.field(
        default=AdmissionPolicy.REJECT, validator=attrs.validators.instance_of(AdmissionPolicy)
    )
    """What happens at either of these limits."""

    max_in_flight: int = attrs.field(default=64, validator=at_least_one)
    """Requests of one session that run at the same time."""

    max_queued: int = attrs.field(default=256, validator=_not_negative)
    """Requests of one session that may wait behind those; one more is answered "busy"."""

    max_stateless_requests: int = attrs.field(default=1_000, validator=at_least_one)
    """Requests over HTTP that belong to no session and run at the same time (2026-07-28)."""

    max_questions: int = attrs.field(default=64, validator=at_least_one)
    """Questions to one client that may wait for its answers at the same time."""

    max_message_size: int = attrs.field(default=4 * 2**20, validator=at_least_one)
    """Bytes of one message from a client, without framing."""

    max_nesting: int = attrs.field(default=64, validator=at_least_one)
    """Arrays and objects inside each other in one message."""

    max_batch: int = attrs.field(default=100, validator=at_least_one)
    """Messages in one batch (2025-03-26 only)."""

    max_subscriptions: int = attrs.field(default=1_000, validator=_not_negative)
    """Resources that one session, or one subscription of 2026-07-28, may be subscribed to."""

    max_listens: int = attrs.field(default=10_000, validator=_not_negative)
    """Subscriptions (``subscriptions/listen``, 2026-07-28) in one manager; one more is "busy"."""

    max_listens_per_principal: int = attrs.field(default=100, validator=_not_negative)
    """The same of one principal; a connection without an authenticated one is its own."""

    max_output: int = attrs.field(default=2**20, validator=at_least_one)
    """Bytes that may wait for one client to read them, before its messages are not read either."""

    max_waiting_hooks: int = attrs.field(default=64, validator=at_least_one)
    """Hook calls of one session that may wait for the one that runs; more are dropped, counted."""

    def sessions_of(self, kind: SessionKind) -> int:
        """Return how many sessions of ``kind`` there may be."""
        return self.max_sessions_of.get(kind, self.max_sessions)


@attrs.frozen(kw_only=True)
class CleanupConfig:
    """Every clock of a session, in seconds. `math.inf` turns off those that may be off."""

    handshake_timeout: float = attrs.field(default=60.0, validator=positive_seconds)
    """From ``initialize`` over Streamable HTTP to the client's ``notifications/initialized``.

    For header sessions. Where it is off, the idle clock counts from the beginning."""

    idle_after: float = attrs.field(default=60.0, validator=positive_seconds)
    """Quiet time after which a session counts as idle."""

    max_idle_time: float = attrs.field(default=1800.0, validator=positive_seconds)
    """Quiet time after which a session ends that no connection carries. Running work is not quiet.

    For header sessions, and for those that the application opened; handles have
    `HandleKind.idle_timeout`."""

    connection_handshake_timeout: float | None = attrs.field(
        default=None, validator=positive_seconds_or_none
    )
    """From the connection to the client's ``notifications/initialized``, for sessions of
    connections. By default the transport decides: 60 over TCP; off on stdio, Unix sockets, in
    memory and on other streams. A number holds for all of them."""

    connection_idle_time: float = attrs.field(default=inf, validator=positive_seconds)
    """Quiet time after which the session of a connection ends, and its connection with it. Off by
    default: the client holds the connection open, and its end ends the session."""

    max_session_time: float = attrs.field(default=inf, validator=positive_seconds)
    """How long a session may live at all, busy or not, unless it is renewed. Off by default."""

    lifetime_notice: float = attrs.field(default=60.0, validator=finite_seconds)
    """How long before its lifetime is over a session is announced with `LifetimeExpiring`.

    Not less than the clean-up interval, or the end could come first."""

    cleanup_interval: float = attrs.field(default=5.0, validator=finite_seconds)
    """How late a clock may strike: the watcher looks at most this often."""

    request_timeout: float = attrs.field(default=inf, validator=positive_seconds)
    """How long a handler may take, not counting what it waits for its client. Off by default."""

    question_timeout: float = attrs.field(default=300.0, validator=positive_seconds)
    """How long a question to the client is waited for, unless the call says otherwise."""

    request_state_timeout: float = attrs.field(
        default=1800.0, validator=[positive_seconds, finite_seconds]
    )
    """How long a client may take to come back with its answers (2026-07-28).

    What it carries is good for that long, and a handler that it is carried for waits for that
    long."""

    send_timeout: float = attrs.field(default=30.0, validator=positive_seconds)
    """How long a client may refuse to read before its session ends as unresponsive.

    That is the time for one write, of 64 KiB or of one larger message."""

    eof_grace: float = attrs.field(default=1.5, validator=finite_seconds)
    """How long running requests may finish after the client closed its sending side.

    The official clients send SIGTERM 2 seconds after they closed it."""

    flush_budget: float = attrs.field(default=1.0, validator=finite_seconds)
    """How long an ending session may spend on writing what it still has to say."""

    cleanup_budget: float = attrs.field(default=3.0, validator=finite_seconds)
    """How long an ending session may spend on leaving held contexts and its lifespan.

    With the grace of a drain and the other budgets it fits into the 10 seconds of ``docker stop``.
    """

    hook_budget: float = attrs.field(default=1.25, validator=positive_seconds)
    """How long one hook may take, and the last hooks of a session together."""

    admission_budget: float = attrs.field(default=5.0, validator=finite_seconds)
    """How long a newcomer waits for the session that makes room for it."""

    retire_grace: float = attrs.field(default=0.0, validator=seconds_or_off)
    """How long existing sessions and subscriptions go on before a drain; see `retire`.

    0 by default: more is useful only where another process takes over. `math.inf` waits until
    nothing is left."""

    drain_grace: float = attrs.field(default=3.0, validator=finite_seconds)
    """How long running work may go on in a drain, also when the manager's block is left.

    With the budgets of the clean-up it fits into the 10 seconds of ``docker stop``."""

    shutdown_timeout: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(positive_seconds)
    )
    """How long a shutdown may take in all, from the beginning of the drain until everything has
    ended; the grace and the budgets of the stages are caps inside of it. Programs that end the
    process at its end (``serve``, `run_stdio`, `run_http`) use 9 seconds by default, because
    ``docker stop`` kills after 10; for other managers it is off."""

    ping_interval: float = attrs.field(default=inf, validator=positive_seconds)
    """Quiet time after which the client is pinged. Off by default."""

    ping_timeout: float = attrs.field(default=10.0, validator=positive_seconds)
    """How long the answer to such a ping is waited for."""

    ping_strikes: int = attrs.field(default=3, validator=at_least_one)
    """Unanswered pings in a row that end a session, and only one with nothing running."""


def with_shutdown_timeout(clocks: CleanupConfig) -> CleanupConfig:
    """Return the clocks of a program of its own: the default of its deadline is not `math.inf`."""
    if clocks.shutdown_timeout is None:
        return attrs.evolve(clocks, shutdown_timeout=SHUTDOWN_TIMEOUT)
    return clocks


def utc_now() -> datetime:
    """Return the wall-clock time, in UTC."""
    return datetime.now(UTC)


@attrs.frozen(kw_only=True)
class SessionConfig:
    """All settings of a manager."""

    limits: SessionLimits = attrs.field(
        factory=SessionLimits, validator=attrs.validators.instance_of(SessionLimits)
    )
    """How much there may be of everything."""

    cleanup: CleanupConfig = attrs.field(
        factory=CleanupConfig, validator=attrs.validators.instance_of(CleanupConfig)
    )
    """Every clock."""

    request_state_keys: RequestStateKeys = attrs.field(
        factory=RequestStateKeys,
        validator=attrs.validators.instance_of(RequestStateKeys),
        eq=False,
    )
    """What clients carry for their handlers is signed with these (2026-07-28)."""

    wall_clock: Callable[[], datetime] = attrs.field(
        default=utc_now, validator=attrs.validators.is_callable()
    )
    """Where the time that leaves the process comes from; all else runs on Trio's clock."""
