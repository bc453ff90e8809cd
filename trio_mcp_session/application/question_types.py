"""The questions that a handler can ask its client, and the types of their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar, final

import attrs

from ..protocol.jsonrpc import is_object

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class ElicitResult:
    """The user's answer to an `Elicitation`."""

    action: Literal["accept", "decline", "cancel"]
    """What the user did."""

    content: Mapping[str, Any] | None
    """The form's values if it was accepted, not checked against the schema; None otherwise."""


class Question(Generic[T]):
    """A question to the client; `T` is the type of its answer. Base class."""

    __slots__ = ()

    key: str | None
    """Identifies the answer in a request that brings it (from 2026-07-28 on). Chosen by default."""

    _method: ClassVar[str]

    def _params(self) -> Mapping[str, Any] | None:
        raise NotImplementedError

    def _read(self, answer: dict[str, Any]) -> T:
        """Read a result that has the shape of an answer (`is_answer`)."""
        raise NotImplementedError


@final
@attrs.frozen
class Elicitation(Question[ElicitResult]):
    """Ask the user to fill in a form (``elicitation/create``, from 2025-06-18 on).

    Never ask for secrets in this way.
    """

    message: str
    """Text for the user."""

    schema: Mapping[str, Any]
    """JSON schema of the form: an object of plain values."""

    key: str | None = attrs.field(default=None, kw_only=True)
    """See `Question.key`."""

    _method = "elicitation/create"

    def _params(self) -> Mapping[str, Any]:
        return {"message": self.message, "requestedSchema": self.schema}

    def _read(self, answer: dict[str, Any]) -> ElicitResult:
        action = answer["action"]
        content = answer.get("content") if action == "accept" else None
        return ElicitResult(action=action, content=content if is_object(content) else None)


@final
@attrs.frozen
class Sampling(Question[dict[str, Any]]):
    """Ask the client's model for a message (``sampling/createMessage``).

    The answer is the result as the client sent it.
    """

    messages: Sequence[Mapping[str, Any]]
    """The conversation so far."""

    max_tokens: int = attrs.field(kw_only=True)
    """The greatest length of the answer, in tokens."""

    params: Mapping[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True)
    """Further parameters of the request, under their names in the protocol."""

    key: str | None = attrs.field(default=None, kw_only=True)
    """See `Question.key`."""

    _method = "sampling/createMessage"

    def _params(self) -> Mapping[str, Any]:
        return {"messages": self.messages, "maxTokens": self.max_tokens, **self.params}

    def _read(self, answer: dict[str, Any]) -> dict[str, Any]:
        return answer


@final
@attrs.frozen
class Roots(Question[list[dict[str, Any]]]):
    """Ask the client which folders it works in (``roots/list``)."""

    key: str | None = attrs.field(default=None, kw_only=True)
    """See `Question.key`."""

    _method = "roots/list"

    def _params(self) -> None:
        return None

    def _read(self, answer: dict[str, Any]) -> list[dict[str, Any]]:
        roots: list[dict[str, Any]] = answer["roots"]
        return roots


@final
class InputRequired:
    """Return it from a handler to be called again, with the answers and a state.

    The handler does not wait meanwhile, so the client may send its request again to another
    process that has the same `SessionConfig.request_state_keys`. Only the handlers of tools, of
    ``prompts/get`` and of ``resources/read`` may return it.

    Args:
        *questions: What to ask, each with a key.
        state: The value of `RequestContext.request_state` in the next call. Anything that encodes
            to JSON. The client can read it, but not change it.

    Raises:
        ValueError: A question has no key, two have the same key, or there is neither a question
            nor a state.
    """

    __slots__ = ("questions", "state")

    def __init__(self, *questions: Question[Any], state: Any = None) -> None:
        if not questions and state is None:
            raise ValueError("InputRequired needs a question, or a state")
        self.questions: dict[str, Question[Any]] = {}
        """The questions, by key."""
        self.state: Any = state
        """The state for the next call."""
        for question in questions:
            if question.key is None:
                raise ValueError(
                    "each question of InputRequired needs a key, which identifies its answer"
                )
            if question.key in self.questions:
                raise ValueError(f"two questions have the key {question.key!r}")
            self.questions[question.key] = question

    def __repr__(self) -> str:
        return f"<InputRequired: {', '.join(self.questions) or 'no question'}>"
