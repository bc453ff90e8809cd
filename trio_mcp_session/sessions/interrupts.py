"""Protection against `KeyboardInterrupt`: the engine's code is protected, user code is not.

Python runs signal handlers between any two instructions. Trio's handler raises
`KeyboardInterrupt` there, unless the running code is protected: then it is delivered to the main
task, at its next wait. Trio looks from the interrupted frame outwards for the first function that
was marked as protected or unprotected. So

- all functions of the engine are marked as protected, in one place (`protect_modules`): an
  interrupt cannot strike between two lines that change a table;
- user code is called through one function that is marked as unprotected (`run_user_code`): a
  handler in an endless loop can be interrupted;
- user contexts are entered unprotected and left protected (`UserContext`): an interrupt on the
  first instruction of a call of ``__aexit__`` would leave the context open.

A wait in the main task can always raise `KeyboardInterrupt`, a shield does not change that. Where
a wait must not be given up, `wait_for` collects interrupts until it is over.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, Generic, TypeVar, final

import trio

T = TypeVar("T")


@trio.lowlevel.disable_ki_protection
async def run_user_code(async_fn: Callable[..., Awaitable[T]], *args: object) -> T:
    """Call user code, which an interrupt may strike anywhere. A checkpoint if ``async_fn`` is."""
    return await async_fn(*args)


@final
class UserContext(Generic[T]):
    """An async context manager of the user's, entered unprotected and left protected."""

    __slots__ = ("_context",)

    def __init__(self, context: AbstractAsyncContextManager[T]) -> None:
        self._context = context

    async def __aenter__(self) -> T:
        """Enter it."""
        return await run_user_code(self._context.__aenter__)

    def __aexit__(self, *error: Any) -> Awaitable[bool | None]:
        """Leave it. No coroutine of its own: nothing runs before the context's own code."""
        return self._context.__aexit__(*error)


async def wait_for(
    event: trio.Event, on_interrupt: Callable[[KeyboardInterrupt], None] | None = None
) -> list[KeyboardInterrupt]:
    """Wait for an event, shielded, and also through interrupts. A checkpoint if it is not set.

    Only for events that are certain to come: neither a cancellation nor an interrupt ends it.

    Args:
        event: What to wait for.
        on_interrupt: Called with each interrupt; it must not raise.

    Returns:
        The interrupts that came meanwhile. The caller raises them.
    """
    interrupts: list[KeyboardInterrupt] = []
    with trio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except KeyboardInterrupt as interrupt:
                interrupts.append(interrupt)
                if on_interrupt is not None:
                    on_interrupt(interrupt)
    return interrupts


def protect_modules(package: str) -> None:
    """Mark all functions of a package's imported modules as protected, once for each process.

    Functions that are marked already keep their mark.

    Args:
        package: Its full name; its subpackages count.
    """
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            for code in _codes_in(module):
                if code not in _UNPROTECTED:
                    # Trio's decorator asks only for ``__code__``.
                    trio.lowlevel.enable_ki_protection(SimpleNamespace(__code__=code))


_UNPROTECTED = frozenset({run_user_code.__code__})


def _codes_in(module: ModuleType) -> Iterator[CodeType]:
    """Return the code of all functions and methods that are written in a module."""
    path = getattr(module, "__file__", None)
    for value in list(vars(module).values()):
        if isinstance(value, type):
            if value.__module__ == module.__name__:
                for attribute in list(vars(value).values()):
                    yield from _codes_of(attribute, path)
        else:
            yield from _codes_of(value, path)


def _codes_of(value: object, path: str | None) -> Iterator[CodeType]:
    match value:
        case property():
            for function in (value.fget, value.fset, value.fdel):
                yield from _codes_of(function, path)
        case staticmethod() | classmethod():
            yield from _codes_of(value.__func__, path)
        case FunctionType():
            # What a decorator made belongs to the decorator's module; what it wraps may be ours.
            yield from _codes_of(getattr(value, "__wrapped__", None), path)
            if value.__code__.co_filename == path:
                yield from _with_nested(value.__code__)
        case _:
            return


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_nested(constant)
