"""Clean-up: one watcher for every clock of every session.

Activity writes a timestamp and nothing else. The watcher keeps one entry a session in a heap of
moments to look again; what it finds due then ends, what is not due goes back with a later
moment. So the cost of expiry grows with what expires and not with what is alive, a clock never
strikes early, and it strikes late by the clean-up interval at most.
"""

from __future__ import annotations

import heapq
from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from ..core import events
from ..core.config import CleanupConfig
from ..core.errors import (
    InvalidSession,
    McpError,
    QuestionError,
    QuestionTimeout,
    SessionError,
    SessionTerminated,
)
from ..core.ids import SessionId, SessionKind
from ..core.reasons import TerminationReason
from ..core.state import LIVE_STATES, SessionState
from .failures import contained

if TYPE_CHECKING:
    from .outlet import Outlet
    from .session import Session
    from .store import SessionStore

BATCH: Final = 64
"""Sessions looked at before other tasks get a turn."""

HANDSHAKING: Final = frozenset({SessionKind.CONNECTION, SessionKind.HEADER})
"""The kinds that a client opens, and has to finish opening."""


@final
@attrs.define(eq=False)
class Watcher:
    """Looks at each session when one of its clocks may be due, and not before."""

    _store: SessionStore
    _heap: list[tuple[float, SessionId, SessionKind]] = attrs.field(
        factory=list[tuple[float, SessionId, SessionKind]], init=False
    )
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _head: float = attrs.field(default=inf, init=False)

    def __len__(self) -> int:
        return len(self._heap)

    def watch(self, session: Session) -> None:
        """Note that a clock of a session may strike sooner than was known. Not a checkpoint.

        One that strikes later needs no note: the watcher looks at the old moment, and finds out.
        """
        self._push(session, _next_strike(session, trio.current_time()))

    def _push(self, session: Session, when: float) -> None:
        if when >= session._next_check:
            return
        session._next_check = when
        # Ids, not sessions: an entry must keep nothing alive that has ended.
        heapq.heappush(self._heap, (when, session.session_id, session.kind))
        if len(self._heap) > 2 * len(self._store) + BATCH:
            self._rebuild()
        if when < self._head:
            self._changed.set()

    def _rebuild(self) -> None:
        """Drop the entries of sessions that have ended, when they are the larger part."""
        self._heap = [
            (session._next_check, session.session_id, session.kind)
            for session in self._store
            if session._next_check < inf
        ]
        heapq.heapify(self._heap)

    async def run(self, interval: float) -> None:
        """Look, and sleep until it is time to look again, for ever."""
        last_pass = -inf
        while True:
            if self._changed.is_set():  # Only then: another watcher may wait for it too.
                self._changed = trio.Event()
            self._head = self._heap[0][0] if self._heap else inf
            look_at = max(self._head, last_pass + interval)
            with trio.move_on_at(look_at):
                await self._changed.wait()
            if trio.current_time() >= look_at:
                last_pass = trio.current_time()
                await self._look()

    async def _look(self) -> None:
        now = trio.current_time()
        looked_at = 0
        while self._heap and self._heap[0][0] <= now:
            when, session_id, kind = heapq.heappop(self._heap)
            session = self._store.get(session_id, kind)
            if session is None or session._next_check != when:
                continue  # It has ended, or there is a newer entry.
            session._next_check = inf
            with contained(session._failed_itself, waits=False):
                _strike(session, now)
            if session.state in LIVE_STATES:
                self._push(session, _next_strike(session, now))
            looked_at += 1
            if looked_at % BATCH == 0:
                await trio.lowlevel.checkpoint()


def connection_clocks(clocks: CleanupConfig, handshake_timeout: float) -> CleanupConfig:
    """Return the clocks of sessions that a connection carries. Not a checkpoint.

    Args:
        clocks: The manager's.
        handshake_timeout: What the transport decides, where the settings leave that to it.
    """
    chosen = clocks.connection_handshake_timeout
    return attrs.evolve(
        clocks,
        handshake_timeout=handshake_timeout if chosen is None else chosen,
        max_idle_time=clocks.connection_idle_time,
    )


def _notice(clocks: CleanupConfig) -> float:
    """Return how long before its end a lifetime is announced: never so late that it is missed."""
    return max(clocks.lifetime_notice, clocks.cleanup_interval)


def _next_strike(session: Session, now: float) -> float:
    """Return the next moment at which one of the session's clocks may be due."""
    clocks = session._clocks
    when = session._expires_at
    if not session._expiry_announced:
        when -= _notice(clocks)
    handshake_began = _handshake_began(session)
    if handshake_began is not None and clocks.handshake_timeout < inf:
        return min(when, handshake_began + clocks.handshake_timeout)
    # While it is busy nothing says when it will be quiet: then it is quiet from now on at best.
    quiet_since = now if session.busy else session._last_active
    when = min(when, quiet_since + clocks.max_idle_time)
    if handshake_began is not None:
        return when  # Only an open session is idle, and is pinged.
    if session.state is SessionState.ACTIVE:
        when = min(when, quiet_since + clocks.idle_after)
    if session._outlet is not None and clocks.ping_interval < inf:
        when = min(when, max(quiet_since, session._last_ping) + clocks.ping_interval)
    return when


def _handshake_began(session: Session) -> float | None:
    """Return since when a handshake is under way; None where there is none to wait for."""
    if session.state is SessionState.INITIALIZING and session.kind in HANDSHAKING:
        return session._opened_at
    # Requests that stand for themselves came first, and the connection may have been long open.
    return None if session._opening is None else session._opening.since


