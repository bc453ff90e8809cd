"""Tools: functions that a model calls, with a schema made from their signature."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast, final

import attrs
import msgspec
import trio

from ..core.errors import (
    HandleError,
    McpError,
    NoSession,
    QuestionTimeout,
    SessionRejected,
    ToolError,
    TooManyQuestions,
    shown,
)
from ..protocol.error_codes import INVALID_PARAMS
from ..protocol.header_annotations import read_annotations
from ..protocol.jsonrpc import encode_json, is_object
from ..sessions.failures import first_if_all
from .binding import parameters_of, takes
from .pagination import paginate
from .question_types import InputRequired

if TYPE_CHECKING:
    from ..sessions.requests import InFlightRequest
    from .context import RequestContext

FOR_THE_MODEL: Final = (
    HandleError,
    NoSession,
    QuestionTimeout,
    SessionRejected,
    ToolError,
    TooManyQuestions,
)
"""What models and their users can do something about, as long as they hear of it."""

Handler = Callable[..., Awaitable[object]]
"""A tool's function."""


@final
@attrs.frozen(kw_only=True, eq=False)
class Tool:
    """One registered tool."""

    name: str
    """What the model calls it by."""

    title: str | None
    """Its name for people."""

    description: str | None
    """What it does, for the model."""

    annotations: Mapping[str, Any] | None
    """Hints, as the protocol names them."""

    input_schema: Mapping[str, Any]
    """JSON schema of its arguments."""

    header_parameters: Mapping[str, tuple[str, ...]]
    """Where in the arguments the values are that HTTP headers repeat (``x-mcp-header``)."""

    handler: Handler
    """The function."""

    _arguments: type[msgspec.Struct] | None = attrs.field(alias="arguments")
    """What the arguments are converted to; None hands them on as a ``dict``."""

    @classmethod
    def of(
        cls,
        handler: Handler,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        annotations: Mapping[str, Any] | None = None,
        input_schema: Mapping[str, Any] | None = None,
    ) -> Tool:
        """Make a tool of a function.

        Raises:
            TypeError: The function has no name, or not the parameters that a tool has.
            ValueError: Its schema says of a header what no client would follow.
        """
        name = name or getattr(handler, "__name__", None)
        if name is None:
            raise TypeError(f"{handler!r} has no name of its own: give the tool one")
        arguments = None
        if input_schema is None:
            arguments = _arguments_of(handler, name)
            input_schema = _schema_of(arguments)
        elif not takes(handler, 2):
            raise TypeError("a tool with a schema of its own takes the context and one dict")
        return cls(
            name=name,
            title=title,
            description=inspect.getdoc(handler) if description is None else description,
            annotations=annotations,
            input_schema=input_schema,
            header_parameters=read_annotations(input_schema),
            handler=handler,
            arguments=arguments,
        )

    def check(self, arguments: dict[str, Any]) -> Callable[[RequestContext], Awaitable[object]]:
        """Check the arguments, and return the call that they make.

        Raises:
            msgspec.ValidationError: They do not fit.
        """
        if self._arguments is None:
            return lambda context: self.handler(context, arguments)
        checked = msgspec.structs.asdict(msgspec.convert(arguments, self._arguments))
        return lambda context: self.handler(context, **checked)


