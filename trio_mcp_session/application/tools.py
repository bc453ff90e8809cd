"""Tools: functions that a model calls, with a schema made from their signature."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast, final

import attrs
import msgspec
import trio

from ..core.errors import (
    CapabilityMissing,
    HandleError,
    McpError,
    NoSession,
    QuestionError,
    SessionRejected,
    ToolError,
    shown,
)
from ..core.scopes import checked_scopes
from ..protocol.error_codes import INVALID_PARAMS
from ..protocol.header_annotations import read_annotations
from ..protocol.jsonrpc import encode_json, is_object
from ..server.ending import ON_DISCONNECT, OnDisconnect
from ..sessions.failures import first_if_all
from .binding import parameters_of, takes
from .pagination import paginate
from .question_types import InputRequired

if TYPE_CHECKING:
    from ..protocol.jsonrpc import Params
    from ..server.request import InFlightRequest
    from .context import RequestContext

FOR_THE_MODEL: Final = (
    HandleError,
    NoSession,
    QuestionError,
    SessionRejected,
    ToolError,
)
"""Errors that a model or its user can act on: the result of the tool shows their text."""

Handler = Callable[..., Awaitable[object]]
"""A tool's function."""


@final
@attrs.frozen(kw_only=True, eq=False)
class Tool:
    """One registered tool."""

    name: str
    """Its name in ``tools/call``."""

    title: str | None
    """Its name for people."""

    description: str | None
    """What it does, for the model."""

    annotations: Mapping[str, Any] | None
    """Hints, as the protocol names them."""

    input_schema: Mapping[str, Any]
    """JSON schema of its arguments."""

    header_parameters: Mapping[str, tuple[str, ...]]
    """The path in the arguments of each value that an HTTP header repeats (``x-mcp-header``)."""

    handler: Handler
    """The function."""

    scopes: tuple[str, ...]
    """The scopes that a call needs."""

    on_disconnect: OnDisconnect | None
    """What happens to a call when its client leaves; None for the rule of the client's revision."""

    _arguments: type[msgspec.Struct] | None = attrs.field(alias="arguments")
    """The type that the arguments are converted to; None passes them on as a ``dict``."""

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
        scopes: str | Iterable[str] = (),
        on_disconnect: OnDisconnect | None = None,
    ) -> Tool:
        """Make a tool from a function.

        Raises:
            TypeError: The function has no name, or does not take the parameters of a tool.
            ValueError: Its schema has an invalid ``x-mcp-header``: clients would drop the tool. Or
                a scope is malformed, or ``on_disconnect`` is unknown.
        """
        if on_disconnect not in ON_DISCONNECT:
            raise ValueError(
                f"on_disconnect must be 'finish', 'adopt', 'cancel' or None, not {on_disconnect!r}"
            )
        name = name or getattr(handler, "__name__", None)
        if name is None:
            raise TypeError(f"{handler!r} has no __name__: pass name= to the decorator")
        arguments = None
        if input_schema is None:
            arguments = _arguments_of(handler, name)
            input_schema = _schema_of(arguments)
        elif not takes(handler, 2):
            raise TypeError(
                "a tool with input_schema= takes two parameters: the context and one dict"
            )
        return cls(
            name=name,
            title=title,
            description=inspect.getdoc(handler) if description is None else description,
            annotations=annotations,
            input_schema=input_schema,
            header_parameters=read_annotations(input_schema),
            handler=handler,
            on_disconnect=on_disconnect,
            arguments=arguments,
            scopes=checked_scopes(scopes),
        )

    def check(self, arguments: dict[str, Any]) -> Callable[[RequestContext], Awaitable[object]]:
        """Check the arguments, and return a function that calls the handler with them.

        Raises:
            msgspec.ValidationError: They do not fit the schema.
        """
        if self._arguments is None:
            return lambda context: self.handler(context, arguments)
        checked = msgspec.structs.asdict(msgspec.convert(arguments, self._arguments))
        return lambda context: self.handler(context, **checked)


