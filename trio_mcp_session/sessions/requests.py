"""The requests of one session: admitted, run, answered.

Each request is an object that carries the slot its answer goes to. Nothing is ever answered by
looking an id up: real clients use one id twice at the same time. The table of ids serves the
client's cancellations, and nothing else.

Handlers run in *workers*: tasks of the session's nursery that take one request after the other.
A scope per request is the larger part of what a request costs, so a worker opens one scope for
all of its requests. Cancelling a request therefore ends its worker, and the next request gets
another one.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast, final

import attrs
import trio
from msgspec import UNSET, UnsetType

from ..core.errors import CapabilityMissing, HandlerCrashed, McpError
from ..protocol import jsonrpc
from ..protocol.dressing import translate_code
from ..protocol.error_codes import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MISSING_CLIENT_CAPABILITY,
)

if TYPE_CHECKING:
    from ..core.identity import ClientInfo
    from ..protocol.envelope import Envelope
    from ..protocol.revisions import Revision
    from .application import Application
    from .outlet import Outlet
    from .owner import RequestOwner, Room
    from .session import Session


MAX_PARKED: Final = 64
"""Workers that are kept for the next requests, when there is nothing for them to do."""


@final
@attrs.define(eq=False, repr=False)
class InFlightRequest:
    """A request (or a notification that the application handles) from admission to its end."""

    owner: RequestOwner
    """What it belongs to."""
    id: jsonrpc.RequestId | UnsetType
    method: str
    params: jsonrpc.Params
    outlet: Outlet
    answered: bool = False
    """Its answer is out, or there will be none."""
    envelope: Envelope | None = None
    """What a modern request says of itself; None where a session knows."""
    error_code: int | None = attrs.field(default=None, init=False)
    """The error that it was answered with; None for a result, or no answer yet."""
    scope: trio.CancelScope | None = attrs.field(default=None, init=False)
    """What stops its handler; None while it waits in the queue."""

    @classmethod
    def of(
        cls,
        owner: RequestOwner,
        message: jsonrpc.Request,
        outlet: Outlet,
        envelope: Envelope | None = None,
    ) -> InFlightRequest:
        """Make one of a message."""
        return cls(owner, message.id, message.method, message.params, outlet, envelope=envelope)

    def __repr__(self) -> str:
        return f"<InFlightRequest {self.method!r} id={self.id!r}>"

    @property
    def session(self) -> Session | None:
        """The session that it belongs to; None for one that stands for itself."""
        # Whoever has no envelope has a session.
        return None if self.envelope is not None else cast("Session", self.owner)

    @property
    def client(self) -> ClientInfo | None:
        """What its client said of itself."""
        session = self.session
        return session.client if session is not None else self._envelope.client

    @property
    def revision(self) -> Revision | None:
        """The revision that its client speaks; None before a session's handshake."""
        session = self.session
        return session._revision if session is not None else self._envelope.revision

    @property
    def log_severity(self) -> int | None:
        """The least severe log messages that its client wants to hear; None for none."""
        session = self.session
        return session._log_severity if session is not None else self._envelope.log_severity

    @property
    def _envelope(self) -> Envelope:
        assert self.envelope is not None
        return self.envelope

    def answer(self, result: object) -> None:
        """Send the result, unless the request has been answered or cancelled."""
        if self.answered or self.id is UNSET:
            return
        try:
            if self.envelope is not None:
                result = self.owner._dress(self.method, result)
            frame = jsonrpc.encode_result(self.id, result)
        except Exception as error:  # noqa: BLE001  # what the application returned may do anything
            self.crash(error)
        else:
            self.answered = True
            self.owner._send_result(self.outlet, frame)

    def fail(self, code: int, message: str, data: Any = None) -> None:
        """Send an error, unless the request has been answered or cancelled."""
        if self.answered:
            return
        if self.envelope is not None:
            code = translate_code(code)
        try:
            frame = jsonrpc.encode_error(self.id, code, message, data)
        except Exception as error:  # noqa: BLE001  # ``data`` is the application's
            self.crash(error)
        else:
            self.answered = True
            self.error_code = code
            self.owner._counters.errors += 1
            self.owner._send_result(self.outlet, frame)

    async def run(self, application: Application) -> None:
        """Let the application handle it, and answer. A checkpoint if the handler is one.

        Nothing but a cancellation comes out of it.
        """
        try:
            result = await application.handle(self)
        except McpError as error:
            self.fail(error.code, error.message, error.data)
        except CapabilityMissing as error:
            self._lack(error)
        except Exception as error:  # noqa: BLE001  # a failing handler fails its request only
            self.crash(error)
        except BaseExceptionGroup as group:
            # Cancelled, and beside it what failed on the way out of the handler's own nursery.
            failure, rest = group.split(Exception)
            if failure is not None:
                self.crash(failure)
            assert rest is not None
            raise rest from None
        else:
            self.answer(result)

    def _lack(self, error: CapabilityMissing) -> None:
        """Tell a client what it would have to be able to do."""
        if self.envelope is None:
            self.crash(error)
        else:
            needed: dict[str, Any] = {"requiredCapabilities": {error.capability: {}}}
            self.fail(MISSING_CLIENT_CAPABILITY, str(error), needed)

    def crash(self, error: Exception) -> None:
        """Report what the handler raised; the client learns no details."""
        report = HandlerCrashed(self.method)
        report.__cause__ = error
        self.owner._report(report)
        self.fail(INTERNAL_ERROR, "Internal error")


