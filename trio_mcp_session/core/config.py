"""The settings: every limit and every clock, checked when it is set.

A setting that makes no sense raises `ValueError` where it is written, with its name: not later, in
the session that needs it first.

The comment above each setting gives the reason for its default. The defaults suit clients that you
have a reason to trust; ``docs/limits.md`` has a set for others.
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
from .log_level import SEVERITY, LogLevel
from .node import node_or_none
from .rate_limit import RateLimit
from .signing_keys import RequestStateKeys


def at_least_one(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check for a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number of at least 1, not {value!r}")


def _limits_of_kinds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    limits = cast("Mapping[object, object]", value) if isinstance(value, Mapping) else {None: None}
    if not all(isinstance(kind, SessionKind) for kind in limits):
        raise ValueError(f"{attribute.name} must map kinds of sessions to limits, not {value!r}")
    for limit in limits.values():
        at_least_one(None, attribute, limit)


def _rates_of_methods(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    rates = cast("Mapping[object, object]", value) if isinstance(value, Mapping) else {None: None}
    if not all(isinstance(method, str) for method in rates) or not all(
        isinstance(rate, RateLimit) for rate in rates.values()
    ):
        raise ValueError(f"{attribute.name} must map methods to a RateLimit each, not {value!r}")


def _not_negative(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{attribute.name} must be a whole number of at least 0, not {value!r}")


def _number(name: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Trio's clock counts in floats, and some whole numbers are too large for a float.
        with suppress(OverflowError):
            if not isnan(value):
                return value
    raise ValueError(f"{name} must be a number of seconds, not {value!r}")


def positive_seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check for more than 0 seconds; `math.inf` turns the clock off."""
    if not _number(attribute.name, value) > 0:
        raise ValueError(f"{attribute.name} must be more than 0 seconds, not {value!r}")


