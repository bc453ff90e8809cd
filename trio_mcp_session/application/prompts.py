"""Prompts: functions that return messages for a model, for a user to choose."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast, final

import attrs
import trio

from ..core.errors import McpError, shown
from ..protocol.error_codes import INVALID_PARAMS
from ..protocol.jsonrpc import encode_json, is_object
from .arguments import Arguments, ArgumentsInvalid
from .content import Content, as_content, is_content
from .conversion import to_json
from .metadata import Icon, Role
from .middleware import HandlerCall
from .pagination import list_page
from .question_types import InputRequired
from .signature import Signature

if TYPE_CHECKING:
    from ..protocol.revisions import Revision
    from .context import RequestContext


@final
@attrs.frozen
class PromptMessage:
    """One message of a prompt."""

    content: Content | str
    """What it says; a ``str`` stands for `TextContent`."""

    role: Role = "user"
    """Whose message it is."""

    def write(self, revision: Revision) -> dict[str, Any]:
        """Return the object of the protocol."""
        return {"role": self.role, "content": as_content(self.content).write(revision)}


Messages: TypeAlias = "str | Content | PromptMessage | Sequence[str | Content | PromptMessage]"
"""What the function of a prompt may return."""


@final
@attrs.frozen
class PromptResult:
    """The whole result of a prompt, for a prompt that decides about each part of it."""

    messages: Messages
    """Its messages."""

    description: str | None = attrs.field(default=None, kw_only=True)
    """What the prompt is for; that of the prompt by default."""

    meta: Mapping[str, Any] | None = attrs.field(default=None, kw_only=True)
    """The ``_meta`` of the result, for the client's program."""


@final
@attrs.frozen(kw_only=True, eq=False)
class Prompt:
    """One registered prompt."""

    name: str
    """Its name in ``prompts/get``."""

    title: str | None
    """Its name for people; sent from 2025-06-18 on."""

    description: str | None
    """What it is for."""

    icons: Sequence[Icon]
    """Its icons; sent from 2025-11-25 on."""

    meta: Mapping[str, Any] | None
    """Its ``_meta``; sent from 2025-06-18 on."""

    signature: Signature
    """Its function."""

    arguments: Arguments
    """Its arguments. Clients send texts; they are converted."""

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        icons: Sequence[Icon] = (),
        meta: Mapping[str, Any] | None = None,
        limiter: trio.CapacityLimiter | None = None,
    ) -> Prompt:
        """Make a prompt of a function.

        Raises:
            TypeError: The function has no name, or takes what cannot be converted from JSON.
        """
        name = name or getattr(function, "__name__", None)
        if name is None:
            raise TypeError(f"{function!r} has no __name__: pass name= to the decorator")
        what = f"prompt {name!r}"
        signature = Signature.of(function, what, limiter=limiter)
        return cls(
            name=name,
            title=title,
            description=inspect.getdoc(function) if description is None else description,
            icons=tuple(icons),
            meta=meta,
            signature=signature,
            arguments=Arguments.of(signature, what),
        )

    def describe(self, revision: Revision, name: str | None = None) -> dict[str, Any]:
        """Return it as ``prompts/list`` shows it, perhaps by the name that another router gives."""
        described: dict[str, Any] = {"name": self.name if name is None else name}
        if self.title is not None and revision.structured_content:
            described["title"] = self.title
        if self.description is not None:
            described["description"] = self.description
        required = self.arguments.schema.get("required", ())
        arguments: list[dict[str, Any]] = []
        for parameter, schema in self.arguments.schema["properties"].items():
            argument: dict[str, Any] = {"name": parameter}
            if "title" in schema and revision.structured_content:
                argument["title"] = schema["title"]
            if "description" in schema:
                argument["description"] = schema["description"]
            if parameter in required:
                argument["required"] = True
            arguments.append(argument)
        if arguments:
            described["arguments"] = arguments
        if self.icons and revision.icons:
            described["icons"] = [icon.write() for icon in self.icons]
        if self.meta is not None and revision.resource_links:
            described["_meta"] = self.meta
        return described

    def invoke(self, context: RequestContext) -> Awaitable[Any]:
        """Check the arguments, and call the function. A checkpoint if the function is one.

        Raises:
            McpError: -32602, the arguments do not fit.
        """
        values: Any = context.params.get("arguments")
        values = {} if values is None else values
        if not is_object(values):
            raise McpError(INVALID_PARAMS, "arguments must be an object")
        try:
            arguments = self.arguments.check(values)
        except ArgumentsInvalid as error:
            raise McpError(INVALID_PARAMS, f"Invalid arguments: {error}") from error
        return self.signature.call(context, arguments)

    def write(self, returned: object, revision: Revision) -> dict[str, Any]:
        """Return the result of ``prompts/get`` for a return value."""
        whole = returned if isinstance(returned, PromptResult) else PromptResult(_some(returned))
        description = self.description if whole.description is None else whole.description
        result: dict[str, Any] = {} if description is None else {"description": description}
        result["messages"] = [message.write(revision) for message in _messages(whole.messages)]
        if whole.meta is not None:
            result["_meta"] = whole.meta
        return result


