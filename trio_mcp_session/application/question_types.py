"""The questions that a handler can ask its client, and the types of their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    TypeAlias,
    TypeVar,
    cast,
    final,
    overload,
)

import attrs
from attrs.validators import in_, optional

from ..protocol.jsonrpc import is_object
from .forms import Form, form_of

if TYPE_CHECKING:
    from ..protocol.revisions import Revision

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class ElicitResult(Generic[T]):
    """The user's answer to an `Elicitation` or `UrlElicitation`."""

    action: Literal["accept", "decline", "cancel"]
    """What the user did: ``decline`` for a "no", ``cancel`` for a form that was closed."""

    content: T | None
    """The form's values if it was accepted; None otherwise. For a form that is a class, an object
    of it; for a JSON schema a mapping, not checked, or None if the client sent none."""


class Question(Generic[T]):
    """A question to the client; `T` is the type of its answer. Base class."""

    __slots__ = ()

    key: str | None
    """Identifies the answer in a request that brings it (from 2026-07-28 on). Chosen by default."""

    _method: ClassVar[str]

    def _params(self, revision: Revision) -> Mapping[str, Any] | None:
        raise NotImplementedError

    def _read(self, answer: dict[str, Any]) -> T:
        """Read a result that has the shape of an answer (`is_answer`)."""
        raise NotImplementedError


@final
@attrs.frozen(init=False)
class Elicitation(Question[ElicitResult[T]]):
    """Ask the user to fill in a form (``elicitation/create``, from 2025-06-18 on).

    Never ask for secrets in this way: see `UrlElicitation`.

    Args:
        message: Text for the user.
        schema: The form: a class (see `Form`), or a JSON schema of an object of plain values.
        key: See `Question.key`.

    Raises:
        TypeError: The class has a field that forms cannot have.
    """

    message: str
    """Text for the user."""

    schema: Mapping[str, Any] | Form[T]
    """The form, or its JSON schema."""

    key: str | None = attrs.field(default=None, kw_only=True)
    """See `Question.key`."""

    _method = "elicitation/create"

    @overload
    def __init__(
        self: Elicitation[Mapping[str, Any]],
        message: str,
        schema: Mapping[str, Any],
        *,
        key: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self, message: str, schema: type[T] | Form[T], *, key: str | None = ...
    ) -> None: ...

    def __init__(
        self,
        message: str,
        schema: Mapping[str, Any] | type[T] | Form[T],
        *,
        key: str | None = None,
    ) -> None:
        form = schema if isinstance(schema, (Mapping, Form)) else form_of(schema)
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # attrs makes it
            message, form, key=key
        )

    def _params(self, revision: Revision) -> Mapping[str, Any]:
        schema = self.schema
        wanted = schema.schema(revision) if isinstance(schema, Form) else schema
        return {"message": self.message, "requestedSchema": wanted}

    def _read(self, answer: dict[str, Any]) -> ElicitResult[T]:
        action = answer["action"]
        if action != "accept":
            return ElicitResult(action=action, content=None)
        content = answer.get("content")
        given = content if is_object(content) else None
        if isinstance(self.schema, Form):
            return ElicitResult(action=action, content=self.schema.read(given))
        return ElicitResult(action=action, content=cast("T | None", given))


ToolChoice: TypeAlias = Literal["auto", "required", "none"]
"""Whether the client's model may use tools, must, or must not."""


@final
@attrs.frozen
class Sampling(Question[dict[str, Any]]):
    """Ask the client's model for a message (``sampling/createMessage``).

    The answer is the result as the client sent it. With tools, its ``stopReason`` may be
    ``toolUse``: then its content has the calls, and the next question brings their results.
    """

    messages: Sequence[Mapping[str, Any]]
    """The conversation so far."""

    max_tokens: int = attrs.field(kw_only=True)
    """The greatest length of the answer, in tokens."""

    tools: Sequence[Mapping[str, Any]] | None = attrs.field(default=None, kw_only=True)
    """The tools that the model may call, each with ``name``, ``description`` and ``inputSchema``.
    Only clients that declare ``sampling.tools`` can be asked with tools (from 2025-11-25 on)."""

    tool_choice: ToolChoice | None = attrs.field(
        default=None, validator=optional(in_(("auto", "required", "none"))), kw_only=True
    )
    """Whether the model may use tools (``auto``), must (``required``), or must not (``none``); by
    default the client decides. Needs the same as tools."""

    params: Mapping[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True)
    """Further parameters of the request, under their names in the protocol."""

    key: str | None = attrs.field(default=None, kw_only=True)
    """See `Question.key`."""

    _method = "sampling/createMessage"

    def _params(self, revision: Revision) -> Mapping[str, Any]:  # noqa: ARG002  # the same in all
        params: dict[str, Any] = {"messages": self.messages, "maxTokens": self.max_tokens}
        if self.tools is not None:
            params["tools"] = self.tools
        if self.tool_choice is not None:
            params["toolChoice"] = {"mode": self.tool_choice}
        return {**params, **self.params}

    def _read(self, answer: dict[str, Any]) -> dict[str, Any]:
        return answer


@final
@attrs.frozen
class Roots(Question[list[dict[str, Any]]]):
    """Ask the client which folders it works in (``roots/list``)."""

    key: str | None = attrs.field(default=None, kw_only=True)
    """See `Question.key`."""

    _method = "roots/list"

    def _params(self, revision: Revision) -> None:  # noqa: ARG002  # the same in all
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