@final
@attrs.define(eq=False)
class _Worker:
    """A task that runs requests, and the one scope for all of them."""

    request: InFlightRequest | None
    parked: list[_Worker]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    task: trio.lowlevel.Task = attrs.field(init=False)

    def unpark(self, _: object) -> trio.lowlevel.Abort:
        """Leave the line of those who wait for a request, because of a cancellation."""
        self.parked.remove(self)
        return trio.lowlevel.Abort.SUCCEEDED


@final
@attrs.define(eq=False)
class RequestGate:
    """What may run, what has to wait, and what is refused."""

    _owner: RequestOwner
    _room: Room
    _application: Application
    _max_in_flight: int
    _max_queued: int
    _timeout: float
    _shares_ids: bool = attrs.field(default=False, kw_only=True, alias="shares_ids")
    """Whether several requests may have one id: over HTTP each has a response of its own."""
    _active: dict[object, InFlightRequest] = attrs.field(
        factory=dict[object, InFlightRequest], init=False
    )
    _queue: OrderedDict[object, InFlightRequest] = attrs.field(
        factory=OrderedDict[object, InFlightRequest], init=False
    )
    _parked: list[_Worker] = attrs.field(factory=list[_Worker], init=False)

    @property
    def running(self) -> int:
        """How many requests run now."""
        return len(self._active) - len(self._queue)

    @property
    def queued(self) -> int:
        """How many requests wait for one of those to finish."""
        return len(self._queue)

    def clashes(self, request_id: object) -> bool:
        """Tell whether a request of this id must not be taken beside those in flight."""
        return not self._shares_ids and request_id in self._active

    def admit(
        self, message: jsonrpc.Request, outlet: Outlet, envelope: Envelope | None = None
    ) -> InFlightRequest:
        """Run a request, let it wait, or refuse it; return it. Not a checkpoint."""
        request = InFlightRequest.of(self._owner, message, outlet, envelope)
        if self.clashes(message.id):
            self.refuse_clash(message, outlet)
        elif not self._take(request if message.id in self._active else message.id, request):
            request.fail(INTERNAL_ERROR, "Server is busy: too many requests are in flight")
        return request

    def refuse_clash(self, message: jsonrpc.Request, outlet: Outlet) -> None:
        """Refuse a request whose id is in use. Not a checkpoint."""
        self._owner._violation("two requests in flight have one id")
        request = InFlightRequest.of(self._owner, message, outlet)
        request.fail(INVALID_REQUEST, "A request with this id is in flight already")

    def admit_notification(self, message: jsonrpc.Notification, outlet: Outlet) -> bool:
        """Run the application's handler of a notification; tell whether there was room."""
        request = InFlightRequest(
            self._owner, UNSET, message.method, message.params, outlet, answered=True
        )
        return self._take(request, request)

    def cancel(self, request_id: object) -> bool:
        """Cancel a request for its client: it stops, and gets no answer. Not a checkpoint.

        Returns:
            Whether there was such a request, one only, and not cancelled yet. Ids are told apart
            by type: ``True`` names none.
        """
        request = self._find(jsonrpc.read_id(request_id))
        return request is not None and self.withdraw(request)

    def withdraw(self, request: InFlightRequest) -> bool:
        """Cancel a request: it stops, and gets no answer. Not a checkpoint.

        Returns:
            Whether it had no answer yet.
        """
        if request.answered:
            return False
        request.answered = True
        request.outlet.send_no_result()
        if request.scope is None:
            self._forget(request)
        else:
            request.scope.cancel(reason="cancelled by the client")
        return True

    def _find(self, request_id: jsonrpc.RequestId | None) -> InFlightRequest | None:
        """Return the one request of this id; where there are several, none is meant for sure."""
        if request_id is None:
            return None
        if self._shares_ids:
            found = [one for one in self._active.values() if one.id == request_id]
            return found[0] if len(found) == 1 else None
        return self._active.get(request_id)

    def fail_all(self, code: int, message: str) -> None:
        """Answer all that is still open, because the session ends. Not a checkpoint."""
        for request in list(self._active.values()):
            request.fail(code, message)
            if request.scope is None:
                self._forget(request)

    def cancel_all(self) -> None:
        """Stop all handlers, and let the workers go; `fail_all` goes before. Not a checkpoint."""
        for request in list(self._active.values()):
            assert request.scope is not None  # Those in the queue were struck out.
            request.scope.cancel(reason="server is shutting down")
        self.retire()

    def retire(self) -> None:
        """Let the workers go that have nothing to do. Not a checkpoint."""
        for worker in list(self._parked):
            worker.scope.cancel(reason="idle")

    def _take(self, key: object, request: InFlightRequest) -> bool:
        if self.running < self._max_in_flight:
            self._run(request)
        elif len(self._queue) < self._max_queued:
            self._queue[key] = request
        else:
            return False
        self._active[key] = request
        self._owner._counters.requests += 1
        self._owner._begin_work()
        return True

    def _forget(self, request: InFlightRequest) -> None:
        """Strike a request out: the one place where one leaves the tables."""
        key = request.id if self._active.get(request.id) is request else request
        del self._active[key]
        self._queue.pop(key, None)
        self._owner._end_work()

    def _run(self, request: InFlightRequest) -> None:
        """Give a request to a worker that is free, or to a new one."""
        if self._parked:
            worker = self._parked.pop()
            self._hand_over(request, worker)
            trio.lowlevel.reschedule(worker.task)
        else:
            worker = _Worker(request, self._parked)
            request.scope = worker.scope
            self._room._spawn(self._work, worker, name=request.method)

    def _hand_over(self, request: InFlightRequest, worker: _Worker) -> None:
        worker.request = request
        request.scope = worker.scope
        # One request's context variables must not show to the next; a task takes up its context
        # whenever it is resumed, and this one is about to be.
        worker.task.context = self._room._context()
        worker.task.name = request.method

    async def _work(self, worker: _Worker) -> None:
        worker.task = trio.lowlevel.current_task()
        try:
            with worker.scope:
                while worker.request is not None and not worker.scope.cancel_called:
                    await self._serve(worker.request, worker.scope)
                    self._forget(worker.request)
                    worker.request = None
                    # A handler may have swallowed its cancellation; the next one is not meant.
                    if not worker.scope.cancel_called:
                        await self._wait_for_request(worker)
        finally:
            if worker.request is not None:
                self._answer_cancelled(worker.request, worker.scope)
                self._forget(worker.request)
            self._run_queued()

    def _answer_cancelled(self, request: InFlightRequest, scope: trio.CancelScope) -> None:
        """Answer for those who cancel requests and do not answer for it themselves."""
        if scope.cancel_called:
            request.fail(INTERNAL_ERROR, "Request timed out")
        elif not request.answered:
            # A lifespan's own nursery takes the session's along, and nobody has said why yet.
            request.fail(INTERNAL_ERROR, self._owner._why_it_ends())

    async def _serve(self, request: InFlightRequest, scope: trio.CancelScope) -> None:
        if self._timeout != inf:
            scope.deadline = trio.current_time() + self._timeout
        await request.run(self._application)
        if self._timeout != inf:
            scope.deadline = inf

    async def _wait_for_request(self, worker: _Worker) -> None:
        """Take the next request in line, or park until there is one."""
        if self._queue:
            _, request = self._queue.popitem(last=False)
            self._hand_over(request, worker)
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif len(self._parked) >= MAX_PARKED:
            worker.scope.cancel(reason="enough others are idle")
        else:
            self._parked.append(worker)
            await trio.lowlevel.wait_task_rescheduled(worker.unpark)

    def _run_queued(self) -> None:
        """A worker left: another one takes its turn."""
        if self._queue and self.running < self._max_in_flight:
            _, request = self._queue.popitem(last=False)
            self._run(request)
