"""A handler that has asked its client something, and waits in a session of its own (2026-07-28).

The request that it was called for is answered with the questions. The client comes back with
another one, perhaps on another connection, and the handler goes on where it stood, for that one.
Nobody may ever come back, so the handler is the guest of a session of kind *parked*, which owns
it from the first question on: its clocks, limits and reasons to end are those of every session.
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
from ..protocol.capabilities import require
from ..protocol.error_codes import INTERNAL_ERROR, INVALID_PARAMS
from ..protocol.input_required import AskedFor, check_answer, input_required
from ..protocol.request_state import ParkedState
from ..sessions.state_keys import StateKey

if TYPE_CHECKING:
    from ..sessions.session import Session
    from .request import InFlightRequest
    from .request_queue import RequestQueue, Worker


@final
@attrs.define(eq=False)
class _Asking:
    """Questions that are asked together, and whoever waits for their answers."""

    questions: Mapping[str, AskedFor]
    answers: dict[str, Any] = attrs.field(factory=dict[str, Any], init=False)
    answered: trio.Event = attrs.field(factory=trio.Event, init=False)


@final
@attrs.define(eq=False, repr=False)
class ParkedHandler:
    """One handler, from its first question to its end."""

    request: InFlightRequest
    """The request that it works for, or did last."""

    _worker: Worker
    _session: Session | None = attrs.field(default=None, init=False)
    _attached: bool = attrs.field(default=True, init=False)
    """Whether a request waits for it now."""
    _round: int = attrs.field(default=0, init=False)
    _open: dict[str, tuple[_Asking, str, msgspec.Raw]] = attrs.field(
        factory=dict[str, tuple[_Asking, str, msgspec.Raw]], init=False
    )
    _collected: dict[str, Any] = attrs.field(factory=dict[str, Any], init=False)
    """Answers that came while others were missing: the handler goes on when it has all."""
    _outcome: Callable[[InFlightRequest], None] | None = attrs.field(default=None, init=False)
    _asks: trio.Event | None = attrs.field(default=None, init=False)
    """Set when the one who asks for all is done with it."""
    _over: bool = attrs.field(default=False, init=False)
    """Whether the handler has ended."""

    def __repr__(self) -> str:
        return f"<ParkedHandler of {self.request!r}: {len(self._open)} questions open>"

    # As the handler sees it.

    async def ask(self, questions: Mapping[str, AskedFor]) -> Mapping[str, Any]:
        """Ask the client, and wait until it has come back with all answers.

        A checkpoint, except where a limit or a mistake keeps it from asking.
        What several tasks of a handler ask in the same moment is asked together. When cancelled,
        the questions are not asked again.

        Returns:
            The answers, by key.

        Raises:
            NoChannel: The client has left, or the handler has ended.
            SessionTerminated: The session ends or has ended.
            SessionRejected: There is no place for another handler that waits.
            TooManyQuestions: Too many wait already.
            ValueError: A question with this key is open.
            TypeError: A question does not encode to JSON.
        """
        asking = _Asking(questions)
        if self._attached and self.request.answered:
            await trio.lowlevel.checkpoint()  # It is cancelled, and hears of that first.
        self._check_asking()
        self._register(asking)
        try:
            while self._attached and not asking.answered.is_set():
                await self._ask_for_all()
            await asking.answered.wait()
            if not asking.answers:
                self._check_asking()  # It was woken to hear why there will be none.
            return asking.answers
        finally:
            self._take_back(asking)

    def _check_asking(self) -> None:
        """Raise what keeps anybody from asking the client, now and later."""
        session = self._session
        if session is not None:
            session._check_live()
            if session._drain_reason is not None:
                raise ShuttingDown
        if self._over or (self._attached and self.request.answered):
            raise NoChannel("the client has left")

    def _register(self, asking: _Asking) -> None:
        limit = self.request.owner.manager.config.limits.max_questions
        if len(self._open) + len(asking.questions) > limit:
            raise TooManyQuestions(limit)
        encoded = {
            key: (asking, question.method, question.encode())
            for key, question in asking.questions.items()
        }
        twice = self._open.keys() & encoded.keys()
        if twice:
            raise ValueError(f"a question with the key {min(twice)!r} is open already")
        self._open |= encoded

    def _take_back(self, asking: _Asking) -> None:
        """Forget questions; who was answered may find their keys in use by others again."""
        for key in asking.questions:
            if key in self._open and self._open[key][0] is asking:
                del self._open[key]
                self._collected.pop(key, None)

    async def _ask_for_all(self) -> None:
        """Answer the request with all that is asked, or wait until somebody else has."""
        if self._asks is not None:
            await self._asks.wait()
            return
        self._asks = trio.Event()
        try:
            if self._session is None:
                self._session = await self._open_session()
            # Whoever asks in this moment is asked along.
            await trio.lowlevel.checkpoint()
            self._check_asking()
            self._park()
        finally:
            self._asks.set()
            self._asks = None

    async def _open_session(self) -> Session:
        request = self.request
        manager = request.owner.manager
        clocks = manager.config.cleanup
        session = await manager.create_session(
            request.client,
            kind=SessionKind.PARKED,
            principal=request.principal,
            # Nobody can come back later than that.
            clocks=attrs.evolve(clocks, max_idle_time=clocks.request_state_timeout),
        )
        session._check_live()
        if self._over:  # A task asks that the handler left behind.
            session.terminate()
            raise NoChannel("the client has left")
        session.set_state(_HANDLER, self)
        session._add_borrower(self._worker.scope, self._worker.task, self._fail)
        return session

    def _park(self) -> None:
        """Answer the request with the questions, and wait without one."""
        request = self.request
        self._answer_with_questions(request)
        self._attached = False
        assert self._session is not None
        if self._worker.detached:
            request.finish()
        else:
            assert request.queue is not None
            request.queue.detach(request, self._worker)
        self._session._end_work()

    # As the requests see it that come back.

    def resume_with(self, queue: RequestQueue, request: InFlightRequest, round_number: int) -> bool:
        """Take a request that goes on with this handler. Not a checkpoint.

        Returns:
            Whether the handler works for it now, as the request that it was parked with; it has
            its answer otherwise.

        Raises:
            McpError: -32602, an answer cannot be one; nothing has changed.
            CapabilityMissing: The client cannot be asked now what is still missing; likewise.
        """
        given = request.answers
        if round_number != self._round:
            request.fail(INVALID_PARAMS, "requestState has been used already")
            return False
        if self._outcome is not None:
            self._deliver(request)
            return False
        missing = False
        for key, (_, method, _) in self._open.items():
            if key in given:
                check_answer(key, method, given[key])
            elif key not in self._collected:
                # It is this request that is answered with the question.
                require(request.client, method)
                missing = True
        if missing:
            self._ask_again(request)
            return False
        if queue.full:
            request.fail_busy()
            return False
        self._attach(queue, request)
        return True

    def _deliver(self, request: InFlightRequest) -> None:
        """Give the request what the handler said when nobody waited for it."""
        assert self._outcome is not None
        assert self._session is not None
        self._outcome(request)
        self._session.terminate()

    def _ask_again(self, request: InFlightRequest) -> None:
        """Answer with the questions that are still open; what was answered is kept."""
        assert self._session is not None
        known = len(self._collected)
        self._take_answers(request)
        if len(self._collected) > known:
            # Coming back with nothing new keeps nobody waiting for longer.
            self._round += 1
            self._session._touch()
        self._answer_with_questions(request)

    def _attach(self, queue: RequestQueue, request: InFlightRequest) -> None:
        assert self._session is not None
        self._take_answers(request)
        self._round += 1
        self._attached = True
        self._session._begin_work()
        self.request.rebind(request)
        queue.adopt(self.request)
        for key, (asking, *_) in self._open.items():
            asking.answers[key] = self._collected[key]
            asking.answered.set()
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
        assert self._session is not None
        state = ParkedState(session_id=self._session.session_id, round_number=self._round)
        return request.seal(state)

    # As what runs it sees it.

    def keep_outcome(self, outcome: Callable[[InFlightRequest], None]) -> None:
        """Keep what the handler said, if nobody waits for it now. Not a checkpoint."""
        # Whoever was waiting and has left does not come back for it.
        if not self._attached:
            self._outcome = outcome

    @property
    def termination_reason(self) -> TerminationReason | None:
        """Why what the handler belongs to now ends or has ended; None while that lives."""
        if self._attached or self._session is None:
            return self.request.owner.termination_reason
        return self._session.termination_reason

    def report(self, error: Exception) -> None:
        """Report a failure of the handler. While it waits, its last request's owner may end."""
        if self._attached or self._session is None:
            self.request.owner.report(error)
        else:
            self._session._report(error)

    def handler_ended(self) -> None:
        """Learn that the handler has ended, however that came. Not a checkpoint."""
        self._over = True
        self._wake_all()
        if self._session is None:
            return
        if not self._attached:
            self._session._begin_work()  # Which the guest's leaving ends.
        self._session._remove_borrower(self._worker.scope)
        if self._outcome is None:
            cancelled = self._worker.scope.cancel_called
            self._session.terminate(
                TerminationReason.CANCELLED if cancelled else TerminationReason.REQUESTED
            )

    def _fail(self, why: str) -> None:
        """Leave nobody waiting, neither the request nor the handler: the session ends."""
        if self._attached:
            self.request.fail(INTERNAL_ERROR, why)
        self._wake_all()

    def _wake_all(self) -> None:
        for asking, *_ in self._open.values():
            asking.answered.set()


_HANDLER: Final = StateKey[ParkedHandler]("parked handler")


def parked_handler(session: Session) -> ParkedHandler:
    """Return the handler that a session of kind *parked* is for."""
    return session.get_state(_HANDLER)