@final
class Tools(Mapping[str, Tool]):
    """The tools of a router, and the two methods that serve them."""

    def __init__(self, page_size: int | None = None) -> None:
        self._tools: Final[dict[str, Tool]] = {}
        self._page_size: Final = page_size

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def add(self, tool: Tool) -> None:
        """Add a tool.

        Raises:
            ValueError: There is one of that name.
        """
        if tool.name in self._tools:
            raise ValueError(f"there is a tool {tool.name!r} already")
        self._tools[tool.name] = tool

    def remove(self, name: str) -> None:
        """Take a tool away.

        Raises:
            KeyError: There is none of that name.
        """
        del self._tools[name]

    async def list(self, context: RequestContext) -> dict[str, Any]:
        """Answer ``tools/list``, in the order of registration."""
        await trio.lowlevel.checkpoint()
        revision = context._request.revision
        assert revision is not None
        page = paginate(self._tools.values(), context.params, self._page_size, _name_of)
        tools: builtins.list[dict[str, Any]] = []
        for tool in page.items:
            shown: dict[str, Any] = {"name": tool.name, "inputSchema": tool.input_schema}
            if tool.description is not None:
                shown["description"] = tool.description
            if tool.title is not None and revision.structured_content:
                shown["title"] = tool.title
            if tool.annotations is not None and revision.audio:
                shown["annotations"] = tool.annotations
            tools.append(shown)
        return page.result("tools", tools)

    async def call(self, context: RequestContext) -> Mapping[str, Any] | InputRequired:
        """Answer ``tools/call``."""
        request = context._request
        revision = request.revision
        assert revision is not None
        params = context.params
        name = params.get("name")
        if not isinstance(name, str):
            raise McpError(INVALID_PARAMS, "name must be a string")
        tool = self._tools.get(name)
        if tool is None:
            raise McpError(INVALID_PARAMS, f"Unknown tool: {shown(name)}")
        request.handler_name = f"tool {tool.name!r}"
        arguments = params.get("arguments", {})
        if not is_object(arguments):
            raise McpError(INVALID_PARAMS, "arguments must be an object")
        try:
            call = tool.check(arguments)
        except msgspec.ValidationError as error:
            complaint = f"Invalid arguments: {error}"
            if not revision.argument_errors_as_results:
                raise McpError(INVALID_PARAMS, complaint) from error
        else:
            try:
                returned = await call(context)
                if isinstance(returned, InputRequired):
                    return returned
                return _result(returned, structured=revision.structured_content)
            except BaseException as error:  # noqa: BLE001, ASYNC103  # what it does not tell is raised
                complaint = _told_to_the_model(error, request)
        await trio.lowlevel.checkpoint()
        return {"content": [{"type": "text", "text": complaint}], "isError": True}


def _told_to_the_model(error: BaseException, request: InFlightRequest) -> str:
    """Return what a model is told of an error; one that a nursery raised comes in a group.

    Raises:
        BaseException: The error, or the first one of a group, is not one for models.
    """
    told = first_if_all(
        error, lambda one: isinstance(one, FOR_THE_MODEL) or request.is_for_client(one)
    )
    if isinstance(told, FOR_THE_MODEL):
        return str(told)
    raise error if told is None else told


def _name_of(tool: Tool) -> str:
    return tool.name


def _result(returned: object, *, structured: bool) -> Mapping[str, Any]:
    """Turn what a tool returned into the result of ``tools/call``."""
    if returned is None:
        return {"content": []}
    if isinstance(returned, str):
        # Without its subclass, which says nothing to JSON.
        return {"content": [{"type": "text", "text": str.__str__(returned)}]}
    if isinstance(returned, Mapping):
        mapping = cast("Mapping[str, Any]", returned)
        if isinstance(mapping.get("content"), (list, tuple)):
            return mapping
    text = encode_json(returned)
    result: dict[str, Any] = {"content": [{"type": "text", "text": text.decode()}]}
    # The protocol wants an object there; a list or a number is text only.
    if structured and text.startswith(b"{"):
        result["structuredContent"] = returned
    return result


def _arguments_of(handler: Handler, name: str) -> type[msgspec.Struct]:
    """Make a struct of a function's parameters, all but the first one."""
    try:
        inspect.signature(handler).bind_partial(None)
    except TypeError:
        raise TypeError("a tool takes the context, then its arguments") from None
    fields: list[Any] = []
    for parameter in parameters_of(handler):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"a tool's arguments have names: not {parameter}")
        if parameter.default is parameter.empty:
            fields.append((parameter.name, parameter.annotation))
        else:
            fields.append((parameter.name, parameter.annotation, parameter.default))
    return msgspec.defstruct(f"{name}_arguments", fields, kw_only=True)


def _schema_of(arguments: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON schema of a tool's arguments, as the protocol wants it: one object."""
    (reference,), components = msgspec.json.schema_components(
        [arguments], ref_template="#/$defs/{name}"
    )
    # It is a reference, and what it refers to takes its place.
    own = components.pop(reference["$ref"].rpartition("/")[2])
    own.pop("title", None)
    return {**own, "$defs": components} if components else own
