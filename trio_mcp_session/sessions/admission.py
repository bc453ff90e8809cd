"""Admission: reserves a place for a new session within the limits, before it is set up.

A place is reserved synchronously, before anything is set up and before any wait, so that new
sessions never exceed a limit together. A new session counts for several quotas: those of its kind,
of its principal, of its kind of handles. Where some are full, a victim is chosen: a session that
counts for all of these and is ended. It is a finished task of the same principal that its client
has fetched, if there is one; otherwise the policy chooses. Each reservation claims a victim of its
own, and the new session continues when the victim has left the table.

The default policy, `AdmissionPolicy.FAIR`, shares the places between addresses: see `crowds`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from ..core.config import AdmissionPolicy, SessionLimits
from ..core.errors import AccessRevoked, OpeningRateExceeded, SessionLimitReached
from ..core.ids import SessionKind
from ..core.lifecycle_states import LIVE_STATES
from ..core.peer import party_of
from ..core.reasons import TerminationReason
from .crowds import Crowds, address_of
from .seldom_log import SeldomLog

if TYPE_CHECKING:
    from ..core.handle_kind import HandleKind
    from ..core.identity import Principal
    from ..core.rate_limit import TokenBuckets
    from .session import Session
    from .store import SessionStore

ROOM_AGAIN: Final = 7 / 8
"""If a smaller part of the places of a kind is taken, its crowds are dropped. All sessions are
counted again only after new ones have taken the rest of the places."""


@final
@attrs.frozen
class Quota:
    """Which sessions share a limit: those of a kind, as far as the other fields narrow it down."""

    kind: SessionKind
    principal: Principal | None
    handle_kind: HandleKind[Any] | None
    limit: int = attrs.field(eq=False)

    def includes(self, session: Session) -> bool:
        """Return whether a session counts for this quota."""
        return (
            session.kind is self.kind
            and self.principal in (None, session.principal)
            and self.handle_kind in (None, session._handle_kind)
        )

    def reached(self) -> SessionLimitReached:
        """Return the error to raise when the quota is full."""
        return SessionLimitReached(
            self.kind,
            self.limit,
            per_principal=self.principal is not None,
            prefix=None if self.handle_kind is None else self.handle_kind.prefix,
        )


@final
@attrs.define(eq=False)
class Reservation:
    """A place that is reserved for a new session."""

    quotas: tuple[Quota, ...]
    """The quotas that the new session counts for, the narrowest first."""

    victim: Session | None
    """The session that is ended to make room; None if the place is free."""

    full: Quota | None
    """The quota to report if the victim does not end in time."""

    counted: list[Quota] = attrs.field(factory=list[Quota], init=False)
    """The quotas that count the reservation; the others count its victim while that exists."""

    principal: Principal | None = None
    """The principal of the new session."""

    address: str = ""
    """The address of the new session's client, if that is unauthenticated; empty otherwise."""

    freed: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the victim has left the table, or the principal's access was revoked."""

    revoked: bool = attrs.field(default=False, init=False)
    """Whether the principal's access was revoked while the reservation waited."""

    async def wait(self, budget: float) -> None:
        """Wait until the place is free. A checkpoint only where there is a victim.

        Raises:
            SessionLimitReached: The victim did not end within ``budget`` seconds.
            AccessRevoked: The principal's access was revoked meanwhile.
        """
        if self.full is None:
            return
        with trio.move_on_after(budget):
            await self.freed.wait()
        if self.revoked:
            raise AccessRevoked
        if not self.freed.is_set():
            raise self.full.reached()


