"""Tools: functions that a model calls, with schemas made from their signature."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

import attrs
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
from ..protocol.jsonrpc import is_object
from ..server.ending import ON_DISCONNECT, OnDisconnect
from ..sessions.failures import first_if_all
from .arguments import Arguments, ArgumentsInvalid
from .metadata import Icon, ToolAnnotations
from .middleware import HandlerCall, Middleware, checked_middleware
from .output import Output
from .pagination import list_page
from .question_types import InputRequired
from .signature import Signature
from .task_support import NEVER, TaskSupport

if TYPE_CHECKING:
    from ..protocol.jsonrpc import Params
    from ..protocol.revisions import Revision
    from ..server.request import InFlightRequest
    from .context import RequestContext

FOR_THE_MODEL: Final = (
    ArgumentsInvalid,
    HandleError,
    NoSession,
    QuestionError,
    SessionRejected,
    ToolError,
)
"""Errors that a model or its user can act on: the result of the tool shows their text."""


@final
@attrs.frozen(kw_only=True)
class ToolOptions:
    """What a router decides for all of its tools; each tool may decide otherwise."""

    strict: bool = False
    """Whether only arguments of the exact types fit: see `Router`."""

    inline_references: bool = False
    """Whether schemas must have no ``$ref``."""

    show_errors: bool = False
    """Whether the result of a tool that fails shows the text of the exception."""

    limiter: trio.CapacityLimiter | None = None
    """Limits the threads of tools that are a ``def``; Trio's default limiter by default."""


