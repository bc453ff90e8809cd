"""The table of sessions."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

import attrs

from ..core.config import SessionConfig
from ..core.ids import SessionId, SessionKind, is_session_id
from ..core.lifecycle_states import LIVE_STATES
from .watcher import Watcher

if TYPE_CHECKING:
    from ..core.handle_kind import HandleKind
    from ..core.identity import Principal
    from .session import Session


@final
@attrs.define(eq=False, repr=False)
class SessionStore:
    """All sessions of a manager, in one table for each kind.

    Each table finds a session by its id, and is in the order of the last activity, oldest first.
    A session is in the table from its opening until it has ended. One function removes it.
    """

    _config: SessionConfig = attrs.field(alias="config")
    _tables: Mapping[SessionKind, OrderedDict[SessionId, Session]] = attrs.field(
        factory=lambda: {kind: OrderedDict() for kind in SessionKind}, init=False
    )
    _principals: dict[Principal, dict[Session, None]] = attrs.field(
        factory=dict["Principal", dict["Session", None]], init=False
    )
    _principal_counts: Counter[tuple[Principal, SessionKind]] = attrs.field(
        factory=Counter[tuple["Principal", SessionKind]], init=False
    )
    _handle_counts: Counter[HandleKind[Any]] = attrs.field(
        factory=Counter["HandleKind[Any]"], init=False
    )
    _watcher: Watcher = attrs.field(default=attrs.Factory(Watcher, takes_self=True), init=False)

    def __repr__(self) -> str:
        return f"<SessionStore: {len(self)} sessions>"

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    def __iter__(self) -> Iterator[Session]:
        """Iterate over a snapshot of all sessions, terminating ones included."""
        return iter([session for table in self._tables.values() for session in table.values()])

    @property
    def active_sessions(self) -> Mapping[SessionId, Session]:
        """A snapshot of all sessions by id, terminating ones included."""
        return MappingProxyType({session.session_id: session for session in self})

    @property
    def session_limit(self) -> int:
        """How many sessions of a kind there may be, where the kind has no limit of its own."""
        return self._config.limits.max_sessions

    @property
    def cleanup_interval(self) -> float:
        """The shortest time between two checks of the clocks, in seconds."""
        return self._config.cleanup.cleanup_interval

    def count(self, kind: SessionKind) -> int:
        """Return how many sessions of ``kind`` there are, terminating ones included."""
        return len(self._tables[kind])

    def count_of(self, principal: Principal, kind: SessionKind) -> int:
        """Return how many sessions of ``kind`` a principal has, terminating ones included."""
        return self._principal_counts[principal, kind]

    def count_handles(self, handle_kind: HandleKind[Any]) -> int:
        """Return how many handles of a kind there are, terminating ones included."""
        return self._handle_counts[handle_kind]

    def get(self, session_id: str, kind: SessionKind | None = None) -> Session | None:
        """Return the live session of this id and kind, or None. Not a checkpoint.

        Args:
            session_id: The id that a peer sent; any text will do.
            kind: The session's kind; None looks among all kinds.
        """
        if not is_session_id(session_id):
            return None
        kinds = SessionKind if kind is None else (kind,)
        for one in kinds:
            session = self._tables[one].get(SessionId(session_id))
            if session is not None and session.state in LIVE_STATES:
                return session
        return None

    def ending(self, session_id: str, kind: SessionKind) -> Session | None:
        """Return the session of this id and kind if it is ending, or None. Not a checkpoint."""
        if not is_session_id(session_id):
            return None
        session = self._tables[kind].get(SessionId(session_id))
        return None if session is None or session.state in LIVE_STATES else session

    def of_kind(self, kind: SessionKind) -> Iterator[Session]:
        """Iterate over the sessions of a kind, longest quiet first. Do not change the table."""
        return iter(self._tables[kind].values())

    def of_principal(self, principal: Principal) -> list[Session]:
        """Return all sessions of a principal, oldest first, terminating ones included."""
        return list(self._principals.get(principal, ()))

    def _add(self, session: Session) -> None:
        table = self._tables[session.kind]
        table[session.session_id] = session
        session._quietest_first = table
        if session.principal is not None:
            held = self._principals.setdefault(session.principal.identity, {})
            # One object is shared by all of them, and its hash is cached. So no code of a principal
            # runs when the session is removed, and none can keep it in the index. Claims and scopes
            # belong to single requests: they must not be kept, nor reach another session.
            shared = next((one.principal for one in held), None)
            session.principal = session.principal.identity if shared is None else shared
            held[session] = None
            self._principal_counts[session.principal, session.kind] += 1
        if session._handle_kind is not None:
            self._handle_counts[session._handle_kind] += 1

    def _remove(self, session: Session) -> None:
        del self._tables[session.kind][session.session_id]
        if session.principal is not None:
            held = self._principals[session.principal]
            del held[session]
            if not held:
                del self._principals[session.principal]
            counted = session.principal, session.kind
            self._principal_counts[counted] -= 1
            if not self._principal_counts[counted]:
                del self._principal_counts[counted]
        if session._handle_kind is not None:
            self._handle_counts[session._handle_kind] -= 1
            if not self._handle_counts[session._handle_kind]:
                del self._handle_counts[session._handle_kind]
