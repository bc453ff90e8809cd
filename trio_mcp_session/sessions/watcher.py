"""One watcher for every clock of every session.

Activity writes a timestamp and nothing else. The watcher keeps one entry a session in a heap of
moments to look again; what it finds due then ends, what is not due goes back with a later
moment. So the cost of expiry grows with what expires and not with what is alive, a clock never
strikes early, and it strikes late by the clean-up interval at most.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, final

import attrs
import trio

from ..core import events
from ..core.config import CleanupConfig
from ..core.ids import SessionId, SessionKind
from ..core.reasons import TerminationReason
from ..core.state import LIVE_STATES, SessionState
from .failures import contained

if TYPE_CHECKING:
    from .session import Session

BATCH: Final = 64
"""Sessions looked at before other tasks get a turn."""

HANDSHAKING: Final = frozenset({SessionKind.CONNECTION, SessionKind.HEADER})
"""The kinds that a client opens, and has to finish opening."""


class SessionTable(Protocol):
    """The sessions to watch. `SessionStore` is one."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Session]: ...

    def get(self, session_id: str, kind: SessionKind | None = None) -> Session | None:
        """Look a live session up."""
        ...


@final
@attrs.define(eq=False)
class Watcher:
    """Looks at each session when one of its clocks may be due, and not before."""

    _sessions: SessionTable
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
        self._push(session, _next_check_of(session, trio.current_time()))

    def _push(self, session: Session, when: float) -> None:
        if when >= session._next_check:
            return
        session._next_check = when
        # Ids, not sessions: an entry must keep nothing alive that has ended.
        heapq.heappush(self._heap, (when, session.session_id, session.kind))
        if len(self._heap) > 2 * len(self._sessions) + BATCH:
            self._rebuild()
        if when < self._head:
            self._changed.set()

    def _rebuild(self) -> None:
        """Drop the entries of sessions that have ended, when they are the larger part."""
        self._heap = [
            (session._next_check, session.session_id, session.kind)
            for session in self._sessions
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
            session = self._sessions.get(session_id, kind)
            if session is None or session._next_check != when:
                continue  # It has ended, or there is a newer entry.
            session._next_check = inf
            with contained(session._failed_itself, waits=False):
                _check_clocks(session, now)
            if session.state in LIVE_STATES:
                self._push(session, _next_check_of(session, now))
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


def _next_check_of(session: Session, now: float) -> float:
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
    if session._connection is not None and clocks.ping_interval < inf:
        when = min(when, session._connection.next_ping(quiet_since))
    return when


def _handshake_began(session: Session) -> float | None:
    """Return since when a handshake is under way; None where there is none to wait for."""
    if session.state is SessionState.INITIALIZING and session.kind in HANDSHAKING:
        return session._opened_at
    # Stateless requests came first, and the connection may have been open for long.
    return None if session._connection is None else session._connection.handshake_began


def _check_clocks(session: Session, now: float) -> None:
    """Let every clock of a session strike that is due.

    What is compared is what `_next_check_of` computed, to the last bit: rounded another way, a
    clock could be due to be looked at and not due to strike, again and again.
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
        _check_quiet_clocks(session, now, opening=handshake_began is not None)


def _check_quiet_clocks(session: Session, now: float, *, opening: bool) -> None:
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
        if session._connection is not None:
            session._connection.session_is_idle()
    if session._connection is not None:
        session._connection.ping_if_due(quiet_since, now)
