"""What a handler may ask its client, and how it reads the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar, final

import attrs

from ..protocol.jsonrpc import is_object

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class ElicitResult:
    """What the user answered to an `Elicitation`."""

    action: Literal["accept", "decline", "cancel"]
    """What the user did."""

    content: Mapping[str, Any] | None
    """What the user filled in, if accepted. It has not been checked against the schema."""


class Question(Generic[T]):
    """Something to ask a client. `T` is what the answer is read as. Base class."""

    __slots__ = ()

    key: str | None
    """What the answer is known by, in requests that come again; chosen by default."""

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
    """What to tell the user."""

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
    """Let the client's model answer (``sampling/createMessage``). The answer is as it was sent."""

    messages: Sequence[Mapping[str, Any]]
    """The conversation so far."""

    max_tokens: int = attrs.field(kw_only=True)
    """How long the answer may be."""

    params: Mapping[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True)
    """Further parameters of the request, named as the protocol does."""

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
    """Ask which folders the client works in (``roots/list``)."""

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
    """Return it from a handler to be called again, with the answers and what is to be remembered.

    Nothing of the handler waits meanwhile, so the client may come back to another process: one
    that has the same `SessionConfig.request_state_keys`. Only the handlers of tools, of
    ``prompts/get`` and of ``resources/read`` may return it.

    Args:
        *questions: What to ask, each with a key.
        state: What `RequestContext.request_state` is then. Anything that encodes to JSON. The
            client can read it, and cannot change it.

    Raises:
        ValueError: A question has no key, two have the same one, or there is nothing in it.
    """

    __slots__ = ("questions", "state")

    def __init__(self, *questions: Question[Any], state: Any = None) -> None:
        if not questions and state is None:
            raise ValueError("there has to be a question, or a state")
        self.questions: dict[str, Question[Any]] = {}
        """What is asked, by key."""
        self.state: Any = state
        """What is remembered."""
        for question in questions:
            if question.key is None:
                raise ValueError("each question needs a key, for its answer to be found by")
            if question.key in self.questions:
                raise ValueError(f"two questions have the key {question.key!r}")
            self.questions[question.key] = question

    def __repr__(self) -> str:
        return f"<InputRequired: {', '.join(self.questions) or 'no question'}>"
