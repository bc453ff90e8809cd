"""Admission: a place for a session before there is a session.

A place is reserved synchronously, before anything is set up and before anybody is waited for, so
that any number of newcomers together never exceed a limit. At a limit the policy names a victim;
each reservation claims one of its own, and the newcomer goes on when that one is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import attrs
import trio

from ..core.config import AdmissionPolicy, SessionLimits
from ..core.errors import SessionLimitReached
from ..core.ids import SessionKind
from ..core.reasons import TerminationReason
from ..core.state import LIVE_STATES, SessionState

if TYPE_CHECKING:
    from ..core.identity import Principal
    from .session import Session
    from .store import SessionStore


@final
@attrs.define(eq=False)
class Reservation:
    """A place that is taken for a session to come."""

    kind: SessionKind
    principal: Principal | None
    victim: Session | None
    """Who makes room, where the place is not free yet."""

    limit: int
    """The limit that names the error, should the victim not be gone in time."""

    per_principal: bool = False
    """Whether that is the principal's own limit."""

    async def wait(self, budget: float) -> None:
        """Wait until the place is free. A checkpoint only where there is a victim.

        Raises:
            SessionLimitReached: The victim was not gone within ``budget`` seconds.
        """
        if self.victim is None:
            return
        removed = self.victim._removed = trio.Event()  # It is nobody else's victim.
        with trio.move_on_after(budget):
            await removed.wait()
            return
        raise SessionLimitReached(self.kind, self.limit, per_principal=self.per_principal)


@final
@attrs.define(eq=False)
class Admission:
    """Counts the places that are taken, and decides who gets one."""

    _store: SessionStore
    _limits: SessionLimits
    _reserved: Counter[SessionKind] = attrs.field(factory=Counter[SessionKind], init=False)
    _reserved_by: Counter[tuple[SessionKind, Principal]] = attrs.field(
        factory=Counter[tuple[SessionKind, "Principal"]], init=False
    )
    _claimed: dict[Session, Reservation] = attrs.field(
        factory=dict["Session", Reservation], init=False
    )

    @property
    def reserved(self) -> int:
        """How many places are taken by sessions that are not there yet."""
        return self._reserved.total()

    @contextmanager
    def reserve(self, kind: SessionKind, principal: Principal | None) -> Iterator[Reservation]:
        """Hold a place for the length of a block; at its end the session is in the table, or not.

        Raises:
            SessionLimitReached: There is no place, and none can be made.
        """
        reservation = self._reserve(kind, principal)
        self._reserved[kind] += 1
        if principal is not None:
            self._reserved_by[kind, principal] += 1
        victim = reservation.victim
        if victim is not None:
            self._claimed[victim] = reservation
            victim.terminate(self._fate(victim, principal))
        try:
            yield reservation
        finally:
            self._reserved[kind] -= 1
            if principal is not None:
                self._reserved_by[kind, principal] -= 1
                if not self._reserved_by[kind, principal]:
                    del self._reserved_by[kind, principal]
            if victim is not None:
                del self._claimed[victim]

    def _reserve(self, kind: SessionKind, principal: Principal | None) -> Reservation:
        own_limit = self._limits.max_sessions_per_principal
        if principal is not None and self._taken_by(kind, principal) >= own_limit:
            # At a principal's own limit nobody else's session makes room.
            victim = self._victim(kind, principal)
            if victim is None:
                raise SessionLimitReached(kind, own_limit, per_principal=True)
            return Reservation(kind, principal, victim, own_limit, per_principal=True)
        limit = self._limits.sessions_of(kind)
        if self._taken(kind) < limit:
            return Reservation(kind, principal, None, limit)
        replace_own = self._limits.admission is AdmissionPolicy.REPLACE_OWN
        if replace_own and principal is None:
            raise SessionLimitReached(kind, limit)
        victim = self._victim(kind, principal if replace_own else None)
        if victim is None:
            raise SessionLimitReached(kind, limit)
        return Reservation(kind, principal, victim, limit)

    def _taken(self, kind: SessionKind) -> int:
        """Count sessions and reservations; a claimed session's place is its claimant's.

        A victim that is gone is not counted by the store either, and its claimant, who may not
        have had a turn since, still holds the place.
        """
        claimed = sum(
            victim.kind is kind and victim.state is not SessionState.TERMINATED
            for victim in self._claimed
        )
        return self._store.count(kind) + self._reserved[kind] - claimed

    def _taken_by(self, kind: SessionKind, principal: Principal) -> int:
        """Count what a principal has. What makes room for somebody else is its own till then."""
        claimants = {victim: claim.principal for victim, claim in self._claimed.items()}
        held = self._store.of_principal(principal)
        mine = sum(session.kind is kind and claimants.get(session) != principal for session in held)
        return mine + self._reserved_by[kind, principal]

    def _victim(self, kind: SessionKind, principal: Principal | None) -> Session | None:
        """Return the longest-quiet session that has nothing running and is not being opened.

        Whoever is somebody's victim already is ending, and so nobody else's.
        """
        if self._limits.admission is AdmissionPolicy.REJECT:
            return None
        for session in self._store.of_kind(kind):
            if (
                not session.busy
                and not session._is_opening()
                and session.state in LIVE_STATES
                and principal in (None, session.principal)
            ):
                return session
        return None

    def _fate(self, victim: Session, principal: Principal | None) -> TerminationReason:
        if principal is not None and victim.principal == principal:
            return TerminationReason.REPLACED
        return TerminationReason.EVICTED
