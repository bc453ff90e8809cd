"""Refuses functions that cannot be used with ``async with``: most often a forgotten decorator."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any, Final


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield  # pragma: no cover  # only its code is looked at


_NOT_ASYNC: Final = _nothing.__code__
"""The code of all functions that `contextlib.contextmanager` returns."""


def check_context_function(function: Any, what: str) -> None:
    """Check that calling a function can give an async context manager. Not a checkpoint.

    It finds the mistakes that the function itself shows; others appear when it is called.

    Args:
        function: What will be called.
        what: What it is, for the error: ``lifespan`` or ``opener``.

    Raises:
        TypeError: It is not callable, or calling it gives something else.
    """
    if not callable(function):
        raise TypeError(f"the {what} must be a function, not {function!r}")
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", repr(function))
    called = function
    if not inspect.isroutine(function) and not inspect.isclass(function):
        called = type(function).__call__
    if inspect.isasyncgenfunction(called):
        why = "is an async generator function: decorate it with @asynccontextmanager"
    elif inspect.iscoroutinefunction(called):
        why = (
            "is a coroutine function: yield the value in it, and decorate it with "
            "@asynccontextmanager"
        )
    elif inspect.isgeneratorfunction(called) or getattr(called, "__code__", None) is _NOT_ASYNC:
        why = "is not async: write `async def`, and decorate it with @asynccontextmanager"
    else:
        return
    raise TypeError(f"the {what} {name} must return an async context manager, but {why}")
