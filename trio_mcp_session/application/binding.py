"""Read signatures of handlers: which parameters they take, and which types JSON is converted to."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_origin, get_type_hints

import msgspec

from ..core.errors import McpError
from ..protocol.error_codes import INVALID_PARAMS

if TYPE_CHECKING:
    from .context import RequestContext

Binding: TypeAlias = "Callable[[RequestContext], Awaitable[object]]"
"""A handler that takes the context only, and finds the parameters in it."""

AS_SENT: Final = (Any, object, dict, Mapping, MutableMapping)
"""Annotations with which a handler gets the parameters unconverted, as a ``dict``."""


def bind(handler: Callable[..., Awaitable[object]]) -> Binding:
    """Return ``handler`` as a function that takes only the context.

    Raises:
        TypeError: It takes neither the context alone nor the context and the parameters, or JSON
            cannot be converted to the annotation of its parameters.
    """
    if not takes(handler, 2):
        if not takes(handler, 1):
            raise TypeError("a handler must take the context, or the context and the parameters")
        return handler
    wanted = parameters_of(handler)[0].annotation
    if (get_origin(wanted) or wanted) in AS_SENT:
        return lambda context: handler(context, context.params)
    msgspec.json.schema(wanted)  # Raises here, instead of failing each request.

    async def call(context: RequestContext) -> object:
        try:
            params = msgspec.convert(context.params, wanted)
        except msgspec.ValidationError as error:
            raise McpError(INVALID_PARAMS, f"Invalid params: {error}") from error
        return await handler(context, params)

    return call


def takes(handler: Callable[..., object], count: int) -> bool:
    """Return whether ``handler`` can be called with ``count`` positional arguments."""
    try:
        inspect.signature(handler).bind(*range(count))
    except TypeError:
        return False
    return True


def parameters_of(handler: Callable[..., object]) -> list[inspect.Parameter]:
    """Return the parameters after the first one, with their annotations evaluated.

    The annotations of the context and of the return value are not evaluated: they may use names
    that are imported for type checkers only.
    """
    signature = inspect.signature(handler)
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        del parameters[0]
    annotations = {
        parameter.name: Any if parameter.annotation is parameter.empty else parameter.annotation
        for parameter in parameters
    }
    hints = get_type_hints(
        SimpleNamespace(__annotations__=annotations), _globals_of(handler), include_extras=True
    )
    return [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]


def _globals_of(handler: Callable[..., object]) -> dict[str, Any]:
    """Return the globals of the module that defines a function, below any wrappers."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = inspect.unwrap(handler)
    if not hasattr(handler, "__globals__"):
        handler = type(handler).__call__
    found: dict[str, Any] = getattr(handler, "__globals__", {})
    return found
