"""Handlers of requests and notifications: whether they take parameters, and of which type."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_origin

import msgspec

from ..core.errors import McpError
from ..protocol.error_codes import INVALID_PARAMS
from .signature import evaluate, takes

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
    wanted = _annotation_of_params(handler)
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


def _annotation_of_params(handler: Callable[..., object]) -> Any:
    """Return the evaluated annotation of the parameters of a request; `Any` without one.

    No other annotation is evaluated: they may use names that are imported for type checkers only.
    """
    parameters = list(inspect.signature(handler).parameters.values())
    # A handler may take both as ``*args``.
    annotation = evaluate(parameters[:2][-1].annotation, handler)
    return Any if annotation is inspect.Parameter.empty else annotation
