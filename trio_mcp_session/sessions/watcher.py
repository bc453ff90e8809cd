"""One watcher for every clock of every session.

Activity only writes a timestamp. The watcher keeps a heap with one entry for each session: when to
check it next. It ends a session whose clock is due, and puts any other back with a later time. So
the cost of expiry grows with the sessions that expire and not with all sessions. A clock never
expires early, and is noticed late by the clean-up interval at most.
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
from ..core.lifecycle_states import LIVE_STATES, SessionState
from ..core.reasons import TerminationReason
from .arrivals import let_arrive
from .failures import contained

if TYPE_CHECKING:
    from .session import Session

BATCH: Final = 64
"""How many sessions are checked before other tasks may run."""

HANDSHAKING: Final = frozenset({SessionKind.CONNECTION, SessionKind.HEADER})
"""The kinds that a client opens with a handshake."""


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
    """Checks each session when one of its clocks may be due, and not before."""

    _sessions: SessionTable
    _heap: list[tuple[float, SessionId, SessionKind]] = attrs.field(
        factory=list[tuple[float, SessionId, SessionKind]], init=False
    )
    _fresh: list[tuple[float, SessionId, SessionKind]] | None = attrs.field(
        default=None, init=False
    )
    """The heap that is being built in its place; None while none is."""
    _is_stale: bool = attrs.field(default=False, init=False)
    """Whether most entries of the heap are of sessions that have ended."""
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _head: float = attrs.field(default=inf, init=False)

    def __len__(self) -> int:
        return len(self._heap)

    def watch(self, session: Session) -> None:
        """Called when a clock of a session may be due sooner than before. Not a checkpoint.

        A clock that is due later needs no call: the watcher checks it at the old time, and puts it
        back.
        """
        self._push(session, _next_check_of(session, trio.current_time()))

    def _push(self, session: Session, when: float) -> None:
        if when >= session._next_check:
            return
        session._next_check = when
        # Ids, not sessions: an entry must not keep a session alive that has ended.
        entry = (when, session.session_id, session.kind)
        heapq.heappush(self._heap, entry)
        if self._fresh is not None:
            heapq.heappush(self._fresh, entry)
        size, usual = len(self._heap), 2 * len(self._sessions) + BATCH
        if size > usual and self._fresh is None:
            self._is_stale = True
            self._changed.set()
        if size > 2 * usual:
            self._rebuild_at_once()
        if when < self._head:
            self._changed.set()

    async def _rebuild(self) -> None:
        """Drop the entries of sessions that have ended. A checkpoint after every `BATCH` sessions.

        The old heap stays until the new one is complete. An entry may come twice into the new one:
        the second is out of date when the first was handled.
        """
        fresh: list[tuple[float, SessionId, SessionKind]] = []
        self._fresh = fresh
        try:
            for number, session in enumerate(self._sessions, 1):
                if session._next_check < inf:
                    heapq.heappush(fresh, (session._next_check, session.session_id, session.kind))
                if number % BATCH == 0:
                    await trio.lowlevel.checkpoint()
                    if self._fresh is not fresh:
                        return
            self._heap = fresh
        finally:
            self._fresh = None
            self._is_stale = False

    def _rebuild_at_once(self) -> None:
        """Do the same without a checkpoint, where one turn of the loop added as many entries."""
        self._heap = [
            (session._next_check, session.session_id, session.kind)
            for session in self._sessions
            if session._next_check < inf
        ]
        heapq.heapify(self._heap)
        self._fresh = None
        self._is_stale = False

    async def run(self, interval: float) -> None:
        """Check sessions when they may be due, for ever."""
        last_pass = -inf
        while True:
            if self._changed.is_set():  # An event that is not set may have another waiter.
                self._changed = trio.Event()
            if self._is_stale:
                await self._rebuild()
            self._head = self._heap[0][0] if self._heap else inf
            # Not before now: a clock may be due already when it is set.
            look_at = max(self._head, last_pass + interval, trio.current_time())
            with trio.move_on_at(look_at):
                await self._changed.wait()
            if trio.current_time() >= look_at:
                await let_arrive(look_at)
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
            with contained(session._session_task_failed, waits=False):
                _check_clocks(session, now)
            if session.state in LIVE_STATES:
                self._push(session, _next_check_of(session, now))
            looked_at += 1
            if looked_at % BATCH == 0:
                await trio.lowlevel.checkpoint()


def connection_clocks(clocks: CleanupConfig, handshake_timeout: float) -> CleanupConfig:
    """Return the clocks of sessions that a connection carries. Not a checkpoint.

    Args:
        clocks: The clocks of the manager.
        handshake_timeout: The timeout of the transport, used if the settings leave it to that.
    """
    chosen = clocks.connection_handshake_timeout
    return attrs.evolve(
        clocks,
        handshake_timeout=handshake_timeout if chosen is None else chosen,
        max_idle_time=clocks.connection_idle_time,
    )


def _notice(clocks: CleanupConfig) -> float:
    """Return how many seconds before the end of a lifetime that end is announced."""
    return max(clocks.lifetime_notice, clocks.cleanup_interval)


def _next_check_of(session: Session, now: float) -> float:
    """Return the next time at which one of the session's clocks may be due."""
    clocks = session._clocks
    when = session._expires_at
    if not session._expiry_announced:
        when -= _notice(clocks)
    handshake_began = _handshake_began(session)
    if handshake_began is not None and clocks.handshake_timeout < inf:
        return min(when, handshake_began + clocks.handshake_timeout)
    # It is not known how long a busy session stays busy: it may become quiet now at the earliest.
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
    """Return when the handshake began that the session waits for; None if it waits for none."""
    if session.state is SessionState.INITIALIZING and session.kind in HANDSHAKING:
        return session._opened_at
    # Stateless requests came first, and the connection may have been open for long.
    return None if session._connection is None else session._connection.handshake_began


def _check_clocks(session: Session, now: float) -> None:
    """Act on every clock of a session that is due.

    The values compared are exactly those that `_next_check_of` computes. Rounded differently, a
    clock could be due for a check and not be due, again and again.
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
    """Act on the clocks that count from a session's last activity."""
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
