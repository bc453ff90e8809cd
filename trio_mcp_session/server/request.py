"""A request from its admission to its answer.

Each request is an object that holds the sink for its answer. Answers never look up a request by its
id, since real clients use one id twice at the same time.

The class is in one file, although that is longer than 600 lines: an answer, a question and a
cancellation all need the same fields. Other modules have what a request can become: `asking`,
`parked`, `promotion` and `adopted`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import attrs
import trio
from msgspec import UNSET, UnsetType

from ..core.errors import (
    AccessRevoked,
    CapabilityMissing,
    HandleError,
    HandlerCrashed,
    InsufficientScope,
    McpError,
    NoSession,
    QuestionError,
    SessionRejected,
    SessionTerminated,
)
from ..core.instrumentation import RequestOutcome
from ..core.reasons import EndingReason, TerminationReason
from ..protocol import jsonrpc
from ..protocol.capabilities import as_object
from ..protocol.error_codes import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    MISSING_CLIENT_CAPABILITY,
)
from ..protocol.input_required import check_answer, read_responses
from ..protocol.jsonrpc import is_object
from ..protocol.methods import MAY_ASK
from ..protocol.request_state import CarriedState, ParkedState, binding_of, open_sealed, seal
from ..protocol.results import translate_code
from ..sessions.failures import FAILURES, contain, first_if_all, separate
from .adopted import AdoptedCall
from .asking import CannotAsk, HandlerQuestions
from .busy import BUSY, NO_MEMORY, OVERHEAD
from .ending import Ending, OnDisconnect
from .request_source import source_of

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget
    from ..core.identity import ClientInfo, Principal
    from ..core.instrumentation import RequestDetails, TaskDetails
    from ..core.peer import Party
    from ..protocol.envelope import Envelope
    from ..protocol.revisions import Revision
    from ..sessions.instruments import Instruments, ObservedRequest, ObservedTask
    from ..sessions.session import Session
    from .application import RequestHandler
    from .detached import DetachedCall
    from .promotion import Promotion
    from .request_owner import RequestOwner
    from .request_queue import RequestQueue, Worker
    from .sink import MessageSink
    from .task import ServerTask

TRUSTED: Final = frozenset({"memory", "stdio"})
"""Transports whose clients need no scopes: their client started the server, or is part of it."""

DescribeFailure: TypeAlias = "Callable[[InFlightRequest, Exception | None], object]"
"""Returns the result of a request whose handler failed; None for one that took too long."""

FOR_THE_CLIENT: Final = (
    HandleError,
    McpError,
    NoSession,
    QuestionError,
    SessionRejected,
)
"""Errors of a handler that are always answers; see also `InFlightRequest.is_for_client`."""


@final
@attrs.define(eq=False, repr=False, init=False)
class InFlightRequest:
    """A request (or a notification that the application handles) from admission to its end."""

    # The defaults are in `__init__`, which is written by hand: one request sets each of them, and
    # the one of attrs looks up the defaults by name.
    owner: RequestOwner
    """The connection or server that it belongs to."""
    id: jsonrpc.RequestId | UnsetType
    method: str
    params: jsonrpc.Params
    sink: MessageSink
    answered: bool
    """Whether its answer was sent, or there will be none."""
    envelope: Envelope | None
    """The envelope of a stateless request; None for a request of a session."""
    _principal: Principal | None
    party: Party | None
    """What its client is counted by, where several clients share a queue."""
    memory: int
    """Bytes that it takes once its message is decoded, by estimate."""
    budget: ByteBudget | None
    """What counts these bytes; None for a request that is answered at once."""
    _frame: bytes
    """What it was decoded from, while it waits."""
    _claimed: int
    """Bytes that are counted for it now."""
    error_code: int | None
    """The error that it was answered with; None for a result or no answer yet."""
    carried: Any
    """The state that its handler gave the client, the last time that it was called."""
    detached: DetachedCall | AdoptedCall | None
    """Its handler, once that has asked the client something or has become a task, or a session has
    adopted it (from 2026-07-28 on)."""
    promotion: Promotion | None
    """How it can become a task; None if it cannot. The application may set it."""
    on_disconnect: OnDisconnect | None
    """What happens to its handler when its client leaves; None for the rule of its revision."""
    ending_reason: EndingReason | None
    """Why the end of its handler was announced; None if it was not."""
    _ending: Ending | None
    _answers: dict[str, Any] | None
    queue: RequestQueue | None
    """What counts it as work now."""
    worker: Worker | None
    """The worker that runs its handler; None while it waits in the queue."""
    handler_name: str | None
    """The name of its handler in reports, such as ``tool 'add'``. The application may set it."""
    describe_failure: DescribeFailure | None
    """Returns the result for an error that is not the client's, or for a request that took too
    long (None). Without it, these are answered with error -32603. The application may set it."""
    no_room: str | None
    """Why there is no room for it now; None if there is."""
    revoked: bool
    """Whether the access of its principal was revoked."""
    handler_has_ended: bool
    """Whether its handler has returned, raised or been cancelled."""
    _questions: HandlerQuestions | None
    observed: ObservedRequest | None
    """Reports it to the instrumentation; None without any that observes it."""

    def __init__(
        self,
        owner: RequestOwner,
        message: jsonrpc.Request | jsonrpc.Notification,
        sink: MessageSink,
        envelope: Envelope | None = None,
        principal: Principal | None = None,
        party: Party | None = None,
        budget: ByteBudget | None = None,
    ) -> None:
        self.owner = owner
        self.id = message.id
        self.method = message.method
        self.params = message.params
        self.sink = sink
        self.answered = self.id is UNSET
        self.envelope = envelope
        self._principal = principal
        self.party = party
        self.memory = message.cost + OVERHEAD
        self.budget = budget
        self._frame = b""
        self._claimed = 0
        self.error_code = self.carried = self.detached = self.on_disconnect = None
        self.promotion = None
        self.ending_reason = self._ending = self._answers = None
        self.queue = self.worker = self.handler_name = self.no_room = None
        self.describe_failure = None
        self.revoked = self.handler_has_ended = False
        self._questions = self.observed = None

    def __repr__(self) -> str:
        return f"<InFlightRequest {self.method!r} id={self.id!r}>"

    @property
    def session(self) -> Session | None:
        """The session that it belongs to; None for a stateless request."""
        return None if self.envelope is not None else self.owner.session

    @property
    def principal(self) -> Principal | None:
        """The principal that makes it, with its own claims and scopes; None without one."""
        if self._principal is not None:
            return self._principal
        source = source_of(self.sink)
        if source is not None and source.principal is not None:
            return source.principal
        return self.owner.default_principal

    def has_scopes(self, needed: Iterable[str]) -> bool:
        """Return whether its principal has all of these scopes. Not a checkpoint.

        A client over stdio or in memory has all, unless it was given a principal: it started the
        server, or is part of the program.
        """
        session = self.owner.session
        if session is not None and session.principal is None and session.transport.name in TRUSTED:
            return True
        principal = self.principal
        held = frozenset[str]() if principal is None else principal.scopes
        return held.issuperset(needed)

    @property
    def scope(self) -> trio.CancelScope | None:
        """The scope that cancels its handler; None while it waits in the queue."""
        return None if self.worker is None else self.worker.scope

    @property
    def client(self) -> ClientInfo | None:
        """How its client described itself."""
        if self.envelope is not None:
            return self.envelope.client
        session = self.owner.session
        return None if session is None else session.client

    @property
    def revision(self) -> Revision | None:
        """The protocol version of its client; None before a session's handshake."""
        return self.owner.revision if self.envelope is None else self.envelope.revision

    @property
    def log_severity(self) -> int | None:
        """The lowest level of log messages that its client wants; None for none."""
        return self.owner.log_severity if self.envelope is None else self.envelope.log_severity

    @property
    def is_modern(self) -> bool:
        """Whether it is a stateless request (from 2026-07-28 on)."""
        return self.envelope is not None

    @property
    def is_retry(self) -> bool:
        """Whether it is a retry of an earlier request, and brings its ``requestState``."""
        return (
            self.envelope is not None
            and self.params.get("requestState") is not None
            and self.method in MAY_ASK
        )

    @property
    def task(self) -> ServerTask | None:
        """The task that its call has become; None if it has not."""
        return None if self.promotion is None else self.promotion.task

    @property
    def answers(self) -> dict[str, Any]:
        """The answers in it that are not used yet, by key.

        Raises:
            McpError: -32602, the answers are malformed.
        """
        if self._answers is None:
            has_any = self.envelope is not None and self.method in MAY_ASK
            self._answers = read_responses(self.params) if has_any else {}
        return self._answers

    def take_answers(self, methods: Mapping[str, str]) -> dict[str, Any]:
        """Take the answers in it to questions with these keys and methods.

        Raises:
            McpError: -32602, one of them is malformed; none was taken.
        """
        there = self.answers.keys() & methods.keys()
        for key in there:
            check_answer(key, methods[key], self.answers[key])
        return {key: self.answers.pop(key) for key in there}

    def seal(self, state: ParkedState | CarriedState) -> str:
        """Return the state that the client has to send with its retry."""
        config = self.owner.manager.config
        expires = config.wall_clock().timestamp() + config.cleanup.request_state_timeout
        # Any process with the keys can call a handler again; only this one has what is parked.
        node = config.node if isinstance(state, ParkedState) else None
        return seal(config.request_state_keys, state, self._binding(), expires, node)

    def open_state(self) -> ParkedState | CarriedState:
        """Return the state in it.

        Raises:
            McpError: -32602, the state was not made for this request, or is too old.
        """
        config = self.owner.manager.config
        now = config.wall_clock().timestamp()
        text = self.params["requestState"]
        return open_sealed(config.request_state_keys, text, self._binding(), now)

    def _binding(self) -> bytes:
        return binding_of(self.principal, self.method, self.params)

    def observe(self, instruments: Instruments, details: RequestDetails) -> None:
        """Report to the instrumentation that it has begun. Not a checkpoint."""
        self.observed = instruments.request_begun(details)

    def observe_retry(self, handler: InFlightRequest) -> None:
        """Report to the instrumentation which handler it continues. Not a checkpoint."""
        if self.observed is not None and handler.observed is not None:
            self.observed.continues(handler.observed)

    def observe_task(self, details: TaskDetails) -> ObservedTask | None:
        """Report to the instrumentation that its handler becomes a task. Not a checkpoint."""
        observed = None if self.observed is None else self.observed.task_begun(details)
        if observed is not None:
            self._in_handler(observed.enter_handler)
        return observed

    def _in_handler(self, function: Callable[[], object]) -> None:
        """Call a function in the context of the handler, which runs or waits."""
        assert self.worker is not None
        task = self.worker.task
        if task is trio.lowlevel.current_task():
            function()
        else:
            task.context.run(function)

    def hold(self, count: int) -> bool:
        """Count so many bytes in all; return whether there was room. Not a checkpoint."""
        assert self.budget is not None
        if not self.budget.claim(count - self._claimed):
            self.no_room = NO_MEMORY
            return False
        self._claimed = count
        return True

    def hold_undecoded(self, frame: bytes) -> bool:
        """Keep its message undecoded; return whether there was room. Not a checkpoint."""
        # The id and the method are kept beside the frame.
        names = len(self.method) + (len(self.id) if isinstance(self.id, str) else 0)
        if not self.hold(len(frame) + names + OVERHEAD):
            return False
        if frame:  # Otherwise it was not made from a frame.
            self._frame = frame
            self.params = {}
        return True

    def decode(self) -> bool:
        """Decode its message, which waited undecoded; return whether there was room."""
        if not self.hold(self.memory):
            return False
        if self._frame:
            self.params = jsonrpc.decode_again(self._frame)
            self._frame = b""
        return True

    def count_no_longer(self) -> None:
        """Release the bytes that are counted for it. Not a checkpoint."""
        assert self.budget is not None
        self.budget.release(self._claimed)
        self._claimed = 0

    def rebind(self, request: InFlightRequest) -> None:
        """Rebind to the retry: take over its id, params, stream, envelope and bytes."""
        self.budget, self.memory = request.budget, request.memory
        self._claimed, request._claimed = request._claimed, 0
        self.owner = request.owner
        self.id = request.id
        self.params = request.params
        self.sink = request.sink
        self.envelope = request.envelope
        self._principal = request._principal
        self.party = request.party
        self._answers = request._answers
        self.observed, request.observed = request.observed, None
        self.answered = False
        if self.observed is not None:
            self._in_handler(self.observed.enter_handler)

    async def ask(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it is over
    ) -> Any:
        """Send a question of this request's handler to the client, and wait for the result.

        For handlers and layers on top of them, such as `RequestContext`. It works for clients of
        all revisions:

        - Up to 2025-11-25 it sends a request to the client, on this request's own stream.
        - From 2026-07-28 on it answers this request with the question (``input_required``), and
          the handler waits until its client has sent the request again, with the result. From then
          on the handler works for the retry: `id`, `params`, `sink` and `client` come from the last
          request. If the request already has an unused result under the same key, that is
          returned at once, and nothing is sent.

        A checkpoint whenever it returns. The request's own clock
        (`CleanupConfig.request_timeout`) is stopped meanwhile. When cancelled, the question is
        withdrawn: up to 2025-11-25 the client is sent ``notifications/cancelled``, if there is
        room; from 2026-07-28 on, a late answer is ignored.

        Args:
            method: A method of the protocol, such as ``elicitation/create``,
                ``sampling/createMessage`` or ``roots/list``. From 2026-07-28 on, clients need to
                know only these three.
            params: Its parameters; None to send none.
            key: The key of the result in the request that brings it (from 2026-07-28 on). By
                default the capability with a number, such as ``roots-1`` for the first question
                for roots of this handler.
            timeout: Seconds. By default `CleanupConfig.question_timeout` up to 2025-11-25, and
                `CleanupConfig.request_state_timeout` from 2026-07-28 on.

        Returns:
            The result as the client sent it, decoded. It was checked to be an object, with a valid
            ``action`` for ``elicitation/create`` and ``roots`` for ``roots/list``. Nothing else was
            checked.

        Raises:
            CapabilityMissing: The client did not declare the capability that the method needs, or
                its revision does not have the method. Nothing was sent.
            NoChannel: The handler has ended, the request has been answered or cancelled, or the
                client cannot be reached. From 2026-07-28 on also where this request's method cannot
                be answered with a question: only ``tools/call``, ``prompts/get`` and
                ``resources/read`` can. Nothing was sent.
            QuestionTimeout: There was no result in time. The question was withdrawn.
            TooManyQuestions: `SessionLimits.max_questions` are open. Nothing was sent.
            McpError: The client answered with this error, or with a malformed result (-32603). A
                malformed result in the request itself is an error of the client (-32602).
            SessionRejected: There is no place for another parked handler (from 2026-07-28 on).
            SessionTerminated: The session ends or has ended; from 2026-07-28 on, the one in which
                the handler waits.
            ValueError: A question with this key is open (from 2026-07-28 on).
            TypeError: The parameters do not encode to JSON.
        """
        questions = self.questions
        # First: a question that fails uses no key.
        questions.check_capabilities(((method, params),))
        key = questions.new_key(method) if key is None else key
        return (await questions.ask_all({key: (method, params)}, timeout))[key]

    async def ask_all(
        self,
        questions: Mapping[str, tuple[str, Mapping[str, Any] | None]],
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it is over
    ) -> dict[str, Any]:
        """Ask the client several questions at once, and wait for all results.

        ::

            results = await request.ask_all(
                {
                    "name": ("elicitation/create", {"message": "Name?", "requestedSchema": schema}),
                    "folders": ("roots/list", None),
                }
            )

        Up to 2025-11-25 each question is a request to the client, and all are sent at the same
        time; from 2026-07-28 on they are sent in one answer. If one question fails, all
        fail: the first error cancels the others, and is raised itself, not in a group. Otherwise as
        `ask`.

        Args:
            questions: The method and the parameters of each question, by its key.
            timeout: As for `ask`, for all of them together.

        Returns:
            The results, by key.
        """
        return await self.questions.ask_all(questions, timeout)

    @property
    def questions(self) -> HandlerQuestions:
        """The questions of its handler to the client."""
        if self._questions is None:
            self._questions = HandlerQuestions(self)
        return self._questions

    @property
    def has_open_questions(self) -> bool:
        """Whether its handler waits for answers of its client."""
        return self._questions is not None and self._questions.are_open

    @property
    def suspended_for(self) -> float:
        """Seconds for which its handler has waited for the client. Not a checkpoint."""
        return 0.0 if self._questions is None else self._questions.suspended_for

    @property
    def ending(self) -> Ending:
        """The announcement of its handler's end."""
        if self._ending is None:
            self._ending = Ending(self)
        return self._ending

    def end_soon(self, reason: EndingReason) -> None:
        """Announce the end of its handler; the first reason stays. Not a checkpoint."""
        if self.ending_reason is None:
            self.ending_reason = reason
        if self._ending is not None:
            self._ending._wake()

    @property
    def owner_ends(self) -> bool:
        """See `Endable.owner_ends`."""
        return (self.detached or self.owner).termination_reason is not None

    @property
    def notice_in(self) -> float:
        """See `Endable.notice_in`."""
        return self.time_left - self.owner.manager.config.cleanup.ending_notice

    @property
    def drains(self) -> bool:
        """Whether its manager or its session drains."""
        task = self.task
        session = self.owner.session if task is None else task.drains_with
        drains = session is not None and session._drain_reason is not None
        return drains or self.owner.manager._draining

    @property
    def time_left(self) -> float:
        """Seconds until its own clock, its session or a drain cancels its handler."""
        session = self.session if self.detached is None else self.detached.session
        if session is not None and session.termination_reason is not None:
            return 0.0
        until = self.owner.manager._drain_until
        left = self.questions.time_left
        if session is not None:
            left = min(left, session.time_left)
            until = min(until, session._drain_until)
        return max(0.0, min(left, until - trio.current_time()))

    def choose_on_disconnect(self, choice: OnDisconnect | None) -> None:
        """Set what happens to its handler when its client leaves. Not a checkpoint."""
        self.on_disconnect = choice
        if choice == "cancel" and self.envelope is None:
            watch = getattr(self.sink, "watch_client", None)
            queue = self.queue
            if watch is not None and queue is not None:
                watch(lambda: queue.client_left(self))

    def let_adopt(self, session: Session) -> None:
        """Let a session own its handler, unless it has a session of its own. Not a checkpoint."""
        if self.detached is None:
            assert self.worker is not None  # The handler has chosen to be adopted.
            self.detached = AdoptedCall.by(session, self.worker.scope, self.worker.task)

    @property
    def has_answer(self) -> bool:
        """Whether its answer was sent, or there will be none, as for every notification."""
        return self.answered and self.id is not UNSET

    def check_access(self) -> None:
        """Raise if the access of its principal was revoked: open nothing for it.

        Raises:
            AccessRevoked: It was revoked, and the handler still runs in a shield.
        """
        reason = (self.detached or self.owner).termination_reason
        if self.revoked or reason is TerminationReason.REVOKED:
            raise AccessRevoked

    def describe_handler(self, name: str | None, describe_failure: DescribeFailure | None) -> None:
        """Set the name of its handler in reports, and what describes its failure to the client.

        Not a checkpoint.
        """
        self.handler_name = name
        self.describe_failure = describe_failure

    def finish(self) -> None:
        """Mark it as no longer in flight, if it was. Not a checkpoint."""
        if self.queue is not None:
            queue, self.queue = self.queue, None
            try:
                queue.remove(self)
            finally:
                if self.worker is not None and self.worker.detached:
                    queue.run_queued()  # Its worker must not take another request.

    def stop(self, reason: str) -> None:
        """Cancel its handler, or remove it from the queue. Not a checkpoint."""
        if self.scope is None:
            self.finish()
        else:
            self.scope.cancel(reason=reason)

    def answer(self, result: object) -> None:
        """Send the result, unless the request has been answered or cancelled."""
        if self.answered or self.id is UNSET:
            self._keep_result(result)
            return
        try:
            if self.envelope is not None:
                # Such a result depends on answers of this client: it must not be cached.
                keepable = self.params.keys().isdisjoint(("inputResponses", "requestState"))
                result = self.owner.complete_result(self.method, result, keepable=keepable)
            frame = jsonrpc.encode_result(self.id, result)
        except FAILURES as error:  # what the application returned may do anything
            self.crash(contain(error))
        else:
            self.answered = True
            self.owner.send_result(self.sink, frame)
            if self.observed is not None:
                self.observed.finished(_outcome_of(result))

    def fail(self, code: int, message: str, data: Any = None) -> None:
        """Send an error, unless the request has been answered or cancelled."""
        if self.answered:
            self._keep_error(code, message, data)
            return
        if self.envelope is not None:
            code = translate_code(code)
        try:
            frame = jsonrpc.encode_error(self.id, code, message, data)
        except FAILURES as error:  # ``data`` is the application's
            self.crash(contain(error))
        else:
            self.answered = True
            self.error_code = code
            self.owner.counters.errors += 1
            self.owner.send_result(self.sink, frame)
            if self.observed is not None:
                self.observed.finished(RequestOutcome(error_code=code, error_message=message))

    def end_unanswered(self) -> None:
        """End it without an answer: its client has cancelled it, or has left. Not a checkpoint."""
        self.answered = True
        self.owner.send_no_result(self.sink)
        if self.observed is not None:
            self.observed.finished(RequestOutcome(cancelled=True))

    def fail_busy(self) -> None:
        """Send the error that too many requests are in flight, or too many bytes in memory."""
        self.fail_no_room(self.no_room or BUSY)

    def fail_no_room(self, why: str) -> None:
        """Send the error that there is no room for it now. Not a checkpoint."""
        self.no_room = why
        self.fail(INTERNAL_ERROR, why)

    def _keep_result(self, result: object) -> None:
        """Keep the result of a handler that was detached."""
        if self.detached is not None:
            try:
                self.detached.keep_result(result)
            except FAILURES as error:  # what the application returned may do anything
                self.crash(contain(error))

    def _keep_error(self, code: int, message: str, data: Any) -> None:
        """Keep the error of a handler that was detached."""
        if self.detached is not None:
            try:
                self.detached.keep_error(code, message, data)
            except FAILURES as error:  # ``data`` is the application's
                self.crash(contain(error))

    def handler_ended(self) -> None:
        """Mark it as no longer in flight, without a worker. Not a checkpoint."""
        self.handler_has_ended = True
        if self.id is UNSET and self.observed is not None:
            self.observed.finished(RequestOutcome())
        try:
            self.finish()
        finally:
            if self.promotion is not None:
                self.promotion.stop_timer()
            if self.detached is not None:
                self.detached.handler_ended()
            if not self.has_open_questions:
                self._questions = None  # It refers to the request.

    def forget_call(self) -> None:
        """Called when the session of its handler is gone, and the handler has ended."""
        self.detached = None

    async def run(self, application: RequestHandler) -> None:
        """Call the application's handler, and answer. A checkpoint if the handler is one.

        Failures are answered and reported, including `SystemExit`. It raises only what has to
        propagate: a cancellation, or `KeyboardInterrupt`. Then nothing is answered here.
        """
        try:
            result = await application.handle(self)  # unprotected: see `leave_unprotected`
        except FAILURES as error:
            failure, onward = separate(error)
            try:
                if onward is None:
                    assert failure is not None
                    self._fail_by(failure)
                    return
                if failure is not None and first_if_all(failure, self.is_for_client) is None:
                    self.report_crash(failure)
                raise onward from None
            finally:
                # The traceback has this frame: with the error in it, there would be a circle.
                del failure, onward
        self.answer(result)

    def is_for_client(self, error: BaseException) -> bool:
        """Return whether an error of the handler is an answer to the client, not a crash."""
        match error:
            case CannotAsk():
                return False
            case SessionTerminated():
                # Otherwise it concerns another session, or a session that has not ended.
                return self.detached is not None or self.answered
            case _:
                return isinstance(error, FOR_THE_CLIENT)

    def _fail_by(self, error: Exception) -> None:
        """Answer with the error that the handler raised, alone or in a group."""
        try:
            match first_if_all(error, self.is_for_client):
                case None:
                    self.crash(error)
                case InsufficientScope() as told:
                    self.fail_insufficient_scope(told)
                case McpError() as told:
                    self.fail(told.code, told.message, told.data)
                case CapabilityMissing() as told if self.envelope is not None:
                    self.fail_missing_capability(told)
                case HandleError() as told:
                    self.fail(INVALID_PARAMS, str(told))
                case SessionTerminated() if self.detached is None:
                    pass  # The client has got the reason of this end already.
                case told:
                    # Clients can cause these at any time: they are not worth a log record.
                    self.fail(INTERNAL_ERROR, str(told))
        except FAILURES as failed:  # the error's text may be the application's
            self.crash(contain(failed))

    def fail_missing_capability(self, error: CapabilityMissing) -> None:
        """Tell a client of 2026-07-28 which capabilities it would have to declare."""
        needed: dict[str, Any] = {"requiredCapabilities": as_object(error.capability)}
        self.fail(MISSING_CLIENT_CAPABILITY, str(error), needed)

    def fail_insufficient_scope(self, error: InsufficientScope) -> None:
        """Answer with the scopes that are missing; over HTTP with a challenge, if possible."""
        source = source_of(self.sink)
        if source is not None and not self.answered:
            source.missing_scopes = error.scopes
        self.fail(error.code, error.message, error.data)

    def crash(self, error: Exception) -> None:
        """Report the handler's error, and answer. The client gets no details of it."""
        self.report_crash(error)
        self._fail_handler(error, "Internal error")

    def fail_timed_out(self) -> None:
        """Answer that the handler took too long. Not a checkpoint."""
        if self.detached is None or not self.detached.was_stopped:
            self._fail_handler(None, "Request timed out")

    def _fail_handler(self, error: Exception | None, message: str) -> None:
        # Only once: the answer to the failure can fail, too.
        describe, self.describe_failure = self.describe_failure, None
        if describe is None or self.id is UNSET:
            self.fail(INTERNAL_ERROR, message)
            return
        try:
            result = describe(self, error)
        except FAILURES as failed:  # the error's text may be the application's
            self.crash(contain(failed))
        else:
            self.answer(result)

    def report_crash(self, error: Exception) -> None:
        """Report the handler's error. Not a checkpoint."""
        report = HandlerCrashed(self.method, self.handler_name)
        report.__cause__ = error
        # A detached handler belongs to a session of its own, which reports it.
        (self.detached or self.owner).report(report)


def _outcome_of(result: object) -> RequestOutcome:
    """Return the outcome of a result for instrumentation."""
    members: Mapping[str, object] = result if is_object(result) else {}
    return RequestOutcome(
        is_tool_error=members.get("isError") is True,
        needs_input=members.get("resultType") == "input_required",
        result=result,
    )
