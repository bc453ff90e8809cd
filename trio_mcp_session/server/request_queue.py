"""The queue of requests: which run at the same time, which wait, and which are refused.

Handlers run in *workers*: tasks that take one request after the other. A scope per request is the
larger part of what a request costs, so a worker opens one scope for all of its requests.
Cancelling a request therefore ends its worker, and the next request gets another one.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, final

import attrs
import trio
from msgspec import UNSET

from ..core.errors import AccessRevoked
from ..protocol import jsonrpc
from ..protocol.error_codes import INTERNAL_ERROR, INVALID_REQUEST
from ..sessions.failures import contained
from .busy import OVERHEAD
from .request import InFlightRequest
from .resume import resume

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget
    from ..core.identity import Principal
    from ..protocol.envelope import Envelope
    from ..protocol.jsonrpc import RequestId
    from ..sessions.instruments import Instruments
    from .application import Application
    from .request_owner import RequestOwner, TaskSpawner, WorkCounter
    from .sink import MessageSink


MAX_IDLE: Final = 64
"""How many idle workers are kept for the next requests."""

MAX_NAME: Final = 64
"""Characters of a method in the name of a task, which an idle worker keeps."""


class OpenSubscription(Protocol):
    """A subscription, which has no task: the queue only knows its id."""

    @property
    def id(self) -> RequestId:
        """The id of its request."""
        ...

    def end(self) -> None:
        """End it by the server: the client gets the result. Not a checkpoint."""
        ...

    def cancel(self) -> None:
        """End it because the client cancelled it: nothing is sent. Not a checkpoint."""
        ...


@final
@attrs.define(eq=False)
class Worker:
    """A task that runs one request after another, in one scope."""

    request: InFlightRequest | None
    idle: list[Worker]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    task: trio.lowlevel.Task = attrs.field(init=False)
    detached: bool = attrs.field(default=False, init=False)
    """Whether its handler has left its request, and is no longer counted by the queue."""

    def stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        """Called when it is cancelled while idle: remove it from the idle workers."""
        self.idle.remove(self)
        return trio.lowlevel.Abort.SUCCEEDED


@final
@attrs.define(eq=False)
class RequestQueue:
    """The requests of one owner: it admits, queues, refuses, runs and removes them.

    The table of ids is used only for cancellations by the client.
    """

    _owner: RequestOwner
    _work_counter: WorkCounter
    _spawner: TaskSpawner
    _application: Application
    _max_in_flight: int
    _max_queued: int
    _timeout: float
    _shares_ids: bool = attrs.field(default=False, kw_only=True, alias="shares_ids")
    """Whether requests may share an id: over HTTP each has a response of its own."""
    _active: dict[object, InFlightRequest] = attrs.field(
        factory=dict[object, InFlightRequest], init=False
    )
    _waiting: OrderedDict[object, InFlightRequest] = attrs.field(
        factory=OrderedDict[object, InFlightRequest], init=False
    )
    _workers: set[Worker] = attrs.field(factory=set[Worker], init=False)
    _idle: list[Worker] = attrs.field(factory=list[Worker], init=False)
    _emptied: trio.Event | None = attrs.field(default=None, init=False)
    _instruments: Instruments | None = attrs.field(init=False)
    _subscriptions: dict[RequestId, OpenSubscription] = attrs.field(
        factory=dict["RequestId", "OpenSubscription"], init=False
    )
    """Subscriptions, which have no task: the queue only knows their ids."""
    _budget: ByteBudget = attrs.field(init=False)
    """What counts the bytes of requests that come without a budget of their own."""

    def __attrs_post_init__(self) -> None:
        self._instruments = self._owner.manager._instruments or None
        self._budget = self._owner.budget

    @property
    def running(self) -> int:
        """How many requests run now."""
        return len(self._active) - len(self._waiting)

    @property
    def queued(self) -> int:
        """How many requests wait until a running one has finished."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether the next request has to wait."""
        return self.running >= self._max_in_flight

    @property
    def has_room(self) -> bool:
        """Whether the next request is accepted, to run or to wait."""
        return not self.full or len(self._waiting) < self._max_queued

    @property
    def tasks(self) -> frozenset[trio.lowlevel.Task]:
        """The tasks of the workers that have begun."""
        adopted = {one.worker for one in self._active.values() if one.worker is not None}
        workers = self._workers | adopted
        return frozenset(worker.task for worker in workers if hasattr(worker, "task"))

    def clashes(self, request_id: object) -> bool:
        """Return whether a request with this id must be refused because the id is in use."""
        return not self._shares_ids and (
            request_id in self._active or request_id in self._subscriptions
        )

    def admit(
        self,
        message: jsonrpc.Request,
        sink: MessageSink,
        envelope: Envelope | None = None,
        principal: Principal | None = None,
        budget: ByteBudget | None = None,
    ) -> InFlightRequest:
        """Run a request, queue it, or refuse it; return it. Not a checkpoint."""
        if self.clashes(message.id):
            return self.refuse_clash(message, sink)
        budget = budget or self._budget
        request = InFlightRequest.of(self._owner, message, sink, envelope, principal, budget)
        if self._instruments is not None:
            request.observe(self._instruments)
        if request.is_retry and (resumed := resume(self, request)) is not None:
            return resumed
        if not self._take(request, message.frame):
            request.fail_busy()
        return request

    def refuse_clash(self, message: jsonrpc.Request, sink: MessageSink) -> InFlightRequest:
        """Refuse a request whose id is in use; return it. Not a checkpoint."""
        self._owner.violation("two requests in flight have one id")
        request = InFlightRequest.of(self._owner, message, sink)
        request.fail(INVALID_REQUEST, "A request with this id is in flight already")
        return request

    def admit_notification(self, message: jsonrpc.Notification, sink: MessageSink) -> bool:
        """Run the application's handler of a notification; return whether there was room."""
        request = InFlightRequest(
            self._owner,
            UNSET,
            message.method,
            message.params,
            sink,
            answered=True,
            memory=message.cost + OVERHEAD,
            budget=self._budget,
        )
        taken = self._take(request, message.frame)
        if taken and self._instruments is not None:
            request.observe(self._instruments)
        return taken

    def hold(self, subscription: OpenSubscription) -> None:
        """Register the id of a subscription for cancellation. Not a checkpoint."""
        self._subscriptions[subscription.id] = subscription

    def release(self, subscription: OpenSubscription) -> None:
        """Remove the id of a subscription. Not a checkpoint."""
        del self._subscriptions[subscription.id]

    def end_subscriptions(self) -> None:
        """End all subscriptions: their clients get the results. Not a checkpoint."""
        self._owner.for_each(list(self._subscriptions.values()), lambda listen: listen.end())

    def adopt(self, request: InFlightRequest) -> None:
        """Add a retry, whose handler runs already in its own worker. Not a checkpoint."""
        self._enter(request)

    def detach(self, request: InFlightRequest, worker: Worker) -> None:
        """Detach a worker whose handler leaves its request. Not a checkpoint.

        Its place is free for another request.
        """
        worker.detached = True
        self._workers.discard(worker)
        request.finish()

    def cancel(self, request_id: object) -> bool:
        """Cancel a request for its client: it stops, and gets no answer. Not a checkpoint.

        Returns:
            Whether there was exactly one such request, not cancelled yet. Ids are distinguished by
            type: ``True`` matches none.
        """
        known_id = jsonrpc.read_id(request_id)
        held = None if known_id is None else self._subscriptions.get(known_id)
        if held is not None:
            held.cancel()
            return True
        request = self._find(known_id)
        return request is not None and self.withdraw(request)

    def withdraw(self, request: InFlightRequest) -> bool:
        """Cancel a request: it stops, and gets no answer. Not a checkpoint.

        Returns:
            Whether it had no answer yet.
        """
        if request.answered:
            return False
        request.end_unanswered()
        request.stop("cancelled by the client")
        return True

    def revoke(self, principal: Principal) -> None:
        """Answer all open requests of a principal, and cancel them. Not a checkpoint."""

        def cut_off(request: InFlightRequest) -> None:
            request.revoked = True
            try:
                request.fail(INTERNAL_ERROR, str(AccessRevoked()))
            finally:
                request.stop("access was revoked")

        theirs = [one for one in self._active.values() if one.principal == principal]
        self._owner.for_each(theirs, cut_off)

    def _find(self, request_id: jsonrpc.RequestId | None) -> InFlightRequest | None:
        """Return the request of this id; None if there are several, which makes it ambiguous."""
        if request_id is None:
            return None
        if self._shares_ids:
            found = [one for one in self._active.values() if one.id == request_id]
            return found[0] if len(found) == 1 else None
        return self._active.get(request_id)

    def fail_all(self, code: int, message: str) -> None:
        """Answer all open requests, because the owner ends. Not a checkpoint."""

        def fail(request: InFlightRequest) -> None:
            try:
                request.fail(code, message)
            finally:
                if request.scope is None:
                    request.finish()

        self._owner.for_each(list(self._active.values()), fail)

    def cancel_all(self) -> None:
        """Cancel all handlers and end the workers; call `fail_all` first. Not a checkpoint."""
        try:
            self._owner.for_each(
                list(self._active.values()), lambda one: one.stop("server is shutting down")
            )
        finally:
            self.retire()

    def retire(self) -> None:
        """End the idle workers. Not a checkpoint."""
        for worker in list(self._idle):
            worker.scope.cancel(reason="idle")

    async def wait_empty(self) -> None:
        """Wait until no worker runs. A checkpoint if one does."""
        while self._active or self._workers:
            self._emptied = trio.Event()  # Only the owner's task waits here.
            await self._emptied.wait()

    def _take(self, request: InFlightRequest, frame: bytes) -> bool:
        """Run or queue a request; return whether there was room."""
        if not self.full:
            if not request.hold(request.memory):
                return False
            self._run(request)
            self._enter(request)
        elif len(self._waiting) < self._max_queued:
            if not request.hold_undecoded(frame):
                return False
            self._waiting[self._enter(request)] = request
        else:
            return False
        return True

    def _enter(self, request: InFlightRequest) -> object:
        """Add a request; return its key in the table."""
        # A notification has no id, and over HTTP an id may be in use already.
        anonymous = request.id is UNSET or request.id in self._active
        key: object = request if anonymous else request.id
        self._active[key] = request
        request.queue = self
        self._owner.counters.requests += 1
        self._work_counter._begin_work()
        return key

    def remove(self, request: InFlightRequest) -> None:
        """Remove a request from the tables. Only this method does. Not a checkpoint."""
        key = request.id if self._active.get(request.id) is request else request
        del self._active[key]
        self._waiting.pop(key, None)
        request.count_no_longer()
        try:
            self._work_counter._end_work()
        finally:
            self._notify_if_empty()

    def _notify_if_empty(self) -> None:
        if self._emptied is not None and not self._active and not self._workers:
            self._emptied.set()
            self._emptied = None

    def _run(self, request: InFlightRequest) -> None:
        """Give a request to an idle worker, or to a new one."""
        if self._idle:
            worker = self._idle.pop()
            self._hand_over(request, worker)
            trio.lowlevel.reschedule(worker.task)
        else:
            worker = Worker(request, self._idle)
            self._spawner._spawn(self._work, worker, name=request.method[:MAX_NAME])
            self._workers.add(worker)
            request.worker = worker

    def _hand_over(self, request: InFlightRequest, worker: Worker) -> None:
        worker.request = request
        request.worker = worker
        # A request must not see the context variables of the one before. A task uses its new
        # context when it is resumed, which happens next.
        worker.task.context = self._spawner._context()
        worker.task.name = request.method[:MAX_NAME]

    async def _work(self, worker: Worker) -> None:
        worker.task = trio.lowlevel.current_task()
        try:
            # Other tasks share the nursery: a failure of one request must not end it.
            with worker.scope, contained(self._owner.report):
                while worker.request is not None and not worker.scope.cancel_called:
                    await self._serve(worker.request, worker.scope)
                    worker.request.handler_ended()
                    worker.request = None
                    # A handler may have suppressed its cancellation, which must not reach the next
                    # request.
                    if not (worker.detached or worker.scope.cancel_called):
                        await self._wait_for_request(worker)
        finally:
            try:
                if worker.request is not None:
                    self._owner.for_each((worker.request,), self._cut_off)
            finally:
                self._workers.discard(worker)
                try:
                    self.run_queued()
                finally:
                    self._notify_if_empty()

    def _cut_off(self, request: InFlightRequest) -> None:
        assert request.scope is not None
        try:
            self._answer_cancelled(request, request.scope)
        finally:
            request.handler_ended()

    def _answer_cancelled(self, request: InFlightRequest, scope: trio.CancelScope) -> None:
        """Answer a request that was cancelled by code that did not answer it itself."""
        if scope.cancel_called:
            request.fail(INTERNAL_ERROR, "Request timed out")
        elif not request.answered:
            # A nursery of the lifespan has cancelled the session's, and no reason is set yet.
            request.fail(INTERNAL_ERROR, request.owner.why_it_ends())

    async def _serve(self, request: InFlightRequest, scope: trio.CancelScope) -> None:
        if self._timeout != inf:
            scope.deadline = trio.current_time() + self._timeout
        await request.run(self._application)
        if self._timeout != inf:
            scope.deadline = inf

    async def _wait_for_request(self, worker: Worker) -> None:
        """Take the next request of the queue, or sleep until there is one."""
        request = self._next_waiting()
        if request is not None:
            self._hand_over(request, worker)
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif len(self._idle) >= MAX_IDLE:
            worker.scope.cancel(reason="enough others are idle")
        else:
            self._idle.append(worker)
            await trio.lowlevel.wait_task_rescheduled(worker.stop_waiting)

    def run_queued(self) -> None:
        """Run the next request if fewer workers run than may. Not a checkpoint."""
        if self._waiting and not self.full:
            request = self._next_waiting()
            if request is not None:
                self._run(request)

    def _next_waiting(self) -> InFlightRequest | None:
        """Take the next request out of the queue; refuse those that cannot be decoded now."""
        while self._waiting:
            _, request = self._waiting.popitem(last=False)
            if request.decode():
                return request
            try:
                request.fail_busy()
            finally:
                request.handler_ended()
        return None
