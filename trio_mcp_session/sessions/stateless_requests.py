"""Requests that belong to no session and to no connection: modern ones over HTTP (2026-07-28).

Each stands for itself; what they share is the manager, which bounds their number, waits for them
when it drains, and outlives every one of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, final

import attrs
import trio

from ..core import events
from ..core.errors import ShuttingDown
from ..core.metrics import SessionCounters
from ..protocol.discovery import DISCOVER
from ..protocol.error_codes import INTERNAL_ERROR
from ..protocol.subscription_messages import LISTEN
from .current import runs_in
from .gate import RequestGate
from .listens import TOO_MANY
from .owner import RequestOwner
from .requests import BUSY, InFlightRequest

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..protocol.envelope import Envelope
    from ..protocol.jsonrpc import Request
    from .manager import SessionManager
    from .outlet import Outlet


@final
@attrs.define(eq=False, repr=False)
class StatelessRequests(RequestOwner):
    """The owner of a manager's requests that stand for themselves."""

    _manager: SessionManager
    _counters: SessionCounters = attrs.field(factory=SessionCounters, init=False)
    _gate: RequestGate | None = attrs.field(default=None, init=False)
    _busy: int = attrs.field(default=0, init=False)
    _done: trio.Event | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<StatelessRequests: {self._busy} in flight>"

    @property
    def running(self) -> int:
        """How many requests run now."""
        return 0 if self._gate is None else self._gate.running

    @property
    def busy(self) -> int:
        """How many requests are open, those included that wait for a place."""
        return self._busy

    def no_room_for(self, method: str, principal: Principal | None) -> str | None:
        """Say why there is no room for another request now; None where there is."""
        if self._manager._draining:
            return str(ShuttingDown())
        if method == DISCOVER:
            return None
        if method == LISTEN:
            if not self._manager.ready:
                return str(ShuttingDown())
            return TOO_MANY if self._manager._listens.is_full(principal) else None
        return BUSY if self._gate is not None and not self._gate.has_room else None

    def admit(
        self,
        message: Request,
        outlet: Outlet,
        envelope: Envelope,
        principal: Principal | None = None,
    ) -> InFlightRequest:
        """Run a request, let it wait, or refuse it. Not a checkpoint."""
        if message.method == LISTEN:
            listen = InFlightRequest.of(self, message, outlet, envelope, principal)
            self._manager._listens.admit(listen)
            return listen
        if self._manager._draining:
            refused = InFlightRequest.of(self, message, outlet, envelope, principal)
            refused.fail(INTERNAL_ERROR, str(ShuttingDown()))
            return refused
        if self._gate is None:
            limits = self._manager.config.limits
            self._gate = RequestGate(
                self,
                self,
                self._manager._served(),
                limits.max_stateless_requests,
                limits.max_queued,
                self._manager.config.cleanup.request_timeout,
                shares_ids=True,
            )
        return self._gate.admit(message, outlet, envelope, principal)

    def withdraw(self, request: InFlightRequest) -> None:
        """Cancel a request whose client has left: nothing is sent for it. Not a checkpoint."""
        if self._manager._listens.cancel(request) or (
            self._gate is not None and self._gate.withdraw(request)
        ):
            self._counters.cancelled += 1

    def revoke(self, principal: Principal) -> None:
        """Answer what is open on behalf of a principal, and cancel it. Not a checkpoint."""
        if self._gate is not None:
            self._gate.revoke(principal)

    def check_not_inside(self) -> None:
        """Refuse to let a handler wait for the end of all requests, its own included."""
        if self._gate is not None and runs_in(self._gate.tasks):
            raise RuntimeError("a request cannot wait for the end of its manager")

    def end(self) -> None:
        """Answer what is open, and cancel it: no more is admitted. Not a checkpoint."""
        if self._gate is not None:
            try:
                self._gate.fail_all(INTERNAL_ERROR, str(ShuttingDown()))
            finally:
                self._gate.cancel_all()

    async def wait_done(self) -> None:
        """Wait until nothing of it runs. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if self._busy:
            if self._done is None:  # Several may drain at the same time.
                self._done = trio.Event()
            await self._done.wait()

    # As the owner of its requests, and the room that they run in.

    def _begin_work(self) -> None:
        self._busy += 1

    def _end_work(self) -> None:
        self._busy -= 1
        if not self._busy and self._done is not None:
            self._done.set()
        self._manager._check_unused()

    @property
    def _acts_for(self) -> Principal | None:
        return None

    def _why_it_ends(self) -> str:
        return str(ShuttingDown())

    def _report(self, error: Exception) -> None:
        self._log(error)
        if self._manager._subscribers:
            self._manager._emit(events.RequestFailed(time=trio.current_time(), error=error))

    def _spawn(self, async_fn: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        start = self._manager._house.start_soon
        self._context().run(partial(start, self._manager._contain, async_fn, *args, name=name))

    def _context(self) -> Context:
        return self._manager._context.copy()
