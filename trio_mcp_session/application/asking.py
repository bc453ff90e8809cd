"""How a handler asks its client: one ``await``, whatever the client's revision is.

Up to 2025-11-25 questions are requests that go the other way, while the handler's own is open.
From 2026-07-28 on they are the answer to it: the handler is parked, and goes on when the client
comes back. The handler need not know, and its clock stands still in either case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from ..protocol.input_required import MAY_ASK, AskedFor, check_answer, input_required
from ..protocol.jsonrpc import encode_json
from ..protocol.request_state import CarriedState
from .questions import Elicitation, ElicitResult, InputRequired, Question, Roots, Sampling

if TYPE_CHECKING:
    from ..sessions.requests import InFlightRequest

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")


class Asking:
    """The part of a request's context that asks. See `RequestContext`."""

    __slots__ = (
        "_brought",
        "_remembered",
        "_request",
    )

    def __init__(self, request: InFlightRequest) -> None:
        self._request = request
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
        request = self._request
        request.questions.check_capabilities(question._method for question in questions)
        keyed = self._with_keys(questions)
        answers = await request.ask_all(
            {key: (question._method, question._params()) for key, question in keyed.items()},
            timeout=timeout,
        )
        return tuple(question._read(answers[key]) for key, question in keyed.items())

    # The same, without waiting.

    @property
    def request_state(self) -> Any:
        """What the handler gave to `InputRequired` to be remembered; None in the first call."""
        request = self._request
        return request.carried if request.stands_alone else self._remembered

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
        alone = self._request.stands_alone
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
        keyed = {key: (one._method, one._params()) for key, one in asked.questions.items()}
        if not request.stands_alone:
            self._brought = await request.ask_all(keyed)
            self._remembered = msgspec.json.decode(encode_json(asked.state))
            return None
        request.questions.check_capabilities(method for method, _ in keyed.values())
        questions = {key: AskedFor(*one).encode() for key, one in keyed.items()}
        state = None if asked.state is None else request.seal(CarriedState(value=asked.state))
        return input_required(questions, state)

    def _with_keys(self, questions: Sequence[Question[Any]]) -> dict[str, Question[Any]]:
        keyed: dict[str, Question[Any]] = {}
        for question in questions:
            key = question.key
            if key is None:
                key = self._request.questions.new_key(question._method)
            if key in keyed:
                raise ValueError(f"two questions have the key {key!r}")
            keyed[key] = question
        return keyed