@final
@attrs.frozen(kw_only=True, eq=False)
class Tool:
    """One registered tool."""

    name: str
    """Its name in ``tools/call``."""

    title: str | None
    """Its name for people; sent from 2025-06-18 on."""

    description: str | None
    """What it does, for the model."""

    annotations: ToolAnnotations | Mapping[str, Any] | None
    """Hints for clients; sent from 2025-03-26 on."""

    icons: Sequence[Icon]
    """Its icons; sent from 2025-11-25 on."""

    meta: Mapping[str, Any] | None
    """Its ``_meta``; sent from 2025-06-18 on."""

    input_schema: Mapping[str, Any]
    """JSON schema of its arguments."""

    header_parameters: Mapping[str, tuple[str, ...]]
    """The path in the arguments of each value that an HTTP header repeats (``x-mcp-header``)."""

    handler: Callable[..., Any]
    """The function."""

    scopes: tuple[str, ...]
    """The scopes that a call needs."""

    on_disconnect: OnDisconnect | None
    """What happens to a call when its client leaves; None for the rule of the client's revision."""

    as_task: TaskSupport
    """When its calls become tasks."""

    middleware: tuple[Middleware, ...]
    """What is around its calls, outermost first, within the middleware of the router."""

    _signature: Signature = attrs.field(alias="signature")
    _arguments: Arguments | None = attrs.field(alias="arguments")
    """None passes the arguments on as one ``dict``."""
    _output: Output = attrs.field(alias="output")

    @classmethod
    def of(
        cls,
        handler: Callable[..., Any],
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | Mapping[str, Any] | None = None,
        icons: Sequence[Icon] = (),
        meta: Mapping[str, Any] | None = None,
        input_schema: Mapping[str, Any] | None = None,
        structured: bool | None = None,
        strict: bool | None = None,
        abandon_on_cancel: bool = False,
        scopes: str | Iterable[str] = (),
        on_disconnect: OnDisconnect | None = None,
        as_task: TaskSupport = NEVER,
        middleware: Iterable[Middleware] = (),
        options: ToolOptions | None = None,
    ) -> Tool:
        """Make a tool from a function; for the arguments see `Router.tool`.

        Raises:
            TypeError: The function has no name, or does not take the parameters of a tool, or JSON
                cannot be converted to one of their types. Or ``middleware`` has something else.
            ValueError: Its schema has an invalid ``x-mcp-header``: clients would drop the tool. Or
                a scope is malformed, or ``on_disconnect`` is unknown.
        """
        if on_disconnect not in ON_DISCONNECT:
            raise ValueError(
                f"on_disconnect must be 'finish', 'adopt', 'cancel' or None, not {on_disconnect!r}"
            )
        options = options or ToolOptions()
        name = name or getattr(handler, "__name__", None)
        if name is None:
            raise TypeError(f"{handler!r} has no __name__: pass name= to the decorator")
        what = f"tool {name!r}"
        signature = Signature.of(
            handler, what, limiter=options.limiter, abandon_on_cancel=abandon_on_cancel
        )
        arguments = None
        if input_schema is None:
            arguments = Arguments.of(
                signature,
                what,
                strict=options.strict if strict is None else strict,
                inline_references=options.inline_references,
            )
            input_schema = arguments.schema
        elif len(signature.parameters) != 1:
            raise TypeError(
                f"{what}: with input_schema= the function takes one dict, beside the context and"
                " its dependencies"
            )
        output = Output.of(
            signature.returns,
            what,
            structured=structured,
            inline_references=options.inline_references,
        )
        return cls(
            name=name,
            title=title,
            description=inspect.getdoc(handler) if description is None else description,
            annotations=annotations,
            icons=tuple(icons),
            meta=meta,
            input_schema=input_schema,
            header_parameters=read_annotations(input_schema),
            handler=handler,
            scopes=checked_scopes(scopes),
            on_disconnect=on_disconnect,
            as_task=as_task,
            middleware=checked_middleware(middleware),
            signature=signature,
            arguments=arguments,
            output=output,
        )

    @property
    def output_schema(self) -> Mapping[str, Any] | None:
        """JSON schema of its structured content; None without. Sent from 2025-06-18 on."""
        return self._output.schema

    def describe(self, revision: Revision, name: str | None = None) -> dict[str, Any]:
        """Return it as ``tools/list`` shows it, perhaps by the name that another router gives."""
        described: dict[str, Any] = {
            "name": self.name if name is None else name,
            "inputSchema": self.input_schema,
        }
        if self.description is not None:
            described["description"] = self.description
        if self.annotations is not None and revision.audio:
            hints = self.annotations
            described["annotations"] = (
                hints.write() if isinstance(hints, ToolAnnotations) else hints
            )
        if revision.structured_content:
            if self.title is not None:
                described["title"] = self.title
            if self._output.schema is not None:
                described["outputSchema"] = self._output.schema
            if self.meta is not None:
                described["_meta"] = self.meta
        if self.icons and revision.icons:
            described["icons"] = [icon.write() for icon in self.icons]
        return described

    def invoke(self, context: RequestContext, arguments: dict[str, Any]) -> Awaitable[Any]:
        """Check the arguments, and call the function. A checkpoint if the function is one.

        Raises:
            ArgumentsInvalid: The arguments do not fit.
        """
        if self._arguments is None:
            (parameter,) = self._signature.parameters
            checked: dict[str, Any] = {parameter.name: arguments}
        else:
            checked = self._arguments.check(arguments)
        if self.as_task.at_once:
            return self._call_in_task(context, checked)
        return self._signature.call(context, checked)

    async def _call_in_task(self, context: RequestContext, checked: dict[str, Any]) -> Any:
        """Call the function when the call has become a task, where that is possible."""
        await context.become_task()
        return await self._signature.call(context, checked)


