"""Adopted calls: handlers whose client has left, and that a session owns from then on.

The handler stays where it runs, in the queue of stateless requests, and still counts for its
limits. The session gets it as a borrower: it is not idle meanwhile, and its end cancels the
handler, before anything that the session holds is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs
import trio

if TYPE_CHECKING:
    from ..core.reasons import TerminationReason
    from ..sessions.session import Session


@final
@attrs.define(eq=False)
class AdoptedCall:
    """One handler that a session has adopted. No method is a checkpoint."""

    session: Session
    """The session that owns it."""
    _scope: trio.CancelScope

    @classmethod
    def by(cls, session: Session, scope: trio.CancelScope, task: trio.lowlevel.Task) -> AdoptedCall:
        """Let a session adopt the handler that a task runs in a scope."""
        session._add_borrower(scope, task)
        return cls(session, scope)

    was_stopped: Final = False

    @property
    def termination_reason(self) -> TerminationReason | None:
        """Why the session ends or has ended; None while it is live."""
        return self.session.termination_reason

    def report(self, error: Exception) -> None:
        """Report a failure of the handler."""
        self.session._report(error)

    def keep_result(self, result: object) -> None:
        """Drop the handler's result: its client has left."""

    def keep_error(self, code: int, message: str, data: object) -> None:
        """Drop the handler's error: its client has left."""

    def handler_ended(self) -> None:
        """Called when the handler has ended in any way."""
        self.session._remove_borrower(self._scope)
