"""Detached calls: handlers that run while no request waits for them.

Trio cannot move a task, so the handler stays in its worker, which takes no other request. What
changes is the owner: from now on the handler is a borrower of a session, with the clocks, limits
and reasons to end of every session.

What a detached call is for decides the rest: it is the call of a parked handler (`parked`), which
the next request of its client continues, or that of a task (`task`), which its client asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, final

import attrs

from ..core.errors import SessionTerminated
from ..core.identity import Transport
from ..core.reasons import TerminationReason
from ..sessions.manager import APPLICATION

if TYPE_CHECKING:
    from ..core.config import CleanupConfig
    from ..core.ids import SessionKind
    from ..core.reasons import EndingReason
    from ..sessions.session import Session
    from .request import InFlightRequest
    from .request_queue import RequestQueue, Worker


class CallHolder(Protocol):
    """What a detached call is for. Nothing of it is a checkpoint."""

    @property
    def was_stopped(self) -> bool:
        """Whether it has cancelled the handler, so that the cancellation is not a time-out."""
        ...

    def keep_result(self, result: object) -> None:
        """Keep what the handler returned while it was detached.

        Raises:
            Exception: The result does not encode to JSON. Nothing was kept.
        """
        ...

    def keep_error(self, code: int, message: str, data: Any) -> None:
        """Keep the JSON-RPC error that the handler raised while it was detached.

        Raises:
            Exception: The data does not encode to JSON. Nothing was kept.
        """
        ...

    def handler_ended(self) -> None:
        """Called when the handler has ended, and its session still counts it as work."""
        ...

    def after_handler(self) -> None:
        """Called last, when its session no longer counts the handler."""
        ...

    def session_ends(self, why: str) -> None:
        """Called when the session ends, after the handler was cancelled."""
        ...


@final
@attrs.define(eq=False, repr=False)
class DetachedCall:
    """One handler that has a session of its own, or is about to get it.

    Nothing of it is a checkpoint.
    """

    request: InFlightRequest
    """The request that it works for, or worked for last."""
    worker: Worker
    """The worker that runs it."""
    holder: CallHolder = attrs.field(init=False)
    """What it is for."""
    session: Session | None = attrs.field(default=None, init=False)
    """The session that owns it; None before there is one."""
    is_attached: bool = attrs.field(default=True, init=False)
    """Whether its request is in flight now."""
    has_ended: bool = attrs.field(default=False, init=False)
    """Whether the handler has ended."""
    _is_counted: bool = attrs.field(default=False, init=False)
    """Whether the session counts it as work."""

    def __repr__(self) -> str:
        return f"<DetachedCall of {self.request!r}>"

    # The owner.

    def set_owner(self, session: Session) -> None:
        """Make the handler a borrower of a session: the session's end ends it.

        An owner that it had before ends.
        """
        former, self.session = self.session, session
        session._add_borrower(self.worker.scope, self.worker.task, self)
        if former is not None:
            self._leave(former)
            former.terminate()
        self._is_counted = True

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

    @property
    def was_stopped(self) -> bool:
        """See `CallHolder.was_stopped`."""
        return self.holder.was_stopped

    def session_ends(self, why: str) -> None:
        """See `Borrower.session_ends`."""
        self.holder.session_ends(why)

    def end_soon(self, reason: EndingReason) -> None:
        """See `Borrower.end_soon`."""
        self.request.end_soon(reason)

    # Requests come and go.

    def detach(self) -> None:
        """Let the request end that the handler works for. The handler continues.

        If the answer could not be made, its client got an error instead, and cannot continue with
        the handler: then its session ends.
        """
        self.is_attached = False
        try:
            if self.worker.detached:
                self.request.finish()
            else:
                assert self.request.queue is not None
                self.request.queue.detach(self.request, self.worker)
        finally:
            if self.request.error_code is not None:
                assert self.session is not None
                self.session.terminate(TerminationReason.CRASHED)

    def rest(self) -> None:
        """Do not count it as work of its session: it waits for the next request of its client."""
        assert self.session is not None
        self._is_counted = False
        self.session._end_work()

    def attach(self, queue: RequestQueue, request: InFlightRequest) -> None:
        """Let the handler work for another request."""
        assert self.session is not None
        self.is_attached = True
        self._is_counted = True
        self.session._begin_work()
        self.request.rebind(request)
        queue.adopt(self.request)
        if self.request.promotion is not None:
            self.request.promotion.start_timer()

    # Its outcome, and its end.

    def keep_result(self, result: object) -> None:
        """Keep what the handler returned; see `CallHolder.keep_result`."""
        # A client that cancelled or left does not ask for it.
        if not self.is_attached:
            self.holder.keep_result(result)

    def keep_error(self, code: int, message: str, data: Any) -> None:
        """Keep the error that the handler raised; see `CallHolder.keep_error`."""
        if not self.is_attached:
            self.holder.keep_error(code, message, data)

    def handler_ended(self) -> None:
        """Called when the handler has ended in any way."""
        self.has_ended = True
        try:
            self.holder.handler_ended()
        finally:
            if self.session is not None:
                self._leave(self.session)
                self.holder.after_handler()

    def forget(self) -> None:
        """Called when its session has left the table, and the handler has ended."""
        self.session = None
        del self.holder
        self.request.forget_call()

    def _leave(self, session: Session) -> None:
        """Stop being a borrower of this session."""
        if not self._is_counted:
            session._begin_work()  # Ended by `_remove_borrower`.
        session._remove_borrower(self.worker.scope)


async def open_session_for(
    request: InFlightRequest, kind: SessionKind, clocks: CleanupConfig
) -> Session:
    """Open a session that can own the handler of a request. A checkpoint.

    When cancelled, the session is ended before the call raises.

    Raises:
        SessionRejected: There is no place for it.
        SessionTerminated: It ended while it was opened.
    """
    principal = request.principal
    peer = request.party if isinstance(request.party, str) else ""
    session = await request.owner.manager.create_session(
        request.client,
        kind=kind,
        # Handlers of one address must not take the places of all others.
        transport=APPLICATION if principal is not None else Transport("application", peer),
        principal=principal,
        clocks=clocks,
    )
    if session.termination_reason is not None:
        raise SessionTerminated(session.termination_reason)
    assert request.budget is not None
    # The handler may refer to its parameters until it ends, whatever requests come.
    session._share_byte_budget(request.budget, request.memory)
    return session