@final
class Tools:
    """The tools of a router, and the handlers of ``tools/list`` and ``tools/call``."""

    def __init__(self, page_size: int | None = None, options: ToolOptions | None = None) -> None:
        self._tools: Final[dict[str, Tool]] = {}
        self._page_size: Final = page_size
        self.options: Final = options or ToolOptions()
        self.have_tasks: bool = False
        """Whether calls of one of them can become tasks, or could: their tasks may still run."""

    @property
    def all(self) -> Mapping[str, Tool]:
        """All of them, by name."""
        return self._tools

    def find(self, name: object) -> Tool | None:
        """Return the tool of a name; None without one. Not a checkpoint."""
        return self._tools.get(name) if isinstance(name, str) else None

    def add(self, tool: Tool) -> None:
        """Add a tool.

        Raises:
            ValueError: A tool with this name exists.
        """
        if tool.name in self._tools:
            raise ValueError(f"a tool {tool.name!r} exists already")
        self._tools[tool.name] = tool
        if tool.as_task is not NEVER:
            self.have_tasks = True

    def remove(self, name: str) -> None:
        """Remove a tool.

        Raises:
            KeyError: No tool has this name.
        """
        del self._tools[name]

    async def list(self, context: RequestContext) -> dict[str, Any]:
        """Answer ``tools/list``, in the order of registration."""
        return await list_page(context, self._tools.items(), "tools", self._page_size)

    async def call(self, context: RequestContext) -> Mapping[str, Any] | InputRequired:
        """Answer ``tools/call``."""
        request = context._request
        params = request.params
        name = params.get("name")
        tool = self._tools.get(name) if isinstance(name, str) else None
        if tool is None:
            raise unknown_tool(name)
        revision = self._prepare(request, tool, tool.name)
        try:
            returned = await tool.invoke(context, _arguments_in(params))
            if isinstance(returned, InputRequired):
                return returned
            return tool._output.write(returned, revision)
        except BaseException as error:  # noqa: BLE001, ASYNC103  # raised there if it is not for the model
            result = error_for_model(error, request)
        await trio.lowlevel.checkpoint()
        return result

    def begin(self, context: RequestContext, tool: Tool, name: str) -> HandlerCall:
        """Return the call of a tool in steps, by its name for clients. Not a checkpoint."""
        request = context._request
        revision = self._prepare(request, tool, name)
        return HandlerCall(
            lambda: tool.invoke(context, _arguments_in(context.params)),
            write=lambda value: tool._output.write(value, revision),
            explain=lambda error: error_for_model(error, request),
            middleware=tool.middleware,
        )

    def _prepare(self, request: InFlightRequest, tool: Tool, name: str) -> Revision:
        """Tell a request which tool it calls, by its name for clients; return its revision."""
        request.handler_name = f"tool {name!r}"
        request.describe_failure = self._describe_failure
        if tool.on_disconnect is not None:
            request.choose_on_disconnect(tool.on_disconnect)
        if tool.as_task is not NEVER:
            tool.as_task.prepare(request)
        revision = request.revision
        assert revision is not None
        return revision

    def _describe_failure(
        self, request: InFlightRequest, error: Exception | None
    ) -> Mapping[str, Any]:
        """Return the result of a tool that failed, or that took too long (None).

        A JSON-RPC error would be shown to the host only: the model would not see that its call
        has failed (2025-11-25, *Tools*, Error Handling).
        """
        if error is None:
            return _error_result(f"The {request.handler_name} took too long, and was cancelled")
        text = f"The {request.handler_name} failed"
        if self.options.show_errors:
            return _error_result(f"{text}: {type(error).__name__}: {error}")
        return _error_result(f"{text} with an internal error")


def unknown_tool(name: object) -> McpError:
    """Return the error for a call of a tool that does not exist."""
    if not isinstance(name, str):
        return McpError(INVALID_PARAMS, "name must be a string")
    return McpError(INVALID_PARAMS, f"Unknown tool: {shown(name)}")


def error_for_model(error: BaseException, request: InFlightRequest) -> Mapping[str, Any]:
    """Return the result of a tool for an error that is for the model, alone or in a group.

    Raises:
        BaseException: The error is not for the model: the error itself, or the first one of a
            group of errors for the client.
    """
    first = first_if_all(
        error, lambda one: isinstance(one, FOR_THE_MODEL) or request.is_for_client(one)
    )
    # From 2026-07-28 on, the protocol has an error of its own for a missing capability.
    has_own_error = request.is_modern and isinstance(first, CapabilityMissing)
    if isinstance(first, ArgumentsInvalid):
        return _error_result(f"Invalid arguments: {first}")
    if isinstance(first, FOR_THE_MODEL) and not has_own_error:
        return _error_result(str(first))
    try:
        raise error if first is None else first
    finally:
        # The traceback has this frame: with the error in it, there would be a circle.
        del error, first


def _error_result(text: str) -> Mapping[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": True}


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
