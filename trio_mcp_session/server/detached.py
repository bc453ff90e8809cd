"""Detached calls: handlers that run while no request waits for them.

Trio cannot move a task, so the handler stays in its worker, which takes no other request. What
changes is the owner: from now on the handler is a borrower of a session, with the clocks, limits
and reasons to end of every session. Another request can attach to it later; what the handler
returns or raises before that is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

import attrs

from ..core.reasons import TerminationReason
from ..protocol.error_codes import INTERNAL_ERROR

if TYPE_CHECKING:
    from ..sessions.session import Session
    from .request import InFlightRequest
    from .request_queue import RequestQueue, Worker


@final
@attrs.define(eq=False, repr=False)
class DetachedCall:
    """One handler that has a session of its own, or is about to get it.

    Nothing of it is a checkpoint.
    """

    request: InFlightRequest
    """The request that it works for, or worked for last."""
    _worker: Worker
    on_end: Callable[[], None] = attrs.field(init=False)
    """Called when its handler has ended, and when its session ends."""
    session: Session | None = attrs.field(default=None, init=False)
    """The session that owns it; None before there is one."""
    is_attached: bool = attrs.field(default=True, init=False)
    """Whether its request is in flight now."""
    has_ended: bool = attrs.field(default=False, init=False)
    """Whether the handler has ended."""
    outcome: Callable[[InFlightRequest], None] | None = attrs.field(default=None, init=False)
    """Answers a request with what the handler returned or raised while it was detached."""

    def __repr__(self) -> str:
        return f"<DetachedCall of {self.request!r}>"

    # The owner.

    def set_owner(self, session: Session) -> None:
        """Make the handler a borrower of a session: the session's end ends it."""
        self.session = session
        session._add_borrower(self._worker.scope, self._worker.task, self._session_ends)

    @property
    def termination_reason(self) -> TerminationReason | None:
        """Why the owner of the handler ends or has ended; None while that is live."""
        if self.is_attached or self.session is None:
            return self.request.owner.termination_reason
        return self.session.termination_reason

    def report(self, error: Exception) -> None:
        """Report a failure of the handler; its session does so while it is detached."""
        if self.is_attached or self.session is None:
            self.request.owner.report(error)
        else:
            self.session._report(error)

    # Requests come and go.

    def detach(self) -> None:
        """Let the request end that the handler works for. The handler continues."""
        assert self.session is not None
        self.is_attached = False
        if self._worker.detached:
            self.request.finish()
        else:
            assert self.request.queue is not None
            self.request.queue.detach(self.request, self._worker)
        self.session._end_work()

    def attach(self, queue: RequestQueue, request: InFlightRequest) -> None:
        """Let the handler work for another request."""
        assert self.session is not None
        self.is_attached = True
        self.session._begin_work()
        self.request.rebind(request)
        queue.adopt(self.request)

    def keep_outcome(self, outcome: Callable[[InFlightRequest], None], size: int) -> None:
        """Keep the handler's outcome for a later request if none waits now.

        Args:
            outcome: Answers a request with it.
            size: Bytes that it takes in memory.
        """
        # A client that cancelled or left does not ask for it.
        if not self.is_attached:
            self.outcome = outcome
            assert self.session is not None
            self.session._byte_budget().add(size)

    def deliver(self, request: InFlightRequest) -> None:
        """Answer a request with the outcome that was kept. The session ends."""
        assert self.outcome is not None
        assert self.session is not None
        self.outcome(request)
        self.session.terminate()

    # Ends.

    def handler_ended(self) -> None:
        """Called when the handler has ended in any way."""
        self.has_ended = True
        self.on_end()
        if self.session is None:
            return
        if not self.is_attached:
            self.session._begin_work()  # Ended by `_remove_borrower`.
        self.session._remove_borrower(self._worker.scope)
        if self.outcome is None:
            cancelled = self._worker.scope.cancel_called
            self.session.terminate(
                TerminationReason.CANCELLED if cancelled else TerminationReason.REQUESTED
            )

    def _session_ends(self, why: str) -> None:
        """Answer the request. Called when the session ends, after the handler was cancelled."""
        if self.is_attached:
            self.request.fail(INTERNAL_ERROR, why)
        self.on_end()
