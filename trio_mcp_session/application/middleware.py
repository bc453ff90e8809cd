"""Middleware: functions around the calls of handlers, such as checks, timing, caches and limits.

The order of a request: instrumentation, scopes, middleware, check of the arguments, dependencies,
handler. What the handler returned is written as a result after the middleware.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import attrs
import trio

from .question_types import InputRequired
from .signature import is_async, takes

if TYPE_CHECKING:
    from .context import RequestContext

CallNext: TypeAlias = Callable[[], Awaitable[Any]]
"""Calls the next middleware, or the handler, and returns what that returns."""

Middleware: TypeAlias = "Callable[[RequestContext, CallNext], Awaitable[Any]]"
"""Wraps calls: takes the context and `CallNext`, and returns the value for the client."""


@final
@attrs.frozen(eq=False)
class HandlerCall:
    """The call of one handler, in the steps that a router takes one after the other."""

    invoke: Callable[[], Awaitable[Any]]
    """Checks the arguments, resolves the dependencies, and calls the function."""

    write: Callable[[Any], Any] = attrs.field(default=lambda value: value, kw_only=True)
    """Makes the result of what the function, or a middleware, has returned."""

    explain: Callable[[BaseException], Any] | None = attrs.field(default=None, kw_only=True)
    """Makes the result of an error that is for the model, and raises all others."""

    middleware: tuple[Middleware, ...] = attrs.field(default=(), kw_only=True)
    """What is around this handler alone, outermost first."""


def refusing(error: Exception) -> HandlerCall:
    """Return a call that raises an error, in the place where the handler would be called."""

    async def refuse() -> Any:
        await trio.lowlevel.checkpoint()
        raise error

    return HandlerCall(refuse)


def checked_middleware(middleware: Iterable[Middleware]) -> tuple[Middleware, ...]:
    """Return middleware as a tuple. Not a checkpoint.

    Raises:
        TypeError: A function is not an ``async def`` that takes the context and ``call_next``.
    """
    found = tuple(middleware)
    for one in found:
        if not is_async(one) or not takes(one, 2):
            raise TypeError(
                f"{_name_of(one)} is not middleware: it must be an async def that takes the context"
                " and call_next"
            )
    return found


async def run(context: RequestContext, middleware: Iterable[Middleware], call: HandlerCall) -> Any:
    """Call a handler within middleware, and return the result. A checkpoint if the handler is one.

    A handler that returned `InputRequired` is called again within the middleware, up to 2025-11-25
    and in a task. `InputRequired` of a middleware, or otherwise, is returned: the router asks.

    Raises:
        Exception: The handler or a middleware raised it, and it is not for the model.
    """
    next_one: CallNext = _Innermost(context, call)
    for one in reversed((*middleware, *call.middleware)):
        next_one = _Around(context, one, next_one)
    try:
        value = await next_one()
        return value if isinstance(value, InputRequired) else call.write(value)
    except BaseException as error:  # noqa: ASYNC103  # raised there
        if call.explain is None:
            raise
        result = call.explain(error)
    await trio.lowlevel.checkpoint()
    return result


@final
@attrs.frozen(eq=False)
class _Innermost:
    """The handler: what the last middleware calls."""

    _context: RequestContext
    _call: HandlerCall

    async def __call__(self) -> Any:
        value = await self._call.invoke()
        while isinstance(value, InputRequired) and self._context._is_called_again:
            await self._context._ask_for_next_call(value)
            value = await self._call.invoke()
        return value


_NOT_CALLED: Final = object()


@final
@attrs.define(eq=False)
class _Around:
    """One middleware with what it calls."""

    _context: RequestContext
    _middleware: Middleware
    _next: CallNext

    async def __call__(self) -> Any:
        inner: Any = _NOT_CALLED

        async def call_next() -> Any:
            nonlocal inner
            inner = await self._next()
            return inner

        value = await self._middleware(self._context, call_next)
        if value is None and inner is not None and inner is not _NOT_CALLED:
            raise TypeError(
                f"middleware {_name_of(self._middleware)} returned None, although the handler"
                " returned a value: return what call_next() returns"
            )
        return value


def _name_of(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))