@final
class Prompts:
    """The prompts of a router, and the handlers of ``prompts/list`` and ``prompts/get``."""

    def __init__(self, page_size: int | None = None) -> None:
        self._prompts: Final[dict[str, Prompt]] = {}
        self._page_size: Final = page_size

    @property
    def all(self) -> Mapping[str, Prompt]:
        """All of them, by name."""
        return self._prompts

    def add(self, prompt: Prompt) -> None:
        """Add a prompt.

        Raises:
            ValueError: A prompt with this name exists.
        """
        if prompt.name in self._prompts:
            raise ValueError(f"a prompt {prompt.name!r} exists already")
        self._prompts[prompt.name] = prompt

    def remove(self, name: str) -> None:
        """Remove a prompt.

        Raises:
            KeyError: No prompt has this name.
        """
        del self._prompts[name]

    async def list(self, context: RequestContext) -> dict[str, Any]:
        """Answer ``prompts/list``, in the order of registration."""
        return await list_page(context, self._prompts.items(), "prompts", self._page_size)

    async def get(self, context: RequestContext) -> Mapping[str, Any] | InputRequired:
        """Answer ``prompts/get``."""
        request = context._request
        revision = request.revision
        assert revision is not None
        name = context.params.get("name")
        prompt = self._prompts.get(name) if isinstance(name, str) else None
        if prompt is None:
            raise unknown_prompt(name)
        request.handler_name = f"prompt {prompt.name!r}"
        returned = await prompt.invoke(context)
        return returned if isinstance(returned, InputRequired) else prompt.write(returned, revision)

    def begin(self, context: RequestContext, prompt: Prompt, name: str) -> HandlerCall:
        """Return the call of a prompt in steps, by its name for clients. Not a checkpoint."""
        request = context._request
        revision = request.revision
        assert revision is not None
        request.handler_name = f"prompt {name!r}"
        return HandlerCall(
            lambda: prompt.invoke(context), write=lambda value: prompt.write(value, revision)
        )


def unknown_prompt(name: object) -> McpError:
    """Return the error for a prompt that does not exist."""
    if not isinstance(name, str):
        return McpError(INVALID_PARAMS, "name must be a string")
    return McpError(INVALID_PARAMS, f"Unknown prompt: {shown(name)}")


def _some(returned: object) -> Messages:
    """Return a return value as messages; other data is a message of JSON."""
    value = returned  # The checks below narrow the type of the other name.
    if isinstance(returned, (str, PromptMessage)) or is_content(returned):
        return cast("Messages", returned)
    if isinstance(returned, (list, tuple)):
        parts = cast("Sequence[object]", returned)
        if all(isinstance(one, (str, PromptMessage)) or is_content(one) for one in parts):
            return cast("Messages", returned)
    return encode_json(to_json(value)).decode()


def _messages(messages: Messages) -> list[PromptMessage]:
    """Return messages as a list."""
    if isinstance(messages, PromptMessage):
        return [messages]
    if isinstance(messages, (list, tuple)):
        return [one for part in cast("Sequence[Messages]", messages) for one in _messages(part)]
    return [PromptMessage(cast("Content | str", messages))]