def positive_seconds_or_none(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check for more than 0 seconds, `math.inf`, or None: the transport decides then."""
    if value is not None:
        positive_seconds(None, attribute, value)


def finite_seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check for 0 seconds or more, and finite: other sessions may wait for the end of a budget."""
    if not 0 <= _number(attribute.name, value) < inf:
        raise ValueError(f"{attribute.name} must be 0 or more seconds, and finite, not {value!r}")


def seconds_or_off(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check for 0 seconds or more; `math.inf` for no limit."""
    if not _number(attribute.name, value) >= 0:
        raise ValueError(f"{attribute.name} must be 0 or more seconds, not {value!r}")


SHUTDOWN_TIMEOUT: Final = 9.0
"""Seconds that a shutdown of a program may take by default.

``docker stop`` kills after 10. One second is left for the end of the process itself.
"""


LOOP_BLOCKED_AFTER: Final = 1.0
"""Seconds for which user code may block the event loop of a program before this is logged.

Decoding a large message or a collection of garbage takes tenths of this; a client that waits, and
every other client beside it, notices a second.
"""


class AdmissionPolicy(enum.Enum):
    """What happens if a session is to be opened and a limit on sessions is reached."""

    FAIR = "fair"
    """Make room at the peer address (IPv6: /64) that holds the most unauthenticated sessions, if
    it holds more than the new session's principal or address would then hold: end the session
    there whose client never finished its handshake, else the one that was quiet for longest.
    Sessions with running work or an open HTTP response are never ended. Else refuse."""

    REJECT = "reject"
    """Refuse the new session with `SessionLimitReached`."""

    EVICT_IDLE = "evict idle"
    """End the session without running work that was quiet for longest; refuse if there is none."""

    REPLACE_OWN = "replace own"
    """End the one of the same principal's sessions that `EVICT_IDLE` would end; else refuse."""


@attrs.frozen(kw_only=True)
class SessionLimits:
    """Limits on everything that a peer can make grow."""

    # An idle session takes about 5 KiB, so this many take 50 MiB. Without a limit, clients that
    # open sessions and leave without DELETE fill the memory until the idle timeout.
    max_sessions: int = attrs.field(default=10_000, validator=at_least_one)
    """Sessions of each kind in one manager."""

    # One limit suits all kinds. Kinds are counted apart, so that handles which the application
    # gives out cannot take the places of clients.
    max_sessions_of: Mapping[SessionKind, int] = attrs.field(
        factory=dict[SessionKind, int], validator=_limits_of_kinds
    )
    """Limits for single kinds that differ from ``max_sessions``."""

    # A tenth of ``max_sessions``: no user can take all places, and a gateway that serves many
    # people under one account still fits.
    max_sessions_per_principal: int = attrs.field(default=1_000, validator=at_least_one)
    """Sessions of each kind that one authenticated principal may hold."""

    # Ending a session can lose what it holds. By default this can only happen to clients without
    # authentication whose address holds the most sessions: otherwise one client could take every
    # place, and keep all other clients out until its sessions expire.
    admission: AdmissionPolicy = attrs.field(
        default=AdmissionPolicy.FAIR, validator=attrs.validators.instance_of(AdmissionPolicy)
    )
    """What happens at either of these limits."""

    # A task runs for long, and holds what its handler has opened. A user starts a few at a time; a
    # tenth of ``max_sessions_per_principal`` still allows for a gateway.
    max_tasks_per_principal: int = attrs.field(default=100, validator=at_least_one)
    """Tasks of one principal, running ones and those whose outcome is kept (2026-07-28). At this
    limit, the oldest task whose outcome its client was sent makes room. All tasks together are
    limited as sessions of the kind *task* (``max_sessions_of``)."""

    # As ``max_message_size``: what clients can send, tools can return.
    max_task_result: int = attrs.field(default=4 * 2**20, validator=at_least_one)
    """Bytes of the outcome of one task; a larger one is not kept, and the task fails. Outcomes also
    count in the byte budgets below, until they are removed."""

    # An opening costs less than a millisecond, so this is a part of one core. A client opens one
    # session. A gateway opens one for each of its users after a restart: the burst is the number of
    # sessions that one principal may hold.
    opening_rate: RateLimit = attrs.field(
        default=RateLimit(200, burst=1_000), validator=attrs.validators.instance_of(RateLimit)
    )
    """How often clients of one principal, or of one address without one, may open a session. It
    does not hold for connections without an address, such as stdio."""

    # Enough for a client that calls many tools at once. Each running request is a task and a
    # decoded message, and they all belong to one client.
    max_in_flight: int = attrs.field(default=64, validator=at_least_one)
    """Requests of one session that run at the same time."""

    # Four times ``max_in_flight``: a burst waits, and only a client that keeps sending faster
    # than it is served is refused.
    max_queued: int = attrs.field(default=256, validator=_not_negative)
    """Requests of one session that may wait for a place; one more is answered "busy". Over HTTP,
    the same for the requests of one principal that belong to no session (2026-07-28)."""

    # All clients over HTTP share this one limit, so it is far above that of a single session.
    max_stateless_requests: int = attrs.field(default=1_000, validator=at_least_one)
    """Requests over HTTP that belong to no session and run at the same time (2026-07-28, and older
    ones with `HttpOptions.stateless`).
    """

    # A tenth of ``max_stateless_requests``, as for sessions. All running requests may become ready
    # at the same moment: 100 of them keep the event loop busy for about 10 ms.
    max_stateless_per_principal: int = attrs.field(default=100, validator=at_least_one)
    """The same for one principal, or for one address (IPv6: /64) without one."""

    # The same number as ``max_stateless_requests``. When it is reached, the principal with the most
    # waiting requests makes room.
    max_stateless_queued: int = attrs.field(default=1_000, validator=_not_negative)
    """Requests over HTTP that belong to no session and wait, of all clients together."""

    # What a request costs differs between tools by orders of magnitude: only the operator knows.
    request_rate: RateLimit = attrs.field(
        default=RateLimit(inf), validator=attrs.validators.instance_of(RateLimit)
    )
    """How often one principal, or one address without one, may send a request. Off by default."""

    # As ``request_rate``.
    method_rates: Mapping[str, RateLimit] = attrs.field(
        factory=dict[str, RateLimit], validator=_rates_of_methods
    )
    """The same for single methods, such as ``tools/call``, each in addition to ``request_rate``."""

    # As ``max_in_flight``: each request of a session that runs may ask one thing.
    max_questions: int = attrs.field(default=64, validator=at_least_one)
    """Questions to one client that may wait for its answers at the same time."""

    # A photograph or a document in Base64 fits. A larger limit is expensive: a message counts in
    # the byte budgets below while it is in memory.
    max_message_size: int = attrs.field(default=4 * 2**20, validator=at_least_one)
    """Bytes of one message from a client, without framing."""

    # Every value takes memory once it is decoded, an empty object 64 bytes: this many take 4 to 20
    # MiB. Tables of 10,000 rows fit.
    max_values: int = attrs.field(default=100_000, validator=at_least_one)
    """Values in one message, counted as its commas and opening brackets outside of texts."""

    # Clients send their name, a version and a few capabilities: less than 1 KiB. What they declare
    # is kept as long as the session.
    max_initialize_size: int = attrs.field(default=64 * 1024, validator=at_least_one)
    """Bytes of ``initialize``, up to 2025-11-25."""

    # Three requests of the largest size, or thousands of usual ones.
    max_session_bytes: int = attrs.field(default=16 * 2**20, validator=at_least_one)
    """Bytes of memory that one session may use: requests, answers and everything else that is kept
    for it."""

    # A few sessions of one user that are full, or many usual ones. An eighth of ``max_bytes``, so
    # that one user cannot use up the memory of all.
    max_party_bytes: int = attrs.field(default=64 * 2**20, validator=at_least_one)
    """The same for all sessions and requests of one principal, or, without authentication, of one
    address.
    """

    # Half of a small machine with 1 GiB.
    max_bytes: int = attrs.field(default=512 * 2**20, validator=at_least_one)
    """The same for everything in one manager."""

    # Real arguments and schemas lie far below. The decoder gives up at about a thousand.
    max_nesting: int = attrs.field(default=64, validator=at_least_one)
    """Arrays and objects inside each other in one message."""

    # The answers to a batch are held until the last one is there. A batch fits into
    # ``max_in_flight`` and ``max_queued`` together.
    max_batch: int = attrs.field(default=100, validator=at_least_one)
    """Messages in one batch (2025-03-26 only)."""

    # Clients subscribe to the resources that they show; each costs one URI.
    max_subscriptions: int = attrs.field(default=1_000, validator=_not_negative)
    """Resources that one session, or one subscription of 2026-07-28, may be subscribed to."""

    # As ``max_sessions``: one for each client.
    max_listens: int = attrs.field(default=10_000, validator=_not_negative)
    """Subscriptions (``subscriptions/listen``, 2026-07-28) in one manager; one more is "busy"."""

    # A client needs one or two. This allows for many clients of one user, and no user can take
    # more than a hundredth of all.
    max_listens_per_principal: int = attrs.field(default=100, validator=_not_negative)
    """The same for one principal; a connection without authentication counts as one."""

    # Thousands of progress and log messages. A larger buffer only hides for longer that a client
    # does not read, and a thousand such clients take 1 GiB as it is.
    max_output: int = attrs.field(default=2**20, validator=at_least_one)
    """Bytes that may wait for one client to read them. Above that, the server reads nothing from it
    either.
    """

    # Models ask again soon after a handle has ended. An entry takes a few hundred bytes.
    max_ended_handles: int = attrs.field(default=1_000, validator=_not_negative)
    """Ended handles that one manager remembers, to say to their owners why they ended."""

    # A session calls its hooks a few times in its life, and one at a time: more wait only where a
    # hook is slow. Each costs a few hundred bytes.
    max_waiting_hooks: int = attrs.field(default=64, validator=at_least_one)
    """Hook calls of one session that may wait for the running one; more are dropped and counted."""

    def per_principal(self, kind: SessionKind) -> int:
        """Return the limit on sessions of ``kind`` of one principal."""
        if kind is SessionKind.TASK:
            return self.max_tasks_per_principal
        return self.max_sessions_per_principal

    def sessions_of(self, kind: SessionKind) -> int:
        """Return the limit on sessions of ``kind`` in one manager."""
        return self.max_sessions_of.get(kind, self.max_sessions)


@attrs.frozen(kw_only=True)
class CleanupConfig:
    """Every clock of a session, in seconds. `math.inf` turns off those that may be off."""

    # Clients confirm the handshake as soon as they have the answer to ``initialize``. A minute
    # allows for a slow network.
    handshake_timeout: float = attrs.field(default=60.0, validator=positive_seconds)
    """From ``initialize`` over Streamable HTTP to the client's ``notifications/initialized``.

    For header sessions. Where it is off, the idle clock counts from the beginning.
    """

    # Each move to *idle* costs an event and a hook call: the pauses between the calls of one task
    # should not cause any.
    idle_after: float = attrs.field(default=60.0, validator=positive_seconds)
    """Time without activity after which a session counts as idle."""

    # Few clients over HTTP say that they leave, so a clock has to end their sessions. Half an hour
    # outlasts a person's break.
    max_idle_time: float = attrs.field(default=1800.0, validator=positive_seconds)
    """Time without activity after which a session that no connection carries ends. Running work
    is activity.

    For header sessions, and for those that the application opened; handles have
    `HandleKind.idle_timeout`.
    """

    # Only the transport knows whether unknown clients can connect, which would keep their places.
    connection_handshake_timeout: float | None = attrs.field(
        default=None, validator=positive_seconds_or_none
    )
    """From the connection to the client's ``notifications/initialized``, for sessions of
    connections. By default the transport decides: 60 over TCP; off on stdio, Unix sockets, in
    memory and on other streams. A number holds for all of them.
    """

    # The client holds the connection open for as long as it needs the session, and its end ends
    # the session. A desktop application may be quiet for hours.
    connection_idle_time: float = attrs.field(default=inf, validator=positive_seconds)
    """Time without activity after which the session of a connection ends, and its connection
    with it. Off by default.
    """

    # A fixed end interrupts work that takes long.
    max_session_time: float = attrs.field(default=inf, validator=positive_seconds)
    """How long a session may live, busy or not, unless it is renewed. Off by default."""

    # Time to finish or to call `Session.renew`, and several ``cleanup_interval`` long.
    lifetime_notice: float = attrs.field(default=60.0, validator=finite_seconds)
    """How long before its lifetime ends a session is announced with `LifetimeExpiring`.

    At least ``cleanup_interval``, or the end may come first.
    """

    # Exact enough for clocks of a minute and more; a process with nothing to do wakes up rarely.
    cleanup_interval: float = attrs.field(default=5.0, validator=finite_seconds)
    """How late a timeout may be noticed: the watcher checks at most this often."""

    # Some tools work for hours, and only their handlers know: they use `trio.fail_after`.
    request_timeout: float = attrs.field(default=inf, validator=positive_seconds)
    """How long a handler may take, without the time in which it waits for its client. Off by
    default.
    """

    # Enough to store what was reached, or to say so to the client.
    ending_notice: float = attrs.field(default=1.0, validator=finite_seconds)
    """`RequestContext.ending` is set this long before the time of a handler is over."""

    # A person has to read and to decide. After five minutes without an answer that person is
    # probably not there, and the handler still holds what it has opened.
    question_timeout: float = attrs.field(default=300.0, validator=positive_seconds)
    """How long to wait for the answer to a question, unless the call sets a ``timeout``."""

    # The next use of a handle comes in the same conversation, after a meal at the latest.
    ended_handle_time: float = attrs.field(default=3600.0, validator=finite_seconds)
    """How long the owner of an ended handle is told the reason; see `UnknownHandle.reason`."""

    # As ``max_idle_time``: a parked handler is an idle session. Finite, because a client that gives
    # up sends nothing.
    request_state_timeout: float = attrs.field(
        default=1800.0, validator=[positive_seconds, finite_seconds]
    )
    """How long a client may take to send its request again, with the answers (2026-07-28).

    Its ``requestState`` is valid for that long, and a parked handler waits for that long.
    """

    # Builds and crawls take hours, and answers of people may take a night. Finite, because a client
    # that gives up sends nothing.
    task_timeout: float = attrs.field(
        default=86_400.0, validator=[positive_seconds, finite_seconds]
    )
    """How long the handler of a task may take, with the time in which it waits for its client
    (2026-07-28)."""

    # As ``ended_handle_time``: a client asks again in the same conversation.
    task_retention: float = attrs.field(
        default=3600.0, validator=[positive_seconds, finite_seconds]
    )
    """How long the outcome of a task is kept after its end, however often it is read."""

    # A person does not notice a second, and a poll takes less than a millisecond.
    task_poll_interval: float = attrs.field(
        default=1.0, validator=[positive_seconds, finite_seconds]
    )
    """How long clients are asked to wait between two questions for the status of a task."""

    # A network that fails for some seconds must not end a session; a client that reads nothing
    # for half a minute hangs.
    send_timeout: float = attrs.field(default=30.0, validator=positive_seconds)
    """How long a client may refuse to read before its session ends as unresponsive.

    That is the time for one write, of 64 KiB or of one larger message.
    """

    # The official clients send SIGTERM 2 seconds after they closed standard input: half a second
    # is left to clean up.
    eof_grace: float = attrs.field(default=1.5, validator=finite_seconds)
    """How long running requests may continue after the client closed its sending side."""

    # A client that reads at all has read the last messages by then. Part of the 9.5 s, see
    # ``drain_grace``.
    flush_budget: float = attrs.field(default=1.0, validator=finite_seconds)
    """How long an ending session may take to write its last messages."""

    # The largest part of the 9.5 s (see ``drain_grace``) that a session has for itself: a browser
    # closes in 2 s.
    cleanup_budget: float = attrs.field(default=3.0, validator=finite_seconds)
    """How long an ending session may take to leave its held contexts and its lifespan."""

    # It counts twice in the 9.5 s, see ``drain_grace``: for the hook that runs when the session
    # ends, and for the last ones.
    hook_budget: float = attrs.field(default=1.25, validator=positive_seconds)
    """How long one hook may take, and the last hooks of a session together."""

    # A session without running work ends in milliseconds. If one takes seconds, the client is
    # better served by an answer that there is no place.
    admission_budget: float = attrs.field(default=5.0, validator=finite_seconds)
    """How long a new session waits for the end of the one that makes room for it."""

    # Waiting is useful only where another process takes over: the operator knows.
    retire_grace: float = attrs.field(default=0.0, validator=seconds_or_off)
    """How long existing sessions and subscriptions are served before a drain; see `retire`.

    `math.inf` waits until nothing is left.
    """

    # All stages together have to end before ``docker stop`` kills, after 10 s:
    # drain_grace 3 + hook_budget 1.25 + flush_budget 1 + cleanup_budget 3 + hook_budget 1.25 = 9.5.
    drain_grace: float = attrs.field(default=3.0, validator=finite_seconds)
    """How long running work may continue in a drain, also when the manager's block is left."""

    # Only a program of its own may end its process: see ``SHUTDOWN_TIMEOUT``.
    shutdown_timeout: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(positive_seconds)
    )
    """How long a shutdown may take in all, from the beginning of the drain until everything has
    ended; the grace and the budgets of the stages count within it. Programs that end the
    process at its end (``serve``, `run_stdio`, `run_http`) use 9 seconds by default, because
    ``docker stop`` kills after 10; for other managers it is off.
    """

    # It needs a thread, which only a program of its own should start unasked: see
    # ``LOOP_BLOCKED_AFTER``.
    loop_blocked_after: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(positive_seconds)
    )
    """How long user code may block the event loop before a log record names the task and its line.
    A thread measures this, so the record is written while the loop is blocked; `EventLoopBlocked`
    follows. Programs (``serve``, `run_stdio`, `run_http`) use 1 second by default; for other
    managers it is off.
    """

    # Most sessions need no pings: a pipe ends with its client, and TCP has keep-alive.
    ping_interval: float = attrs.field(default=inf, validator=positive_seconds)
    """Time without activity after which the client is pinged. Off by default."""

    # A client answers a ping without any work, so this allows for a slow network.
    ping_timeout: float = attrs.field(default=10.0, validator=positive_seconds)
    """How long to wait for the answer to such a ping."""

    # One answer is lost easily, while a laptop sleeps for example.
    ping_strikes: int = attrs.field(default=3, validator=at_least_one)
    """Unanswered pings in a row that end a session, if it has no running work."""


