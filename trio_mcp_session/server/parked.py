"""Parked handlers: they have asked their client, and wait in a session of their own (2026-07-28).

The request of the handler is answered with the questions. The client sends a retry with the
answers, perhaps on another connection, and the handler continues for that request. The retry may
never come. So from its first question on the handler is a detached call (`detached`), which a
session of kind *parked* owns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import msgspec
import trio

from ..core.errors import NoChannel, ShuttingDown, TooManyQuestions
from ..core.ids import SessionKind
from ..core.reasons import TerminationReason
from ..protocol import jsonrpc
from ..protocol.capabilities import require
from ..protocol.error_codes import INTERNAL_ERROR, INVALID_PARAMS
from ..protocol.input_required import AskedFor, check_answer, input_required
from ..protocol.request_state import ParkedState
from ..sessions.state_keys import StateKey
from .busy import NO_MEMORY
from .detached import DetachedCall, open_session_for
from .pending_questions import PendingQuestions

if TYPE_CHECKING:
    from ..sessions.session import Session
    from .request import InFlightRequest
    from .request_queue import RequestQueue


@final
@attrs.define(eq=False, repr=False)
class ParkedHandler:
    """One handler that asks, from its first question to its end."""

    call: DetachedCall
    """The handler, and the session that owns it."""
    _round: int = attrs.field(default=0, init=False)
    _open: dict[str, tuple[PendingQuestions, str, msgspec.Raw]] = attrs.field(
        factory=dict[str, tuple[PendingQuestions, str, msgspec.Raw]], init=False
    )
    _collected: dict[str, Any] = attrs.field(factory=dict[str, Any], init=False)
    """Answers that came while others were missing: the handler resumes when it has all."""
    _asks: trio.Event | None = attrs.field(default=None, init=False)
    """Set when the task that asks for all has finished."""
    outcome: Callable[[InFlightRequest], None] | None = attrs.field(default=None, init=False)
    """Answers a request with what the handler returned or raised while it was detached."""

    def __attrs_post_init__(self) -> None:
        self.call.holder = self

    def __repr__(self) -> str:
        return f"<ParkedHandler of {self.request!r}: {len(self._open)} questions open>"

    @property
    def request(self) -> InFlightRequest:
        """The request that it works for, or worked for last."""
        return self.call.request

    # Called by the handler.

    async def ask(self, questions: Mapping[str, AskedFor]) -> Mapping[str, Any]:
        """Ask the client, and wait until its retries have brought all answers.

        A checkpoint, unless it raises before it asks. Questions that several tasks of a handler ask
        at the same time are sent together. When cancelled, the questions are not asked again.

        Returns:
            The answers, by key.

        Raises:
            NoChannel: The client has left, or the handler has ended.
            SessionTerminated: The session ends or has ended.
            SessionRejected: There is no place for another parked handler.
            TooManyQuestions: Too many questions are open.
            ValueError: A question with this key is open.
            TypeError: A question does not encode to JSON.
        """
        pending = PendingQuestions(questions)
        if self.call.is_attached and self.request.answered:
            await trio.lowlevel.checkpoint()  # The handler is cancelled: raise that first.
        self._check_asking()
        self._register(pending)
        try:
            while self.call.is_attached and not pending.answered.is_set():
                await self._ask_for_all()
            await pending.answered.wait()
            if not pending.answers:
                self._check_asking()  # It was woken without the answers: raise the reason.
            return pending.answers
        finally:
            self._take_back(pending)

    def _check_asking(self) -> None:
        """Raise an error if the client can no longer be asked."""
        session = self.call.session
        if session is not None:
            session._check_live()
            if session._drain_reason is not None:
                raise ShuttingDown
        if self.call.has_ended or (self.call.is_attached and self.request.answered):
            raise NoChannel("the client has left")

    def _register(self, pending: PendingQuestions) -> None:
        limit = self.request.owner.manager.config.limits.max_questions
        if len(self._open) + len(pending.questions) > limit:
            raise TooManyQuestions(limit)
        encoded = {
            key: (pending, question.method, question.encode())
            for key, question in pending.questions.items()
        }
        twice = self._open.keys() & encoded.keys()
        if twice:
            raise ValueError(f"a question with the key {min(twice)!r} is open already")
        self._open |= encoded

    def _take_back(self, pending: PendingQuestions) -> None:
        """Remove questions. Keys that were answered may already belong to new questions."""
        for key in pending.questions:
            if key in self._open and self._open[key][0] is pending:
                del self._open[key]
                self._collected.pop(key, None)

    async def _ask_for_all(self) -> None:
        """Answer the request with all questions, or wait until another task has done so."""
        if self._asks is not None:
            await self._asks.wait()
            return
        self._asks = trio.Event()
        try:
            if self.call.session is None:
                await self._open_session()
            # Questions that other tasks ask meanwhile are sent along.
            await trio.lowlevel.checkpoint()
            self._check_asking()
            self._park()
        finally:
            self._asks.set()
            self._asks = None

    async def _open_session(self) -> None:
        clocks = self.request.owner.manager.config.cleanup
        # No retry is accepted after that.
        clocks = attrs.evolve(clocks, max_idle_time=clocks.request_state_timeout)
        session = await open_session_for(self.request, SessionKind.PARKED, clocks)
        if self.call.has_ended:  # The task that asks was left behind by the handler.
            session.terminate()
            raise NoChannel("the client has left")
        session.set_state(_HANDLER, self)
        self.call.set_owner(session)

    def _park(self) -> None:
        """Answer the request with the questions, and wait for a retry."""
        self._answer_with_questions(self.request)
        self.call.detach()
        self.call.rest()

    # Called by retries.

    def resume_with(self, queue: RequestQueue, request: InFlightRequest, round_number: int) -> bool:
        """Take a retry for this handler. Not a checkpoint.

        Returns:
            Whether the handler works for it now. Otherwise the retry has been answered.

        Raises:
            McpError: -32602, an answer is malformed; nothing has changed.
            CapabilityMissing: The client does not declare what the open questions need; nothing has
                changed.
        """
        given = request.answers
        if round_number != self._round:
            request.fail(INVALID_PARAMS, "requestState has been used already")
            return False
        if self.outcome is not None:
            assert self.call.session is not None
            self.outcome(request)
            self.call.session.terminate()
            return False
        missing = False
        for key, (pending, method, _) in self._open.items():
            if key in given:
                check_answer(key, method, given[key])
            elif key not in self._collected:
                # This request is answered with the question.
                require(request.client, method, pending.questions[key].params)
                missing = True
        if missing:
            self._ask_again(request)
            return False
        if not queue.may_run(request) or not request.hold(request.memory):
            request.fail_busy()
            return False
        self._attach(queue, request)
        return True

    def _ask_again(self, request: InFlightRequest) -> None:
        """Answer with the questions that are still open; what was answered is kept."""
        assert self.call.session is not None
        brings_answers = not request.answers.keys().isdisjoint(self._open)
        # Until the handler ends: it takes the answers one after the other.
        if brings_answers and not self.call.session._byte_budget().claim(request.memory):
            request.fail_no_room(NO_MEMORY)
            return
        known = len(self._collected)
        self._take_answers(request)
        if len(self._collected) > known:
            # A retry without new answers does not extend the time to wait.
            self._round += 1
            self.call.session._touch()
        self._answer_with_questions(request)

    def _attach(self, queue: RequestQueue, request: InFlightRequest) -> None:
        self._take_answers(request)
        self._round += 1
        self.call.attach(queue, request)
        for key, (pending, *_) in self._open.items():
            pending.answers[key] = self._collected[key]
            pending.answered.set()
        self._open.clear()
        self._collected.clear()

    def _take_answers(self, request: InFlightRequest) -> None:
        answers = request.answers
        self._collected |= {key: answers.pop(key) for key in self._open if key in answers}

    def _answer_with_questions(self, request: InFlightRequest) -> None:
        questions = {
            key: question
            for key, (_, _, question) in self._open.items()
            if key not in self._collected
        }
        request.answer(input_required(questions, self._state(request)))

    def _state(self, request: InFlightRequest) -> str:
        assert self.call.session is not None
        state = ParkedState(session_id=self.call.session.session_id, round_number=self._round)
        return request.seal(state)

    # The interface for its call.

    was_stopped: Final = False

    def keep_result(self, result: object) -> None:
        """See `CallHolder.keep_result`. It is kept as text: objects take more memory."""
        text = jsonrpc.encode_json(result)
        self._keep(lambda request: request.answer(jsonrpc.decode_json(text)), len(text))

    def keep_error(self, code: int, message: str, data: Any) -> None:
        """See `CallHolder.keep_error`."""
        text = jsonrpc.encode_json(data)
        self._keep(
            lambda request: request.fail(code, message, jsonrpc.decode_json(text)),
            len(message) + len(text),
        )

    def _keep(self, outcome: Callable[[InFlightRequest], None], size: int) -> None:
        """Keep the handler's outcome for a later request."""
        self.outcome = outcome
        assert self.call.session is not None
        self.call.session._byte_budget().add(size)

    def handler_ended(self) -> None:
        """See `CallHolder.handler_ended`."""
        self._wake_all()

    def after_handler(self) -> None:
        """See `CallHolder.after_handler`. Without an outcome, no request can continue it."""
        assert self.call.session is not None
        if self.outcome is None:
            cancelled = self.call.worker.scope.cancel_called
            self.call.session.terminate(
                TerminationReason.CANCELLED if cancelled else TerminationReason.REQUESTED
            )

    def session_ends(self, why: str) -> None:
        """See `CallHolder.session_ends`."""
        if self.call.is_attached:
            self.request.fail(INTERNAL_ERROR, why)
        self._wake_all()

    def _wake_all(self) -> None:
        for pending, *_ in self._open.values():
            pending.answered.set()


_HANDLER: Final = StateKey[ParkedHandler]("parked handler")


def parked_handler(session: Session) -> ParkedHandler:
    """Return the handler that a session of kind *parked* is for."""
    return session.get_state(_HANDLER)


def forget_parked_handler(session: Session) -> None:
    """Let a session that has ended, and a handler that has, forget each other."""
    handler = session.get_state(_HANDLER, None)
    if handler is not None and handler.call.has_ended and not handler._open:
        session.delete_state(_HANDLER)
        handler.call.forget()
