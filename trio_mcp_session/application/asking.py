"""How a handler asks its client: one ``await``, whatever the client's revision is.

Up to 2025-11-25 questions are requests that go the other way, while the handler's own is open.
From 2026-07-28 on they are the answer to it: the handler is parked, and goes on when the client
comes back. The handler need not know, and its clock stands still in either case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec
import trio

from ..core.errors import CapabilityMissing, NoChannel, QuestionTimeout
from ..protocol.capabilities import require
from ..protocol.input_required import MAY_ASK, check_answer, input_required
from ..protocol.jsonrpc import encode_json
from ..protocol.request_state import CarriedState
from ..server.client import client_of
from .questions import Elicitation, ElicitResult, InputRequired, Question, Roots, Sampling

if TYPE_CHECKING:
    from ..server.request import InFlightRequest
    from ..sessions.session import Session

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")


class Asking:
    """The part of a request's context that asks. See `RequestContext`."""

    __slots__ = (
        "_asked",
        "_brought",
        "_closed",
        "_questions",
        "_remembered",
        "_request",
        "_time_left",
    )

    def __init__(self, request: InFlightRequest) -> None:
        self._request = request
        self._closed: bool = False
        self._questions: int = 0
        self._time_left: float = inf
        self._asked: dict[str, int] | None = None
        self._brought: Mapping[str, Any] = {}
        self._remembered: Any = None

    async def elicit(
        self,
        message: str,
        schema: Mapping[str, Any],
        *,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it strikes
    ) -> ElicitResult:
        """Ask the user to fill in a form (``elicitation/create``, from 2025-06-18 on).

        A checkpoint. The request's own deadline stands still meanwhile. When cancelled, the
        client is told to forget the question, if it waits on a connection. Never ask for secrets
        in this way.

        Args:
            message: What to tell the user.
            schema: JSON schema of the form: an object of plain values.
            key: What the answer is known by, from 2026-07-28 on. A request that brings an answer
                of this name is not asked again.
            timeout: Seconds. By default `CleanupConfig.question_timeout` where the client is
                connected, and `CleanupConfig.request_state_timeout` where it has to come back.

        Raises:
            CapabilityMissing: The client cannot ask its user. Nothing was sent.
            NoChannel: The request has been answered, or cannot be answered with a question
                (2026-07-28: only ``tools/call``, ``prompts/get`` and ``resources/read``). Nothing
                was sent.
            QuestionTimeout: No answer in time; the client was told to forget the question.
            TooManyQuestions: `SessionLimits.max_questions` are open. Nothing was sent.
            McpError: The client answered with this error, or with what is no answer.
            SessionRejected: There is no place for another handler that waits (2026-07-28).
            SessionTerminated: The session ends or has ended.
            ValueError: A question with this key is open.
        """
        (answer,) = await self.ask_all(Elicitation(message, schema, key=key), timeout=timeout)
        return answer

    async def sample(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it strikes
        **params: Any,
    ) -> dict[str, Any]:
        """Let the client's model answer (``sampling/createMessage``).

        Checkpoint, cancellation and errors are those of `elicit`.

        Args:
            messages: The conversation so far.
            max_tokens: How long the answer may be.
            key: As for `elicit`.
            timeout: As for `elicit`.
            **params: Further parameters of the request, named as the protocol does.

        Returns:
            The result, as sent.
        """
        question = Sampling(messages, max_tokens=max_tokens, params=params, key=key)
        (answer,) = await self.ask_all(question, timeout=timeout)
        return answer

    async def list_roots(
        self,
        *,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it strikes
    ) -> list[dict[str, Any]]:
        """Ask which folders the client works in (``roots/list``).

        Checkpoint, cancellation, arguments and errors are those of `elicit`.
        """
        (answer,) = await self.ask_all(Roots(key=key), timeout=timeout)
        return answer

    @overload
    async def ask_all(self, _1: Question[T1], /, *, timeout: float | None = ...) -> tuple[T1]: ...
    @overload
    async def ask_all(
        self, _1: Question[T1], _2: Question[T2], /, *, timeout: float | None = ...
    ) -> tuple[T1, T2]: ...
    @overload
    async def ask_all(
        self,
        _1: Question[T1],
        _2: Question[T2],
        _3: Question[T3],
        /,
        *,
        timeout: float | None = ...,
    ) -> tuple[T1, T2, T3]: ...
    @overload
    async def ask_all(
        self, *questions: Question[T], timeout: float | None = ...
    ) -> tuple[T, ...]: ...

    async def ask_all(
        self,
        *questions: Question[Any],
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it strikes
    ) -> tuple[Any, ...]:
        """Ask several things at once, and wait for all answers.

        Checkpoint, cancellation and errors are those of `elicit`. If one of the questions fails,
        the others are taken back.

        Args:
            *questions: `Elicitation`, `Sampling`, `Roots`.
            timeout: As for `elicit`, for all of them together.

        Returns:
            The answers, in the order of the questions.
        """
        self._check_capabilities(questions)
        keyed = self._with_keys(questions)
        if not self._request.is_modern:
            answers = await self._ask_now(keyed, timeout)
        else:
            answers = await self._ask_and_park(keyed, timeout)
        return tuple(question._read(answers[key]) for key, question in keyed.items())

    # The same, without waiting.

    @property
    def request_state(self) -> Any:
        """What the handler gave to `InputRequired` to be remembered; None in the first call."""
        request = self._request
        return request.carried if request.is_modern else self._remembered

    def answer_to(self, question: Question[T]) -> T | None:
        """Return the answer that the request brings to a question; None where it brings none.

        For handlers that return `InputRequired`. Not a checkpoint.

        Raises:
            McpError: What it brings is no answer.
            ValueError: The question has no key.
        """
        key = question.key
        if key is None:
            raise ValueError("the question needs a key, for its answer to be found by")
        alone = self._request.is_modern
        brought = self._request.answers if alone else self._brought
        if key not in brought:
            return None
        if alone:  # Then it is the request itself that is wrong.
            check_answer(key, question._method, brought[key])
        return question._read(brought[key])

    async def _come_again(self, asked: InputRequired) -> Mapping[str, Any] | None:
        """Ask for a handler that wants to be called again, and not to wait.

        Returns:
            What to answer the request with; None where the answers are there already.
        """
        request = self._request
        if request.method not in MAY_ASK:
            raise TypeError(f"InputRequired is no answer to {request.method}")
        self._check_capabilities(asked.questions.values())
        if not request.is_modern:
            self._brought = await self._ask_now(asked.questions, None)
            self._remembered = msgspec.json.decode(encode_json(asked.state))
            return None
        questions = {key: one._asked_for().encode() for key, one in asked.questions.items()}
        state = None if asked.state is None else request.seal(CarriedState(value=asked.state))
        return input_required(questions, state)

    # Ways to ask.

    def _check_capabilities(self, questions: Iterable[Question[Any]]) -> None:
        revision = self._request.revision
        for question in questions:
            require(self._request.client, question._method)
            if question._name == "elicitation" and (revision is None or not revision.elicitation):
                raise CapabilityMissing("elicitation")

    def _with_keys(self, questions: Sequence[Question[Any]]) -> dict[str, Question[Any]]:
        keyed: dict[str, Question[Any]] = {}
        for question in questions:
            key = self._next_key(question._name) if question.key is None else question.key
            if key in keyed:
                raise ValueError(f"two questions have the key {key!r}")
            keyed[key] = question
        return keyed

    def _next_key(self, name: str) -> str:
        if self._asked is None:
            self._asked = {}
        self._asked[name] = number = self._asked.get(name, 0) + 1
        return f"{name}-{number}"

    async def _ask_now(
        self, questions: Mapping[str, Question[Any]], timeout: float | None
    ) -> Mapping[str, Any]:
        """Ask a client that listens."""
        session = self._request.session
        assert session is not None
        session._check_live()
        if not self._is_open():
            await trio.lowlevel.checkpoint()  # Who is cancelled hears of that first.
            raise NoChannel
        self._stop_clock()
        try:
            if len(questions) == 1:
                ((key, question),) = questions.items()
                return {key: await self._ask_one(session, question, timeout)}
            return await self._ask_several(session, questions, timeout)
        finally:
            self._resume_clock()

    async def _ask_one(
        self, session: Session, question: Question[Any], timeout: float | None
    ) -> Any:
        client, sink = client_of(session), self._request.sink
        return await client.ask_on(sink, question._method, question._params(), timeout)

    async def _ask_several(
        self, session: Session, questions: Mapping[str, Question[Any]], timeout: float | None
    ) -> Mapping[str, Any]:
        answers: dict[str, Any] = {}
        failures: list[Exception] = []

        async def ask(key: str, question: Question[Any]) -> None:
            try:
                answers[key] = await self._ask_one(session, question, timeout)
            except Exception as error:  # noqa: BLE001  # raised again below, without a group
                failures.append(error)
                nursery.cancel_scope.cancel(reason="another question failed")

        async with trio.open_nursery() as nursery:
            for key, question in questions.items():
                nursery.start_soon(ask, key, question)
            # Where nothing is asked the handler may be called again and again.
            await trio.lowlevel.checkpoint()
        if failures:
            raise failures[0]
        return answers

    async def _ask_and_park(
        self, questions: Mapping[str, Question[Any]], timeout: float | None
    ) -> Mapping[str, Any]:
        """Ask a client that has to come back, unless it has brought the answers already."""
        if self._closed:
            raise NoChannel
        answers = self._request.take_answers(
            {key: question._method for key, question in questions.items()}
        )
        missing = {
            key: question._asked_for() for key, question in questions.items() if key not in answers
        }
        if not missing:
            await trio.lowlevel.checkpoint()
            return answers
        self._stop_clock()
        try:
            with trio.move_on_after(inf if timeout is None else timeout):
                return {**answers, **await self._request.ask(missing)}
        finally:
            self._resume_clock()
        assert timeout is not None
        raise QuestionTimeout(next(iter(missing.values())).method, timeout)

    def _is_open(self) -> bool:
        """Whether anything may be sent for this request still."""
        return not self._closed and not self._request.has_answer

    # The handler's own clock.

    def _stop_clock(self) -> None:
        """Begin a question: the client's time is not the handler's."""
        scope = self._request.scope
        if not self._questions and scope is not None:
            self._time_left = scope.deadline - trio.current_time()
            scope.deadline = inf
        self._questions += 1

    def _resume_clock(self) -> None:
        """End a question; the clock goes on after the last one."""
        self._questions -= 1
        scope = self._request.scope
        if not self._questions and not self._closed and scope is not None:
            scope.deadline = trio.current_time() + self._time_left
