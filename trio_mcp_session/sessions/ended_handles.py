"""Why handles have ended, for their owners: remembered for a while, and for a limited number."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeAlias, final

import attrs
import trio

if TYPE_CHECKING:
    from ..core.handle_kind import HandleKind
    from ..core.identity import Principal
    from ..core.reasons import TerminationReason
    from .session import Session

Owner: TypeAlias = tuple[str, str] | None
"""What identifies a principal: nothing else of it is kept."""


@attrs.frozen
class _Ended:
    owner: Owner
    kind: HandleKind[Any]
    reason: TerminationReason
    until: float


@final
@attrs.define(eq=False, repr=False)
class EndedHandles:
    """The handles of one manager that have ended, the oldest end first.

    An entry contains no object of the session, so that nothing of it stays in memory.

    Args:
        limit: How many are remembered; the oldest are forgotten.
        time: Seconds for which each is remembered.
    """

    _limit: int
    _time: float
    _entries: OrderedDict[str, _Ended] = attrs.field(factory=OrderedDict[str, _Ended], init=False)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<EndedHandles: {len(self)}>"

    def add(self, session: Session, reason: TerminationReason) -> None:
        """Remember why the session of a handle has ended. Not a checkpoint."""
        assert session._handle_kind is not None
        until = trio.current_time() + self._time
        owner = _owner_of(session.principal)
        self._entries[session.session_id] = _Ended(owner, session._handle_kind, reason, until)
        self._forget_old()

    def reason_of(
        self, handle_id: str, kind: HandleKind[Any], principal: Principal | None
    ) -> TerminationReason | None:
        """Return why a handle has ended; None if it is not known, or not this principal's.

        Not a checkpoint. Another principal gets the same answer as for an unknown handle.
        """
        self._forget_old()
        ended = self._entries.get(handle_id)
        if ended is None or ended.kind is not kind or ended.owner != _owner_of(principal):
            return None
        return ended.reason

    def _forget_old(self) -> None:
        now = trio.current_time()
        while self._entries:
            oldest = next(iter(self._entries.values()))
            if len(self._entries) <= self._limit and now < oldest.until:
                break
            self._entries.popitem(last=False)


def _owner_of(principal: Principal | None) -> Owner:
    return None if principal is None else (principal.subject, principal.issuer)
