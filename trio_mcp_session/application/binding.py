"""Calling a handler with its parameters, converted to what it is annotated with."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, get_type_hints

import msgspec

from ..core.errors import McpError
from ..protocol.error_codes import INVALID_PARAMS

if TYPE_CHECKING:
    from .context import RequestContext

Binding: TypeAlias = "Callable[[RequestContext], Awaitable[object]]"
"""A handler that finds its parameters in the context."""


def bind(handler: Callable[..., Awaitable[object]]) -> Binding:
    """Return ``handler`` as a function of the context alone.

    Raises:
        TypeError: It takes neither the context alone nor the context and the parameters.
    """
    match list(inspect.signature(handler).parameters):
        case [_]:
            return handler
        case [_, _]:
            pass
        case _:
            raise TypeError("a handler takes the context, and the parameters if it wants them")
    wanted = parameter_type(handler)
    if wanted is None:
        return lambda context: handler(context, context.params)

    async def call(context: RequestContext) -> object:
        try:
            params = msgspec.convert(context.params, wanted)
        except msgspec.ValidationError as error:
            raise McpError(INVALID_PARAMS, f"Invalid params: {error}") from error
        return await handler(context, params)

    return call


def parameter_type(handler: Callable[..., Awaitable[object]]) -> Any:
    """Return what the parameters are to be converted to; None to leave them a ``dict``."""
    hints = get_type_hints(handler)
    names = list(inspect.signature(handler).parameters)
    wanted = hints.get(names[1])
    is_class = isinstance(wanted, type) and not issubclass(wanted, dict)
    return wanted if is_class and wanted is not object else None
