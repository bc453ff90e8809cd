"""Crowds: the unauthenticated sessions of one kind by the address of their peers.

They are known only while all places of the kind are taken: `Admission` makes an object of this
class when it needs one, and drops it when there is room again. So an idle session takes nothing for
it, and neither does an opening while there are places.

For each address there is a heap of its sessions, in the order in which they make room: those whose
client never finished its handshake, then those that were quiet for longest. An entry may be out of
date, since activity does not move it. It gets its true place when it comes to the front.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final, final

import attrs

from ..core.lifecycle_states import LIVE_STATES, SessionState
from ..core.peer import host_of, network_of
from ..core.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from ..core.identity import Principal
    from .session import Session

LOOKS: Final = 64
"""How many sessions are looked at for one that can make room. Those that cannot go to the end, so
the next attempt looks at others, and no client can make an attempt expensive."""

SPARE: Final = 64
"""A heap may have this many entries of ended sessions, and one more for each other entry."""


@final
@attrs.define(order=True)
class Entry:
    """The place of a session in the heap of its address."""

    finished: bool
    """Whether its client had finished the handshake."""
    since: float
    """When it was active last."""
    number: int
    session: Session | None = attrs.field(order=False)
    """The session; None once it is no longer counted."""

    @property
    def is_late(self) -> bool:
        """Whether the session has moved back since."""
        assert self.session is not None
        return (self.finished, self.since) < _place_of(self.session)


def address_of(principal: Principal | None, peer: str) -> str:
    """Return the address under which a session is counted; empty if it is not."""
    return "" if principal is not None else network_of(host_of(peer))


@final
@attrs.define(eq=False)
class Crowds:
    """The unauthenticated sessions of one kind, and the reservations for new ones, by address."""

    _ranking: Ranking[str] = attrs.field(factory=Ranking[str], init=False)
    _heaps: dict[str, list[Entry]] = attrs.field(factory=dict[str, list[Entry]], init=False)
    _addresses: dict[Hashable, str] = attrs.field(factory=dict["Hashable", str], init=False)
    """The address of each session and reservation that is counted."""
    _entries: dict[Hashable, Entry] = attrs.field(factory=dict["Hashable", Entry], init=False)
    _number: int = attrs.field(default=0, init=False)

    @classmethod
    def of(cls, sessions: Iterable[Session]) -> Crowds:
        """Count the sessions of a kind."""
        crowds = cls()
        for session in sessions:
            if session.state in LIVE_STATES:
                crowds._add_session(session)
        for heap in crowds._heaps.values():
            heapify(heap)
        return crowds

    def __getitem__(self, address: str) -> int:
        return self._ranking[address]

    @property
    def most(self) -> int:
        """How many are counted at the address that holds the most."""
        return self._ranking.most

    def add_session(self, session: Session) -> None:
        """Count a new session, if its client is unauthenticated and has an address."""
        entry = self._add_session(session)
        if entry is not None:
            heap = self._heaps[self._addresses[session]]
            heappush(heap, heap.pop())

    def add_reservation(self, reservation: Hashable, address: str) -> None:
        """Count a place that is reserved for a client at this address."""
        if address:
            self._addresses[reservation] = address
            self._ranking.add(address)

    def discard(self, counted: Hashable) -> None:
        """Stop counting a session or reservation, if it was counted."""
        address = self._addresses.pop(counted, None)
        if address is None:
            return
        self._ranking.remove(address)
        left = self._ranking[address]
        entry = self._entries.pop(counted, None)
        if entry is not None:
            entry.session = None
        if not left:
            self._heaps.pop(address, None)
        elif entry is not None and len(self._heaps[address]) > 2 * left + SPARE:
            heap = [one for one in self._heaps[address] if one.session is not None]
            heapify(heap)
            self._heaps[address] = heap

    def find_victim(self, fewer: int, now: float) -> tuple[str, Session] | None:
        """Return a session at the address that holds the most, and that address.

        Args:
            fewer: The address has to hold more than this.
            now: The time, on Trio's clock.

        Returns:
            None if it does not hold more, or none of its sessions may be ended.
        """
        if self.most <= fewer:
            return None
        looks = LOOKS
        for address in self._ranking.leaders:
            heap = self._heaps.get(address, [])
            # Each session is looked at twice at most: its entry is corrected, then it is judged.
            for _ in range(min(looks, 2 * len(heap))):
                looks -= 1
                session = self._front(heap, now) if heap else None
                if session is not None:
                    return address, session
            if not looks:
                break
        return None

    def _front(self, heap: list[Entry], now: float) -> Session | None:
        """Return the session at the front if it may be ended; else correct or remove its entry."""
        entry = heap[0]
        session = entry.session
        if session is None:
            heappop(heap)
        elif entry.is_late:
            entry.finished, entry.since = _place_of(session)
            heapreplace(heap, entry)
        elif _may_end(session):
            return session
        else:
            entry.finished, entry.since = True, now
            heapreplace(heap, entry)
        return None

    def _add_session(self, session: Session) -> Entry | None:
        """Count a session, with its entry at the end of the heap."""
        address = address_of(session.principal, session.transport.peer)
        if not address or session._handle_kind is not None:
            return None
        self._addresses[session] = address
        self._ranking.add(address)
        self._number += 1
        self._entries[session] = entry = Entry(*_place_of(session), self._number, session)
        self._heaps.setdefault(address, []).append(entry)
        return entry


def _place_of(session: Session) -> tuple[bool, float]:
    """Return the sort key of a session: the session with the lowest key makes room first."""
    return session.state is not SessionState.INITIALIZING, session._last_active


def _may_end(session: Session) -> bool:
    """Return whether a session makes room: it has no work, and none of its streams is open."""
    client = session._connection
    return not (
        session.busy or session._is_opening() or (client is not None and client.has_open_stream)
    )
