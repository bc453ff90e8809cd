"""What sessions a manager has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from ..core.state import LIVE_STATES
from .manager_fields import ManagerFields

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..core.ids import SessionKind
    from .session import Session
    from .store import SessionStore


@attrs.define(eq=False, repr=False)
class Finding(ManagerFields):
    """The part of a manager that looks sessions up."""

    @property
    def store(self) -> SessionStore:
        """The table of sessions."""
        return self._store

    def get_session(
        self,
        session_id: str,
        *,
        kind: SessionKind | None = None,
        principal: Principal | None = None,
    ) -> Session | None:
        """Return a live session, or None. Not a checkpoint.

        Args:
            session_id: Its id, as a peer sent it: any text will do.
            kind: Its kind; None looks among all kinds.
            principal: Who asks, where that is known. For anybody but its owner a session does not
                exist.
        """
        session = self._store.get(session_id, kind)
        if session is None or principal not in (None, session.principal):
            return None
        return session

    def sessions(self, where: Callable[[Session], bool] | None = None) -> list[Session]:
        """Return a snapshot of all sessions, those included that are ending. Not a checkpoint."""
        return [session for session in self._store if where is None or where(session)]

    def list_sessions(self) -> list[Session]:
        """Return a snapshot of all live sessions. Not a checkpoint."""
        return self.sessions(lambda session: session.state in LIVE_STATES)