@final
class Tools(Mapping[str, Tool]):
    """The tools of a router, and the handlers of ``tools/list`` and ``tools/call``."""

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
            ValueError: A tool with this name exists.
        """
        if tool.name in self._tools:
            raise ValueError(f"a tool {tool.name!r} exists already")
        self._tools[tool.name] = tool

    def remove(self, name: str) -> None:
        """Remove a tool.

        Raises:
            KeyError: No tool has this name.
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
        if tool.on_disconnect is not None:
            request.choose_on_disconnect(tool.on_disconnect)
        arguments = _arguments_in(params)
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
            except BaseException as error:  # noqa: BLE001, ASYNC103  # raised there if it is not for the model
                complaint = _text_for_model(error, request)
        await trio.lowlevel.checkpoint()
        return _error_result(complaint)


def error_for_model(error: Exception, request: InFlightRequest) -> Mapping[str, Any]:
    """Return the result of a tool that cannot continue because of an error.

    Raises:
        Exception: The error is not for the model.
    """
    return _error_result(_text_for_model(error, request))


def _error_result(text: str) -> Mapping[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": True}


def _text_for_model(error: BaseException, request: InFlightRequest) -> str:
    """Return the text of an error that is for the model, alone or in a group of a nursery.

    Raises:
        BaseException: The error is not for the model: the error itself, or the first one of a
            group of errors for the client.
    """
    first = first_if_all(
        error, lambda one: isinstance(one, FOR_THE_MODEL) or request.is_for_client(one)
    )
    # From 2026-07-28 on, the protocol has an error of its own for a missing capability.
    has_own_error = request.is_modern and isinstance(first, CapabilityMissing)
    if isinstance(first, FOR_THE_MODEL) and not has_own_error:
        return str(first)
    raise error if first is None else first


def _arguments_in(params: Params) -> dict[str, Any]:
    """Return the arguments of a call; some clients write null for none.

    Raises:
        McpError: -32602, they are not an object.
    """
    arguments = params.get("arguments")
    if arguments is None:
        return {}
    if not is_object(arguments):
        raise McpError(INVALID_PARAMS, "arguments must be an object")
    return arguments


def _name_of(tool: Tool) -> str:
    return tool.name


def _result(returned: object, *, structured: bool) -> Mapping[str, Any]:
    """Convert the return value of a tool to the result of ``tools/call``."""
    value = returned  # The checks below narrow the type of the other name.
    if returned is None:
        return {"content": []}
    if isinstance(returned, str):
        # A plain ``str``, also where it is of a subclass.
        return {"content": [{"type": "text", "text": str.__str__(returned)}]}
    if isinstance(returned, Mapping):
        mapping = cast("Mapping[str, Any]", returned)
        if isinstance(mapping.get("content"), (list, tuple)):
            return mapping
    text = encode_json(value)
    result: dict[str, Any] = {"content": [{"type": "text", "text": text.decode()}]}
    # ``structuredContent`` must be an object; a list or a number is sent as text only.
    if structured and text.startswith(b"{"):
        result["structuredContent"] = returned
    return result


def _arguments_of(handler: Handler, name: str) -> type[msgspec.Struct]:
    """Make a struct from a function's parameters, except the first one."""
    try:
        inspect.signature(handler).bind_partial(None)
    except TypeError:
        raise TypeError("a tool's first parameter must be the context") from None
    fields: list[Any] = []
    for parameter in parameters_of(handler):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"a tool's arguments are passed by name, unlike {parameter}")
        if parameter.default is parameter.empty:
            fields.append((parameter.name, parameter.annotation))
        else:
            fields.append((parameter.name, parameter.annotation, parameter.default))
    return msgspec.defstruct(f"{name}_arguments", fields, kw_only=True)


def _schema_of(arguments: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON schema of a tool's arguments. The protocol requires one object schema."""
    (reference,), components = msgspec.json.schema_components(
        [arguments], ref_template="#/$defs/{name}"
    )
    # msgspec returns a reference: replace it by the schema that it refers to.
    own = components.pop(reference["$ref"].rpartition("/")[2])
    own.pop("title", None)
    return {**own, "$defs": components} if components else own