def with_shutdown_timeout(clocks: CleanupConfig) -> CleanupConfig:
    """Return the clocks of a program that may end its process: its deadline has a default."""
    if clocks.shutdown_timeout is None:
        return attrs.evolve(clocks, shutdown_timeout=SHUTDOWN_TIMEOUT)
    return clocks


def with_loop_watch(clocks: CleanupConfig) -> CleanupConfig:
    """Return the clocks of a program: it reports code that blocks the event loop."""
    if clocks.loop_blocked_after is None:
        return attrs.evolve(clocks, loop_blocked_after=LOOP_BLOCKED_AFTER)
    return clocks


def log_level_or_none(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check for the name of a log level of MCP, or None."""
    if value is not None and not (isinstance(value, str) and value in SEVERITY):
        levels = ", ".join(SEVERITY)
        raise ValueError(f"{attribute.name} must be one of {levels}, or None, not {value!r}")


def utc_now() -> datetime:
    """Return the wall-clock time, in UTC."""
    return datetime.now(UTC)


@attrs.frozen(kw_only=True)
class SessionConfig:
    """All settings of a manager."""

    # Each limit has a default of its own.
    limits: SessionLimits = attrs.field(
        factory=SessionLimits, validator=attrs.validators.instance_of(SessionLimits)
    )
    """Limits on everything that a peer can make grow."""

    # Each clock has a default of its own.
    cleanup: CleanupConfig = attrs.field(
        factory=CleanupConfig, validator=attrs.validators.instance_of(CleanupConfig)
    )
    """Every clock."""

    # A random key is safe without any configuration. Only this process, until it ends, recognises
    # what it has signed.
    request_state_keys: RequestStateKeys = attrs.field(
        factory=RequestStateKeys,
        validator=attrs.validators.instance_of(RequestStateKeys),
        eq=False,
    )
    """The keys that sign the ``requestState`` of clients (2026-07-28)."""

    # Servers of other libraries send all log messages, and few clients set a level. Messages below
    # "info" are for the developer of the server.
    default_log_level: LogLevel | None = attrs.field(default="info", validator=log_level_or_none)
    """The lowest level of log messages that a session's client gets before it has sent
    ``logging/setLevel`` (up to 2025-11-25); None for no messages until then.

    Requests of 2026-07-28 carry their own level. Without one they get no messages, as the protocol
    requires.
    """

    # One process needs none, and names without one are shorter.
    node: str | None = attrs.field(default=None, validator=node_or_none)
    """The label of this process among several that serve the same clients: 1 to 32 of ``a-z``,
    ``0-9`` and ``-``. Session ids, handles, task ids and the ``requestState`` of parked handlers
    begin with it, so that proxies can send each request to the process that knows its name. Over
    HTTP, a request that names another node is answered with 421."""

    # UTC, so that the times of several processes can be compared.
    wall_clock: Callable[[], datetime] = attrs.field(
        default=utc_now, validator=attrs.validators.is_callable()
    )
    """The clock for times that leave the process; everything else uses Trio's clock."""
