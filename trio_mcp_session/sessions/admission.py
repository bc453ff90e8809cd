"""Admission: a place for a session before there is a session.

A place is reserved synchronously, before anything is set up and before anybody is waited for, so
that any number of newcomers together never exceed a limit. A newcomer counts for several quotas:
those of its kind, of its principal, of its kind of handles. Where some are full the policy names a
victim that counts for all of these; each reservation claims one of its own, and the newcomer goes
on when that one is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from ..core.config import AdmissionPolicy, SessionLimits
from ..core.errors import AccessRevoked, SessionLimitReached
from ..core.ids import SessionKind
from ..core.reasons import TerminationReason
from ..core.state import LIVE_STATES

if TYPE_CHECKING:
    from ..core.handle_kind import HandleKind
    from ..core.identity import Principal
    from .session import Session
    from .store import SessionStore


@final
@attrs.frozen
class Quota:
    """Which sessions share a limit: those of a kind, as far as the other fields narrow it down."""

    kind: SessionKind
    principal: Principal | None
    handle_kind: HandleKind[Any] | None
    limit: int = attrs.field(eq=False)

    def includes(self, session: Session) -> bool:
        """Tell whether a session counts for it."""
        return (
            session.kind is self.kind
            and self.principal in (None, session.principal)
            and self.handle_kind in (None, session._handle_kind)
        )

    def reached(self) -> SessionLimitReached:
        """Return the error that says that there is no place."""
        return SessionLimitReached(
            self.kind,
            self.limit,
            per_principal=self.principal is not None,
            prefix=None if self.handle_kind is None else self.handle_kind.prefix,
        )


@final
@attrs.define(eq=False)
class Reservation:
    """A place that is taken for a session to come."""

    quotas: tuple[Quota, ...]
    """What the newcomer counts for, the narrowest first."""

    victim: Session | None
    """Who makes room, where the place is not free yet."""

    full: Quota | None
    """The quota that names the error, should the victim not be gone in time."""

    counted: list[Quota] = attrs.field(factory=list[Quota], init=False)
    """Where it is counted itself; in the others its victim is, as long as that is there."""

    principal: Principal | None = None
    """On whose behalf it is."""

    freed: trio.Event = attrs.field(factory=trio.Event, init=False)
    """The victim is gone, or the access was revoked."""

    revoked: bool = attrs.field(default=False, init=False)
    """Whether the access of its principal was revoked while it waited."""

    async def wait(self, budget: float) -> None:
        """Wait until the place is free. A checkpoint only where there is a victim.

        Raises:
            SessionLimitReached: The victim was not gone within ``budget`` seconds.
            AccessRevoked: The access of its principal was revoked meanwhile.
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
    """Counts the places that are taken, and decides who gets one."""

    _store: SessionStore
    _limits: SessionLimits
    _newcomers: set[Reservation] = attrs.field(factory=set[Reservation], init=False)
    # A newcomer and its victim share one place wherever both count.
    _reserved: Counter[Quota] = attrs.field(factory=Counter[Quota], init=False)
    _claimed: dict[Session, Reservation] = attrs.field(
        factory=dict["Session", Reservation], init=False
    )

    @property
    def reserved(self) -> int:
        """How many places are taken by sessions that are not there yet."""
        return len(self._newcomers)

    @contextmanager
    def reserve(
        self,
        kind: SessionKind,
        principal: Principal | None,
        handle_kind: HandleKind[Any] | None = None,
    ) -> Iterator[Reservation]:
        """Hold a place for the length of a block; at its end the session is in the table, or not.

        Raises:
            SessionLimitReached: There is no place, and none can be made.
        """
        quotas = tuple(self._quotas(kind, principal, handle_kind))
        reservation = self._reserve(quotas, principal, handle_kind)
        self._newcomers.add(reservation)
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
            self._newcomers.remove(reservation)
            for quota in reservation.counted:
                self._reserved[quota] -= 1
                if not self._reserved[quota]:
                    del self._reserved[quota]
            if victim is not None:
                self._claimed.pop(victim, None)

    def revoke(self, principal: Principal) -> None:
        """Refuse the newcomers of a principal that wait for a place. Not a checkpoint."""
        for reservation in self._newcomers:
            if reservation.principal == principal:
                reservation.revoked = True
                reservation.freed.set()

    def make_free(self, session: Session) -> None:
        """Learn that a session has left the table. Not a checkpoint.

        Its claimant, who may not have had a turn since, still holds the place.
        """
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
            yield Quota(kind, principal, None, self._limits.max_sessions_per_principal)
        if handle_kind is not None:
            yield Quota(kind, None, handle_kind, handle_kind.max_handles)
        yield Quota(kind, None, None, self._limits.sessions_of(kind))

    def _reserve(
        self,
        quotas: tuple[Quota, ...],
        principal: Principal | None,
        handle_kind: HandleKind[Any] | None,
    ) -> Reservation:
        full = [quota for quota in quotas if self._taken(quota) >= quota.limit]
        if not full:
            return Reservation(quotas, None, None, principal)
        victim = self._victim(full, principal, handle_kind)
        if victim is None:
            raise full[0].reached()
        return Reservation(quotas, victim, full[0], principal)

    def _taken(self, quota: Quota) -> int:
        """Count sessions and newcomers; those who make room for others are there till they go."""
        if quota.principal is not None:
            held = self._store.of_principal(quota.principal)
            there = sum(map(quota.includes, held))
        elif quota.handle_kind is not None:
            there = self._store.count_handles(quota.handle_kind)
        else:
            there = self._store.count(quota.kind)
        return there + self._reserved[quota]

    def _victim(
        self,
        full: list[Quota],
        principal: Principal | None,
        handle_kind: HandleKind[Any] | None,
    ) -> Session | None:
        """Return the longest-quiet session that has nothing running and is not being opened.

        It has a part in every quota that is full: nobody ends who would make no room. Whoever is
        somebody's victim already is ending, and so nobody else's.
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
    """Return within what handles make room for each other: a policy of their own, or all."""
    return handle_kind if handle_kind is not None and handle_kind.admission is not None else None
