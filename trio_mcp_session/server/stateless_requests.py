"""Stateless requests over HTTP (2026-07-28): they belong to no session and no connection.

They belong to the manager, which limits their number, waits for them when it drains, and ends after
them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from ..core import events
from ..core.errors import ShuttingDown
from ..core.metrics import SessionCounters
from ..protocol.error_codes import INTERNAL_ERROR
from ..sessions.error_log import log_error
from ..sessions.tasks import runs_in
from .request import InFlightRequest
from .request_owner import ModernOwner
from .request_queue import RequestQueue
from .turns import Turns

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget
    from ..core.identity import Principal
    from ..core.peer import Party
    from ..core.reasons import EndingReason
    from ..protocol.envelope import Envelope
    from ..protocol.jsonrpc import Request
    from ..sessions.manager import SessionManager
    from ..sessions.manager_server import RunningRequests
    from ..sessions.session import Session
    from .served_application import ServedApplication
    from .sink import MessageSink


@final
@attrs.define(eq=False, repr=False)
class StatelessRequests(ModernOwner):
    """The owner of all stateless requests over HTTP of one manager."""

    _manager: SessionManager
    served: ServedApplication
    counters: SessionCounters = attrs.field(factory=SessionCounters, init=False)
    queue: RequestQueue | None = attrs.field(default=None, init=False)
    _busy: int = attrs.field(default=0, init=False)
    _done: trio.Event | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<StatelessRequests: {self._busy} in flight>"

    @property
    def manager(self) -> SessionManager:
        """See `RequestOwner.manager`."""
        return self._manager

    @property
    def running(self) -> int:
        """How many requests run now."""
        return 0 if self.queue is None else self.queue.running

    @property
    def busy(self) -> int:
        """How many requests are open, including those that wait for a place."""
        return self._busy

    def has_room_for(self, party: Party | None) -> bool:
        """Return whether the next request of a party is accepted, to run or to wait."""
        return self.queue is None or self.queue.has_room_for(party)

    def admit(
        self,
        message: Request,
        sink: MessageSink,
        envelope: Envelope,
        principal: Principal | None,
        party: Party | None = None,
        budget: ByteBudget | None = None,
    ) -> InFlightRequest:
        """See `ModernOwner.admit`."""
        if self._manager._draining:
            refused = InFlightRequest(self, message, sink, envelope, principal)
            refused.fail_no_room(str(ShuttingDown()))
            return refused
        return self.open_queue().admit(
            message, sink, envelope, principal, party=party, budget=budget
        )

    def open_queue(self) -> RequestQueue:
        """Return the queue of the requests, made on first use. Not a checkpoint."""
        if self.queue is None:
            limits = self._manager.config.limits
            self.queue = RequestQueue(
                self,
                self,
                self,
                self.served.get(),
                limits.max_stateless_requests,
                limits.max_stateless_queued,
                self._manager.config.cleanup.request_timeout,
                shares_ids=True,
                turns=Turns(
                    limits.max_stateless_requests,
                    limits.max_stateless_per_principal,
                    limits.max_queued,
                ),
            )
        return self.queue

    def running_requests(self) -> RunningRequests:
        """Return the requests that run, by their tasks. Not a checkpoint."""
        return {} if self.queue is None else self.queue.running_requests()

    def stateless_queue(self) -> None:
        """See `ModernOwner.stateless_queue`: over HTTP ids may be shared."""

    def client_left(self, request: InFlightRequest, adopter: Session | None) -> bool:
        """See `RequestQueue.client_left`."""
        return self.queue is not None and self.queue.client_left(request, adopter)

    def end_soon(self, reason: EndingReason) -> None:
        """Announce the end of all handlers. Not a checkpoint."""
        if self.queue is not None:
            self.queue.end_soon(reason)

    def revoke(self, principal: Principal) -> None:
        """Answer the open requests of a principal, and cancel them. Not a checkpoint."""
        if self.queue is not None:
            self.queue.revoke(principal)

    def check_not_inside(self) -> None:
        """Raise if the calling task belongs to one of the requests, which would wait for itself."""
        if self.queue is not None and runs_in(self.queue.tasks):
            raise RuntimeError("a request cannot wait for the end of its manager")

    async def end(self) -> None:
        """Answer all open requests, and cancel them; admit no new ones first.

        A checkpoint only if there are many. It cannot be cancelled.
        """
        if self.queue is not None:
            await self.queue.end(INTERNAL_ERROR, str(ShuttingDown()))

    async def wait_done(self) -> None:
        """Wait until no request runs. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if self._busy:
            if self._done is None:  # Several may drain at the same time.
                self._done = trio.Event()
            await self._done.wait()

    # The interfaces for its requests: their owner, their counter, and the place where they run.

    def _begin_work(self) -> None:
        self._busy += 1

    def _end_work(self) -> None:
        self._busy -= 1
        if not self._busy and self._done is not None:
            self._done.set()
        self._manager._check_unused()

    @property
    def default_principal(self) -> Principal | None:
        """See `RequestOwner.default_principal`: there is none."""
        return None

    @property
    def budget(self) -> ByteBudget:
        """See `RequestOwner.budget`."""
        return self._manager._byte_budgets.manager

    def why_it_ends(self) -> str:
        """See `RequestOwner.why_it_ends`."""
        return str(ShuttingDown())

    def complete_result(self, method: str, result: object, *, keepable: bool) -> Mapping[str, Any]:
        """See `RequestOwner.complete_result`."""
        return self.served.complete_result(method, result, keepable=keepable)

    def session_missed(self, method: str, name: object) -> None:
        """See `RequestOwner.session_missed`."""
        self.served.notices.session_missed(method, name)

    def report(self, error: Exception) -> None:
        """See `RequestOwner.report`."""
        log_error(self, error)
        if self._manager._event_streams:
            self._manager._emit(events.RequestFailed(time=trio.current_time(), error=error))

    def _spawn(self, async_fn: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        start = self._manager._sessions_nursery.start_soon
        self._context().run(partial(start, self._manager._contain, async_fn, *args, name=name))

    def _context(self) -> Context:
        return self._manager._context.copy()
