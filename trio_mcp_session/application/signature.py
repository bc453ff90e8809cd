"""Signatures of users' functions: where the context goes, what the arguments are, how to call it.

The same rules hold for tools, prompts, resources and completions. A function may take the
`RequestContext` anywhere, or not at all: the parameter is found by its annotation. ``async def``
runs in the request's task, ``def`` in a thread.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final, get_type_hints

import attrs
import msgspec
import trio

from .annotations import is_field, merge_default, translate
from .dependencies import Dependency, Resolving, mark_in
from .field_texts import texts_in

if TYPE_CHECKING:
    from .context import RequestContext

CONTEXT: Final = "RequestContext"
"""The name of the class that a parameter for the context is annotated with."""

Function: TypeAlias = Callable[..., Any]
"""A user's function, ``async def`` or ``def``."""


@final
@attrs.frozen
class Parameter:
    """One parameter of a function that a client gives the value of."""

    name: str
    """Its name."""

    annotation: Any
    """Its type, as msgspec understands it."""

    default: Any
    """Its default; `msgspec.NODEFAULT` without one."""


@final
@attrs.frozen(kw_only=True, eq=False)
class Signature:
    """How to call one function."""

    function: Function
    """The function."""

    parameters: tuple[Parameter, ...]
    """The parameters that a client gives the values of."""

    returns: Any
    """The return annotation; `inspect.Signature.empty` if there is none that can be evaluated."""

    dependencies: Mapping[str, Dependency]
    """What it needs beside, by the name of the parameter."""

    _context: str | None = attrs.field(alias="context")
    _is_async: bool = attrs.field(alias="is_async")
    _limiter: trio.CapacityLimiter | None = attrs.field(alias="limiter")
    _abandon_on_cancel: bool = attrs.field(alias="abandon_on_cancel")

    @classmethod
    def of(
        cls,
        function: Function,
        what: str,
        *,
        limiter: trio.CapacityLimiter | None = None,
        abandon_on_cancel: bool = False,
    ) -> Signature:
        """Read the signature of a function.

        Args:
            function: The function.
            what: What it is, for error messages, such as ``tool 'add'``.
            limiter: Limits the threads of a ``def``; Trio's default limiter by default.
            abandon_on_cancel: Whether a request that is cancelled stops waiting for the thread.

        Raises:
            TypeError: It cannot be called with values by name, or the type of a parameter is
                missing, or is not one that JSON can be converted to.
            NameError: An annotation names something that is imported for type checkers only.
        """
        inner = _unwrap(function)
        if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
            raise TypeError(f"{what} is a generator: return the result instead of yielding it")
        context: str | None = None
        parameters: list[Parameter] = []
        dependencies: dict[str, Dependency] = {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{what}: its arguments are passed by name, unlike {parameter}")
            if _is_context(parameter.annotation, function):
                if context is not None:
                    raise TypeError(f"{what} takes the context twice: {context}, {parameter.name}")
                if parameter.kind is parameter.POSITIONAL_ONLY:
                    raise TypeError(f"{what}: the context must not be positional only")
                context = parameter.name
                continue
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise TypeError(f"{what}: its arguments are passed by name, unlike {parameter}")
            mark = mark_in(_evaluated_or_text(parameter.annotation, function))
            if mark is not None:
                dependencies[parameter.name] = Dependency.of(mark, what, _annotations_of)
                continue
            parameters.append(_parameter(parameter, function, what))
        return cls(
            function=function,
            parameters=tuple(parameters),
            returns=_returns(function),
            dependencies=dependencies,
            context=context,
            is_async=_is_async(inner),
            limiter=limiter,
            abandon_on_cancel=abandon_on_cancel,
        )

    def call(self, context: RequestContext, arguments: dict[str, Any]) -> Awaitable[Any]:
        """Call the function. A checkpoint if it is a ``def``, or has a checkpoint itself."""
        if self._context is not None:
            arguments[self._context] = context
        if self._is_async and not self.dependencies:
            called: Awaitable[Any] = self.function(**arguments)
            return called
        return self._call(context, arguments)

    async def _call(self, context: RequestContext, arguments: dict[str, Any]) -> Any:
        async with AsyncExitStack() as stack:
            resolving = Resolving(context, stack)
            for name, dependency in self.dependencies.items():
                arguments[name] = await dependency.resolve(resolving)
            if self._is_async:
                return await self.function(**arguments)
            return await trio.to_thread.run_sync(
                functools.partial(self.function, **arguments),
                abandon_on_cancel=self._abandon_on_cancel,
                limiter=self._limiter,
            )


def _parameter(parameter: inspect.Parameter, function: Function, what: str) -> Parameter:
    place = f"{what}, parameter {parameter.name!r}"
    if parameter.annotation is parameter.empty and not is_field(parameter.default):
        raise TypeError(f"{place}, has no type: annotate it, with Any if every value is allowed")
    annotation = evaluate(parameter.annotation, function)
    default = msgspec.NODEFAULT if parameter.default is parameter.empty else parameter.default
    try:
        annotation, default = merge_default(annotation, default)
        annotation = translate(annotation)
        texts_in(annotation)  # It raises what is wrong with the type.
    except TypeError as error:
        raise TypeError(f"{place}: {error}") from error
    return Parameter(parameter.name, annotation, default)


def _is_context(annotation: object, function: Function) -> bool:
    """Return whether a parameter with this annotation gets the context.

    The name may be imported for type checkers only.
    """
    if isinstance(annotation, str):
        try:
            annotation = evaluate(annotation, function)
        except NameError:
            return str(annotation).strip("'\"").rpartition(".")[2] == CONTEXT
    return getattr(annotation, "__name__", None) == CONTEXT and str(
        getattr(annotation, "__module__", "")
    ).startswith(f"{__package__}.")


def _annotations_of(function: Function) -> Iterator[tuple[str, Any, bool]]:
    """Yield the name, the annotation and whether there is a default for each parameter."""
    for parameter in inspect.signature(function).parameters.values():
        annotation = _evaluated_or_text(parameter.annotation, function)
        yield parameter.name, annotation, parameter.default is not parameter.empty


def _evaluated_or_text(annotation: object, function: Function) -> Any:
    """Return an annotation; as text if a name in it is imported for type checkers only."""
    try:
        return evaluate(annotation, function)
    except NameError:
        return annotation


def _returns(function: Function) -> Any:
    annotation = inspect.signature(function).return_annotation
    try:
        return evaluate(annotation, function)
    except NameError:
        return inspect.Signature.empty


def evaluate(annotation: object, function: Function) -> Any:
    """Return an annotation with the names of the function's module in place."""
    if annotation is inspect.Signature.empty:
        return annotation
    holder = SimpleNamespace(__annotations__={"one": annotation})
    return get_type_hints(holder, _globals_of(function), include_extras=True)["one"]


def is_async(function: Function) -> bool:
    """Return whether a function is an ``async def``, below any wrappers. Not a checkpoint."""
    return _is_async(_unwrap(function))


def takes(function: Function, count: int) -> bool:
    """Return whether a function can be called with ``count`` positional arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True


def _is_async(inner: Function) -> bool:
    called = getattr(inner, "__call__", None)  # noqa: B004  # its own method, if it is an object
    return inspect.iscoroutinefunction(inner) or (
        not inspect.isroutine(inner) and inspect.iscoroutinefunction(called)
    )


def _unwrap(function: Function) -> Function:
    """Return the function below partials and wrappers."""
    while isinstance(function, functools.partial):
        function = function.func
    inner: Function = inspect.unwrap(function)
    return inner


def _globals_of(function: Function) -> dict[str, Any]:
    inner = _unwrap(function)
    inner = getattr(inner, "__func__", inner)
    if not hasattr(inner, "__globals__"):
        inner = type(inner).__call__
    found: dict[str, Any] = getattr(inner, "__globals__", {})
    return found