@final
@attrs.define(eq=False)
class Admission:
    """Counts the places that are taken, and decides whether a new session gets one."""

    _store: SessionStore
    _limits: SessionLimits
    _reservations: set[Reservation] = attrs.field(factory=set[Reservation], init=False)
    # A new session and the session that it replaces share one place in the quotas of both.
    _reserved: Counter[Quota] = attrs.field(factory=Counter[Quota], init=False)
    _claimed: dict[Session, Reservation] = attrs.field(
        factory=dict["Session", Reservation], init=False
    )
    _crowds: dict[SessionKind, Crowds] = attrs.field(factory=dict[SessionKind, Crowds], init=False)
    """The crowds of each kind whose places are all taken, or were a short time ago."""
    _openings: TokenBuckets | None = attrs.field(init=False)
    _log: SeldomLog = attrs.field(factory=SeldomLog, init=False)

    def __attrs_post_init__(self) -> None:
        self._openings = self._limits.opening_rate.buckets()

    @property
    def reserved(self) -> int:
        """How many places are reserved for sessions that are not in the table yet."""
        return len(self._reservations)

    def check_rate(self, kind: SessionKind, principal: Principal | None, peer: str) -> None:
        """Count an opening for a client of a transport. Not a checkpoint.

        Raises:
            OpeningRateExceeded: The principal or address opens sessions too often.
        """
        if self._openings is None or (kind is SessionKind.CONNECTION and not peer):
            return
        party = party_of(principal, peer)
        wait = 0.0 if party is None else self._openings.take(party, trio.current_time())
        if wait:
            name = party if principal is None else principal.subject
            self._log.write(
                "rate",
                "%s opens %s sessions too often: new ones are refused (opening_rate)",
                name,
                kind.value,
            )
            raise OpeningRateExceeded(wait)

    @contextmanager
    def reserve(
        self,
        kind: SessionKind,
        principal: Principal | None,
        handle_kind: HandleKind[Any] | None = None,
        peer: str = "",
    ) -> Iterator[Reservation]:
        """Reserve a place for the length of a block. Add the session to the table within it.

        Raises:
            SessionLimitReached: A limit is reached, and the policy makes no room.
        """
        quotas = tuple(self._quotas(kind, principal, handle_kind))
        reservation = self._reserve(quotas, principal, handle_kind, address_of(principal, peer))
        self._reservations.add(reservation)
        crowds = self._crowds.get(kind)
        if crowds is not None:
            crowds.add_reservation(reservation, reservation.address)
        victim = reservation.victim
        shared = [quota for quota in quotas if victim is not None and quota.includes(victim)]
        self._count(reservation, [quota for quota in quotas if quota not in shared])
        if victim is not None:
            self._claimed[victim] = reservation
            same = principal is not None and victim.principal == principal
            victim.terminate(TerminationReason.REPLACED if same else TerminationReason.EVICTED)
        try:
            yield reservation
        finally:
            self._reservations.remove(reservation)
            if self._crowds and (crowds := self._crowds.get(kind)) is not None:
                crowds.discard(reservation)
            for quota in reservation.counted:
                self._reserved[quota] -= 1
                if not self._reserved[quota]:
                    del self._reserved[quota]
            if victim is not None:
                self._claimed.pop(victim, None)

    def revoke(self, principal: Principal) -> None:
        """Refuse the new sessions of a principal that wait for a place. Not a checkpoint."""
        for reservation in self._reservations:
            if reservation.principal == principal:
                reservation.revoked = True
                reservation.freed.set()

    def added(self, session: Session) -> None:
        """Called when a session has come into the table. Not a checkpoint."""
        if self._crowds and (crowds := self._crowds.get(session.kind)) is not None:
            crowds.add_session(session)

    def make_free(self, session: Session) -> None:
        """Called when a session has left the table. Not a checkpoint.

        The reservation that claimed this session keeps the place, although its task may not have
        run since.
        """
        if self._crowds and (crowds := self._crowds.get(session.kind)) is not None:
            crowds.discard(session)
            if self._store.count(session.kind) < ROOM_AGAIN * self._limits.sessions_of(
                session.kind
            ):
                del self._crowds[session.kind]
        reservation = self._claimed.pop(session, None)
        if reservation is not None:
            shared = [quota for quota in reservation.quotas if quota.includes(session)]
            self._count(reservation, shared)
            reservation.freed.set()

    def _count(self, reservation: Reservation, quotas: list[Quota]) -> None:
        reservation.counted += quotas
        for quota in quotas:
            self._reserved[quota] += 1

    def _quotas(
        self,
        kind: SessionKind,
        principal: Principal | None,
        handle_kind: HandleKind[Any] | None,
    ) -> Iterator[Quota]:
        if principal is not None:
            if handle_kind is not None:
                yield Quota(kind, principal, handle_kind, handle_kind.max_per_principal)
            yield Quota(kind, principal, None, self._limits.per_principal(kind))
        if handle_kind is not None:
            yield Quota(kind, None, handle_kind, handle_kind.max_handles)
        yield Quota(kind, None, None, self._limits.sessions_of(kind))

    def _reserve(
        self,
        quotas: tuple[Quota, ...],
        principal: Principal | None,
        handle_kind: HandleKind[Any] | None,
        address: str,
    ) -> Reservation:
        full = [quota for quota in quotas if self._taken(quota) >= quota.limit]
        if not full:
            return Reservation(quotas, None, None, principal, address)
        realm = _realm(handle_kind)
        policy = self._limits.admission if realm is None else realm.admission
        victim = self._own_that_makes_room(full, principal)
        if victim is None:
            victim = (
                self._fair_victim(full, principal, address)
                if policy is AdmissionPolicy.FAIR
                else self._victim(full, principal, handle_kind)
            )
        if victim is None:
            raise full[0].reached()
        return Reservation(quotas, victim, full[0], principal, address)

    def _taken(self, quota: Quota) -> int:
        """Return how many sessions and reservations a quota counts, sessions that end included."""
        if quota.principal is not None and quota.handle_kind is not None:
            there = sum(map(quota.includes, self._store.of_principal(quota.principal)))
        elif quota.principal is not None:
            there = self._store.count_of(quota.principal, quota.kind)
        elif quota.handle_kind is not None:
            there = self._store.count_handles(quota.handle_kind)
        else:
            there = self._store.count(quota.kind)
        return there + self._reserved[quota]

    def _own_that_makes_room(
        self, full: list[Quota], principal: Principal | None
    ) -> Session | None:
        """Return the oldest session of the principal that can be ended for another of its kind."""
        if principal is None:
            return None
        for session in self._store.of_principal(principal):
            if (
                session._makes_room
                and not session.busy
                and session.state in LIVE_STATES
                and all(quota.includes(session) for quota in full)
            ):
                return session
        return None

    def _fair_victim(
        self, full: list[Quota], principal: Principal | None, address: str
    ) -> Session | None:
        """Return a session at the address that holds the most unauthenticated sessions.

        None if it does not hold more than the principal or address of the new session would hold.
        """
        kind = full[0].kind
        if full != [Quota(kind, None, None, 0)] or (principal is None and not address):
            return None
        crowds = self._crowds.get(kind)
        if crowds is None:
            self._crowds[kind] = crowds = Crowds.of(self._store.of_kind(kind))
            for reservation in self._reservations:
                if reservation.quotas[-1].kind is kind:
                    crowds.add_reservation(reservation, reservation.address)
        if principal is None:
            held = crowds[address]
        else:
            held = self._taken(Quota(kind, principal, None, 0))
        found = crowds.find_victim(held + 1, trio.current_time())
        if found is None:
            return None
        crowded, session = found
        self._log.write(
            "room",
            "all %d places for %s sessions are taken: %s holds %d without authentication, and "
            "makes room for others",
            full[0].limit,
            kind.value,
            crowded,
            crowds[crowded],
        )
        crowds.discard(session)
        return session

    def _victim(
        self,
        full: list[Quota],
        principal: Principal | None,
        handle_kind: HandleKind[Any] | None,
    ) -> Session | None:
        """Return the session that was quiet for longest, is not busy and is not being opened.

        It counts for every quota that is full, so that its end makes room in each. A session that
        is a victim already is ending, so it is not chosen twice.
        """
        realm = _realm(handle_kind)
        policy = self._limits.admission if realm is None else realm.admission
        replace_own = policy is AdmissionPolicy.REPLACE_OWN
        if policy is AdmissionPolicy.REJECT or (replace_own and principal is None):
            return None
        for session in self._store.of_kind(full[0].kind):
            if (
                not session.busy
                and not session._is_opening()
                and session.state in LIVE_STATES
                and (session.principal == principal or not replace_own)
                and _realm(session._handle_kind) is realm
                and all(quota.includes(session) for quota in full)
            ):
                return session
        return None


def _realm(handle_kind: HandleKind[Any] | None) -> HandleKind[Any] | None:
    """Return the kind of handles if it has its own admission policy, else None: all sessions."""
    return handle_kind if handle_kind is not None and handle_kind.admission is not None else None
