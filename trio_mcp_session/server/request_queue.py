"""The queue of requests: which run at the same time, which wait, and which are refused.

Handlers run in *workers*: tasks that take one request after the other. A scope per request is the
larger part of what a request costs, so a worker opens one scope for all of its requests.
Cancelling a request therefore ends its worker, and the next request gets another one.

The class is in one file, although that is longer than 600 lines: admission, cancellation and
workers use the same tables. The order of parties that share a queue is in `turns`.
"""

from __future__ import annotations

from collections import OrderedDict
from contextvars import Context
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, final

import attrs
import trio
from msgspec import UNSET

from ..core.errors import AccessRevoked
from ..core.reasons import EndingReason
from ..protocol import jsonrpc
from ..protocol.error_codes import INTERNAL_ERROR, INVALID_REQUEST
from ..sessions.failures import contained
from ..sessions.left_open import leave_nurseries
from .request import InFlightRequest
from .request_watch import RequestWatch
from .resume import resume

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget
    from ..core.identity import Principal
    from ..core.metrics import ManagerCounters
    from ..core.peer import Party
    from ..protocol.envelope import Envelope
    from ..protocol.jsonrpc import RequestId
    from ..sessions.manager_server import RunningRequests
    from ..sessions.session import Session
    from .application import Application, RequestHandler
    from .request_owner import RequestOwner, TaskSpawner, WorkCounter
    from .resting import Resting
    from .sink import MessageSink
    from .turns import Turns


_IDLE_CONTEXT: Final = Context()
"""The context variables of all idle workers: none. A request brings its own."""

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

    def end_if_done(self) -> None:
        """End it by the server, unless it has to wait for a task. Not a checkpoint."""
        ...

    def cancel(self) -> None:
        """End it because the client cancelled it: nothing is sent. Not a checkpoint."""
        ...