def _strike(session: Session, now: float) -> None:
    """Let every clock of a session strike that is due.

    What is compared is what `_next_strike` computed, to the last bit: rounded another way, a clock
    could be due to be looked at and not due to strike, again and again.
    """
    clocks = session._clocks
    if now >= session._expires_at:
        session.terminate(TerminationReason.LIFETIME)
        return
    notice_at = session._expires_at - _notice(clocks)
    if now >= notice_at and not session._expiry_announced:
        session._expiry_announced = True
        session._emit(events.LifetimeExpiring(**session._stamp(), seconds_left=session.time_left))
    handshake_began = _handshake_began(session)
    if handshake_began is not None and clocks.handshake_timeout < inf:
        if now >= handshake_began + clocks.handshake_timeout:
            session.terminate(TerminationReason.HANDSHAKE_TIMEOUT)
    elif not session.busy:
        _strike_quiet(session, now, opening=handshake_began is not None)


def _strike_quiet(session: Session, now: float, *, opening: bool) -> None:
    """Let the clocks strike that count since a session was last active."""
    clocks = session._clocks
    quiet_since = session._last_active
    if now >= quiet_since + clocks.max_idle_time:
        session.terminate(TerminationReason.IDLE)
        return
    if opening:
        return  # Only an open session is idle, and is pinged.
    if now >= quiet_since + clocks.idle_after and session.state is SessionState.ACTIVE:
        session._move(SessionState.IDLE)
        for gate in session._gates():
            gate.retire()
    if session._outlet is not None:
        _ping_when_quiet(session, session._outlet, now)


def _ping_when_quiet(session: Session, outlet: Outlet, now: float) -> None:
    quiet_since, last_ping = session._last_active, session._last_ping
    if now >= max(quiet_since, last_ping) + session._clocks.ping_interval:
        if quiet_since > last_ping:
            session._strikes = 0  # It has been heard of since: that is as good as an answer.
        session._last_ping = now
        if not outlet.connected or session._nursery is None:
            return  # Who has nothing open to hear a ping on, or shook no hands, is not silent.
        session.start_soon(_keep_alive, session, name="keep-alive ping", service=True)


async def _keep_alive(session: Session) -> None:
    """Ping the client; end the session when it has missed too many in a row."""
    clocks = session._clocks
    try:
        await session.ask("ping", timeout=clocks.ping_timeout)
    except McpError:
        pass  # An error is an answer too.
    except QuestionTimeout:
        session._strikes += 1
        if session._strikes >= clocks.ping_strikes and not session.busy:
            session.terminate(TerminationReason.UNRESPONSIVE)
        return
    except (QuestionError, SessionTerminated):
        return  # It was not even asked, or the session ended for another reason.
    session._strikes = 0


async def run_cleanup(
    store: SessionStore,
    config: CleanupConfig | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Watch the clocks of all sessions of a store, until cancelled.

    A manager runs one of these. Startable; a checkpoint.

    Args:
        store: Whose sessions to watch.
        config: Where the clean-up interval comes from; the store's own configuration by default.
        task_status: Told when the watcher is running.
    """
    interval = store.cleanup_interval if config is None else config.cleanup_interval
    task_status.started()
    await store._watcher.run(interval)


async def cleanup_session(
    session: Session, reason: TerminationReason = TerminationReason.REQUESTED
) -> TerminationReason:
    """End a session and wait until nothing of it is left.

    A checkpoint. When cancelled, it stops waiting; the session ends all the same.

    Returns:
        The reason that it ended for; not ``reason`` if another one was first.

    Raises:
        RuntimeError: The session itself runs the calling task; nothing was changed.
    """
    session._check_not_inside()
    session.terminate(reason)
    return await session.wait_terminated()


async def cleanup_resources(session: Session) -> None:
    """Leave all contexts that a session holds, last one first; the session goes on.

    Those that are still being entered are not held yet, and stay. A checkpoint. When cancelled,
    contexts that are being left are left to the end, the others stay.

    Raises:
        RuntimeError: One of these contexts runs the calling task.
    """
    session._check_not_held()
    await trio.lowlevel.checkpoint()
    if session._holders is not None:
        await session._holders.leave(trio.current_time() + session._clocks.cleanup_budget)


def validate_sessions(store: SessionStore) -> list[SessionError]:
    """Check that the books of a store agree; a healthy one gives an empty list.

    Not a checkpoint. It is meant for tests and for diagnosis: it looks at every session.
    """
    errors: list[SessionError] = []
    indexed = {session for held in store._principals.values() for session in held}
    for session in store:
        requests = sum(gate.running + gate.queued for gate in session._gates())
        problems: list[str] = []
        if session.state is SessionState.TERMINATED:
            problems.append("has ended, but is still in the table")
        if (session.principal is not None) != (session in indexed):
            problems.append("is not indexed under its principal")
        if requests > session._busy:
            problems.append("has requests that are not counted as work")
        if session._busy < 0:
            problems.append("has finished more work than it began")
        if (session.termination_reason is None) != (session.state in LIVE_STATES):
            problems.append("has a reason to end and lives, or the other way round")
        errors += [InvalidSession(f"{session!r} {problem}") for problem in problems]
    errors += [
        InvalidSession(f"{session!r} is indexed, but not in the table")
        for session in indexed.difference(store)
    ]
    handles = Counter(s._handle_kind for s in store if s._handle_kind is not None)
    if store._handle_counts != handles:
        counts = f"{dict(store._handle_counts)}, and there are {dict(handles)}"
        errors.append(InvalidSession(f"handles are counted as {counts}"))
    return errors