@final
@attrs.define(eq=False)
class Worker:
    """A task that runs one request after another, in one cancel scope.

    Cancelling its request ends the task as well.
    """

    request: InFlightRequest | None
    idle: list[Worker]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    task: trio.lowlevel.Task = attrs.field(init=False)
    began: float = attrs.field(default=inf, init=False)
    """When it began to run its request, on Trio's clock."""
    detached: bool = attrs.field(default=False, init=False)
    """Whether its handler has left its request, and is no longer counted by the queue."""
    starts: bool = attrs.field(default=False, init=False)
    """Whether it got a request in this turn of the event loop; only where parties take turns."""

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
    _turns: Turns | None = attrs.field(default=None, kw_only=True, alias="turns")
    """The turns of the parties that share the queue; None if it belongs to one client."""
    _resting: Resting | None = attrs.field(default=None, kw_only=True, alias="resting")
    """Frees its workers when it is quiet; None if it keeps them."""
    _is_resting: bool = attrs.field(default=False, init=False)
    """Whether it is looked at until it is quiet."""
    taken: int = attrs.field(default=0, init=False)
    """How many requests its workers have got."""
    _active: dict[object, InFlightRequest] = attrs.field(
        factory=dict[object, InFlightRequest], init=False
    )
    _waiting: OrderedDict[object, InFlightRequest] = attrs.field(
        factory=OrderedDict[object, InFlightRequest], init=False
    )
    _workers: set[Worker] = attrs.field(factory=set[Worker], init=False)
    _idle: list[Worker] = attrs.field(factory=list[Worker], init=False)
    _emptied: trio.Event | None = attrs.field(default=None, init=False)
    _watch: RequestWatch | None = attrs.field(default=None, init=False)
    """Reports requests to the instrumentation; None without any."""
    _handler: RequestHandler = attrs.field(init=False)
    """The application, or what stands before it."""
    _subscriptions: dict[RequestId, OpenSubscription] = attrs.field(
        factory=dict["RequestId", "OpenSubscription"], init=False
    )
    """Subscriptions, which have no task: the queue only knows their ids."""
    _tally: ManagerCounters = attrs.field(init=False)
    _budget: ByteBudget = attrs.field(init=False)
    """What counts the bytes of requests that come without a budget of their own."""

    def __attrs_post_init__(self) -> None:
        self._handler = self._application
        if instruments := self._owner.manager._instruments:
            self._handler = self._watch = RequestWatch(instruments, self._application)
        self._budget = self._owner.budget
        self._tally = self._owner.manager._counters

    @property
    def running(self) -> int:
        """How many requests run now."""
        return len(self._active) - len(self._waiting)

    @property
    def queued(self) -> int:
        """How many requests wait until a running one has finished."""
        return len(self._waiting)

    @property
    def empty(self) -> bool:
        """Whether nothing is left in it: no request, worker or subscription."""
        return not (self._active or self._workers or self._subscriptions)

    @property
    def full(self) -> bool:
        """Whether the next request has to wait."""
        return self.running >= self._max_in_flight

    def may_run(self, request: InFlightRequest) -> bool:
        """Return whether a request that may not wait is accepted."""
        return not self.full and (self._turns is None or self._turns.may_run(request.party))

    def has_room_for(self, party: Party | None) -> bool:
        """Return whether the next request of a party is accepted, where parties share the queue."""
        turns = self._turns
        assert turns is not None
        return turns.has_room_for(party) and (
            len(self._active) < self._max_in_flight + self._max_queued
            or turns.displaced_by(party) is not None
        )

    @property
    def tasks(self) -> frozenset[trio.lowlevel.Task]:
        """The tasks of the workers that have begun."""
        adopted = {one.worker for one in self._active.values() if one.worker is not None}
        workers = self._workers | adopted
        return frozenset(worker.task for worker in workers if hasattr(worker, "task"))

    def running_requests(self) -> RunningRequests:
        """Return the requests that run, by their tasks. Not a checkpoint; safe in any thread."""
        workers = [(one.worker, one) for one in list(self._active.values())]
        return {
            worker.task: (_describe(request), worker.began)
            for worker, request in workers
            if worker is not None and hasattr(worker, "task")
        }

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
        owner: RequestOwner | None = None,
        party: Party | None = None,
        budget: ByteBudget | None = None,
    ) -> InFlightRequest:
        """Run a request, queue it, or refuse it; return it. Not a checkpoint.

        Args:
            message: The request.
            sink: Takes the answer.
            envelope: Its envelope, if it is stateless.
            principal: The principal that makes it; the owner's default otherwise.
            owner: The owner of this request, if it is not the queue's.
            party: What it is counted by, where parties share the queue.
            budget: What counts its bytes; the owner's budget otherwise.
        """
        if self.clashes(message.id):
            return self.refuse_clash(message, sink)
        request = InFlightRequest(
            owner or self._owner,
            message,
            sink,
            envelope,
            principal,
            party,
            budget or (self._budget if owner is None else owner.budget),
        )
        if self._watch is not None:
            self._watch.begin(request)
        if request.is_retry and (resumed := resume(self, request)) is not None:
            return resumed
        if not self._take(request, message.frame):
            request.fail_busy()
        return request

    def refuse_clash(self, message: jsonrpc.Request, sink: MessageSink) -> InFlightRequest:
        """Refuse a request whose id is in use; return it. Not a checkpoint."""
        self._owner.violation("two requests in flight have one id")
        request = InFlightRequest(self._owner, message, sink)
        request.fail(INVALID_REQUEST, "A request with this id is in flight already")
        return request

    def admit_notification(
        self,
        message: jsonrpc.Notification,
        sink: MessageSink,
        owner: RequestOwner | None = None,
        party: Party | None = None,
    ) -> bool:
        """Run the application's handler of a notification; return whether there was room.

        It has the arguments of `admit`.
        """
        request = InFlightRequest(
            owner or self._owner,
            message,
            sink,
            party=party,
            budget=self._budget if owner is None else owner.budget,
        )
        taken = self._take(request, message.frame)
        if taken and self._watch is not None:
            self._watch.begin(request)
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

    def drain_subscriptions(self) -> None:
        """End all subscriptions but those with tasks that work. Not a checkpoint."""
        open_ones = list(self._subscriptions.values())
        self._owner.for_each(open_ones, lambda listen: listen.end_if_done())

    def adopt(self, request: InFlightRequest) -> None:
        """Add a retry, whose handler runs already in its own worker. Not a checkpoint."""
        self._enter(request)
        if self._turns is not None:
            self._turns.started(request.party)

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
        request.end_soon(EndingReason.CANCELLED)
        request.stop("cancelled by the client")
        return True

    def client_left(self, request: InFlightRequest, adopter: Session | None = None) -> bool:
        """Called when the client of a request has left. Not a checkpoint.

        Nothing more is sent for it. Its handler is cancelled, or runs on if it has chosen that.

        Args:
            request: The request.
            adopter: The session that may adopt the handler.

        Returns:
            Whether it had no answer yet.
        """
        if request.answered:
            return False
        request.end_unanswered()
        request.end_soon(EndingReason.CLIENT_LEFT)
        if request.on_disconnect in (None, "cancel"):
            request.stop("the client has left")
        elif request.on_disconnect == "adopt" and adopter is not None:
            request.let_adopt(adopter)
        return True

    def end_soon(self, reason: EndingReason) -> None:
        """Announce the end of all handlers. Not a checkpoint."""
        for request in self._active.values():
            request.end_soon(reason)

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

    async def end(self, code: int, message: str) -> None:
        """Answer all open requests, cancel the handlers, and end the workers.

        A checkpoint only if there are many. It cannot be cancelled.
        """

        def end(request: InFlightRequest) -> None:
            if request.queue is None:
                return  # It has ended meanwhile.
            try:
                request.fail(code, message)
            finally:
                request.stop("server is shutting down")

        try:
            # Those that wait come first: otherwise they would take the places of the others.
            await self._owner.for_each_in_batches(list(self._waiting.values()), end)
            await self._owner.for_each_in_batches(list(self._active.values()), end)
        finally:
            self.retire()

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

    def retire(self) -> bool:
        """End the idle workers; return whether there were any. Not a checkpoint."""
        idle = list(self._idle)
        for worker in idle:
            worker.scope.cancel(reason="idle")
        return bool(idle)

    def left_to_rest(self) -> None:
        """Called when its idle workers have ended, and no new request came for a while."""
        self._is_resting = False
        self._owner.queue_rests(self)

    async def wait_empty(self) -> None:
        """Wait until no worker runs. A checkpoint if one does."""
        while self._active or self._workers:
            self._emptied = trio.Event()  # Only the owner's task waits here.
            await self._emptied.wait()

    def _take(self, request: InFlightRequest, frame: bytes) -> bool:
        """Run or queue a request; return whether there was room."""
        if self._turns is not None:
            return self._take_turn(request, frame, self._turns)
        if not self.full:
            if not request.hold(request.memory):
                return False
            self._run(request)
            self._enter(request)
        elif len(self._waiting) < self._max_queued:
            if not request.hold_undecoded(frame):
                return False
            self._waiting[self._enter(request)] = request
            self._tally.waiting_requests += 1
        else:
            return False
        return True

    def _take_turn(self, request: InFlightRequest, frame: bytes, turns: Turns) -> bool:
        """Take a request where several parties share the queue; return whether there was room."""
        party = request.party
        open_requests = len(self._active)
        displaced: object | None = None
        if open_requests >= self._max_in_flight + self._max_queued:
            displaced = turns.displaced_by(party)
            if displaced is None:
                return False
        if open_requests - len(self._waiting) < self._max_in_flight and turns.may_start(party):
            if not request.hold(request.memory):
                return False
            self._run(request)
            self._enter(request)
            turns.started(party)
        else:
            if not turns.has_room_for(party) or not request.hold_undecoded(frame):
                return False
            key = self._enter(request)
            self._waiting[key] = request
            self._tally.waiting_requests += 1
            turns.wait(party, key)
        if displaced is not None:
            self._owner.for_each((self._waiting[displaced],), self._refuse)
        return True

    @staticmethod
    def _refuse(request: InFlightRequest) -> None:
        """Answer a request that waited, and can wait no longer."""
        try:
            request.fail_busy()
        finally:
            request.handler_ended()

    def _next(self) -> InFlightRequest | None:
        """Remove and return the waiting request whose turn it is; None if no request may run.

        Requests that cannot be decoded now, because too many bytes are in memory, are refused.
        """
        while self._waiting:
            if self._turns is None:
                request = self._waiting.popitem(last=False)[1]
            else:
                key = self._turns.take()
                if key is None:
                    return None
                request = self._waiting.pop(key)
                self._turns.started(request.party)
            self._tally.waiting_requests -= 1
            if request.decode():
                return request
            self._owner.for_each((request,), self._refuse)
        return None

    def _enter(self, request: InFlightRequest) -> object:
        """Add a request; return its key in the table."""
        # A notification has no id, and over HTTP an id may be in use already.
        anonymous = request.id is UNSET or request.id in self._active
        key: object = request if anonymous else request.id
        self._active[key] = request
        request.queue = self
        self._owner.counters.requests += 1
        self._tally.open_requests += 1
        self._work_counter._begin_work()
        return key

    def remove(self, request: InFlightRequest) -> None:
        """Remove a request from the tables. Only this method does. Not a checkpoint."""
        key = request.id if self._active.get(request.id) is request else request
        del self._active[key]
        self._tally.open_requests -= 1
        waited = self._waiting.pop(key, None) is not None
        if waited:
            self._tally.waiting_requests -= 1
        if self._turns is not None:
            if waited:
                self._turns.leave(request.party, key)
            else:
                self._turns.ended(request.party)
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
            self.taken += 1
            worker = Worker(request, self._idle)
            self._spawner._spawn(self._work, worker, name=request.method[:MAX_NAME])
            self._workers.add(worker)
            request.worker = worker
            if self._turns is not None:
                worker.starts = True
                self._turns.starting += 1

    def _hand_over(self, request: InFlightRequest, worker: Worker) -> None:
        self.taken += 1
        worker.request = request
        request.worker = worker
        if self._turns is not None:
            worker.starts = True
            self._turns.starting += 1
        # A request must not see the context variables of the one before. A task uses its new
        # context when it is resumed, which happens next.
        worker.task.context = self._spawner._context()
        worker.task.name = request.method[:MAX_NAME]

    async def _work(self, worker: Worker) -> None:
        worker.task = trio.lowlevel.current_task()
        try:
            # Other tasks share the nursery: a failure of one request must not end it.
            with worker.scope, contained(self._owner.report):
                # What cancels a request before it starts has answered it. This is asked first:
                # `cancel_called` reads the clock.
                while worker.request is not None and not (
                    worker.request.answered and worker.scope.cancel_called
                ):
                    worker.began = trio.current_time()
                    if worker.starts:
                        self._has_started(worker)
                    # Here, and not in a function of its own: that would be one more coroutine.
                    if self._timeout != inf:
                        worker.scope.deadline = worker.began + self._timeout
                    try:
                        await worker.request.run(self._handler)
                    except BaseException as error:  # noqa: ASYNC103  # what propagates is raised there
                        if not worker.task.child_nurseries:
                            raise
                        await self._leave_nurseries(worker, error)  # noqa: ASYNC102  # cannot stop
                    else:
                        if worker.task.child_nurseries:
                            await self._leave_nurseries(worker, None)
                    if self._timeout != inf:
                        worker.scope.deadline = inf
                    worker.request.handler_ended()
                    worker.request = None
                    # A handler may have suppressed its cancellation, which must not reach the next
                    # request.
                    if not (worker.detached or worker.scope.cancel_called):
                        await self._wait_for_request(worker)
        finally:
            self._worker_ended(worker)

    def _worker_ended(self, worker: Worker) -> None:
        """Answer the request of a worker that was cut off, and let another one take its place."""
        try:
            if worker.request is not None:
                self._owner.for_each((worker.request,), self._cut_off)
        finally:
            worker.request = None
            if worker.starts:
                self._has_started(worker)
            self._workers.discard(worker)
            # Its request may refer to the worker, and the task's own context to the request.
            worker.task.context = _IDLE_CONTEXT
            try:
                self.run_queued()
            finally:
                self._notify_if_empty()

    def _has_started(self, worker: Worker) -> None:
        """Let the next request start: this one's turn of the event loop has come."""
        assert self._turns is not None
        worker.starts = False
        self._turns.starting -= 1
        self.run_queued()

    def _cut_off(self, request: InFlightRequest) -> None:
        assert request.scope is not None
        try:
            self._answer_cancelled(request, request.scope)
        finally:
            request.handler_ended()

    def _answer_cancelled(self, request: InFlightRequest, scope: trio.CancelScope) -> None:
        """Answer a request that was cancelled by code that did not answer it itself."""
        if scope.cancel_called:
            request.fail_timed_out()
        elif not request.answered:
            # A nursery of the lifespan has cancelled the session's, and no reason is set yet.
            request.fail(INTERNAL_ERROR, request.owner.why_it_ends())

    @staticmethod
    async def _leave_nurseries(worker: Worker, raised: BaseException | None) -> None:
        """Leave the nurseries that the handler has left open: Trio's error would end all others."""
        request = worker.request
        assert request is not None
        failure, onward = await leave_nurseries(worker.task, raised)
        if raised is not None and onward is None:
            request.crash(failure)
            return
        request.report_crash(failure)  # It is answered, or will be as one that was cancelled.
        if onward is not None:
            raise onward from None

    async def _wait_for_request(self, worker: Worker) -> None:
        """Take the next request of the queue, or sleep until there is one."""
        request = self._next()
        if request is not None:
            self._hand_over(request, worker)
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif len(self._idle) >= MAX_IDLE:
            worker.scope.cancel(reason="enough others are idle")
        else:
            self._idle.append(worker)
            if not self._is_resting and self._resting is not None:
                self._is_resting = True
                self._resting.add(self)
            # The task's own context would keep the last request alive, with its parameters, headers
            # and claims.
            worker.task.context = _IDLE_CONTEXT
            await trio.lowlevel.wait_task_rescheduled(worker.stop_waiting)

    def run_queued(self) -> None:
        """Run the next request if fewer workers run than may. Not a checkpoint."""
        if self._waiting and not self.full and (request := self._next()) is not None:
            self._run(request)


def _describe(request: InFlightRequest) -> str:
    """Return the description of a request for a report, which also has the name of its task."""
    name = "notification" if request.id is UNSET else f"request {request.id!r}"
    return name if request.handler_name is None else f"{name}, {request.handler_name}"
