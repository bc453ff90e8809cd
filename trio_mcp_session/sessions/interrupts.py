"""Protection against `KeyboardInterrupt`: the engine's code is protected, user code is not.

Python runs signal handlers between any two instructions. Trio's handler raises
`KeyboardInterrupt` there, unless the running code is protected: then it is delivered to the main
task, at its next wait. Trio looks from the interrupted frame outwards for the first function that
was marked as protected or unprotected. So

- all functions of the engine are marked as protected, in one place (`protect_modules`): an
  interrupt cannot be raised between two lines that change a table;
- user code is called through one function that is marked as unprotected (`run_user_code`): a
  task in an endless loop can be interrupted. `Application.handle`, which is called for every
  request, is itself marked so (`leave_unprotected`);
- user contexts are entered unprotected and left protected (`UserContext`): an interrupt on the
  first instruction of a call of ``__aexit__`` would leave the context open;
- the library's own blocks are entered and left protected (`ProtectedBlock`,
  `ProtectedAsyncBlock`): the frames of `contextlib` between the user's code and the block are not
  marked, and an interrupt there would skip the clean-up.

A wait in the main task can always raise `KeyboardInterrupt`, a shield does not change that. Where a
wait must not stop early, `wait_for` collects interrupts until the wait is over.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import CodeType, FunctionType, ModuleType, SimpleNamespace, TracebackType
from typing import Any, Generic, NoReturn, TypeVar, cast, final

import trio

T = TypeVar("T")


@trio.lowlevel.disable_ki_protection
async def run_user_code(async_fn: Callable[..., Awaitable[T]], *args: object) -> T:
    """Call user code unprotected from interrupts. A checkpoint if ``async_fn`` is."""
    return await async_fn(*args)


def leave_unprotected(function: Callable[..., object]) -> None:
    """Mark a function of the application as unprotected, once. Not a checkpoint.

    For a function that is called for every request: `run_user_code` would cost a coroutine each
    time. A callable that is not a Python function stays protected, like its caller.
    """
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if isinstance(code, CodeType):
        trio.lowlevel.disable_ki_protection(cast("Any", SimpleNamespace(__code__=code)))


@final
class UserContext(Generic[T]):
    """An async context manager of the user's, entered unprotected and left protected."""

    __slots__ = ("_context",)

    def __init__(self, context: AbstractAsyncContextManager[T]) -> None:
        if not (hasattr(context, "__aenter__") and hasattr(context, "__aexit__")):
            raise TypeError(f"expected an async context manager, not {context!r}")
        self._context = context

    async def __aenter__(self) -> T:
        """Enter it."""
        return await run_user_code(self._context.__aenter__)

    def __aexit__(self, *error: Any) -> Awaitable[bool | None]:
        """Leave it. Not a coroutine function: no other code runs before the context's own."""
        return self._context.__aexit__(*error)


@final
class ProtectedBlock(AbstractContextManager[T]):
    """A ``with`` block of the library, entered and left protected."""

    __slots__ = ("_block",)

    def __init__(self, block: AbstractContextManager[T]) -> None:
        self._block = block

    def __enter__(self) -> T:
        """Enter the block."""
        return self._block.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Leave the block."""
        return self._block.__exit__(kind, error, traceback)


@final
class ProtectedAsyncBlock(AbstractAsyncContextManager[T]):
    """An ``async with`` block of the library, entered and left protected."""

    __slots__ = ("_block",)

    def __init__(self, block: AbstractAsyncContextManager[T]) -> None:
        self._block = block

    async def __aenter__(self) -> T:
        """Enter the block."""
        return await self._block.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Leave the block."""
        return await self._block.__aexit__(kind, error, traceback)  # noqa: ASYNC102  # handed on


def with_interrupts(
    error: BaseException | None, interrupts: Sequence[KeyboardInterrupt]
) -> BaseException | None:
    """Return what to raise after a wait: the error, with the first interrupt if there was any.

    Further interrupts are dropped: one is enough.
    """
    if not interrupts or isinstance(error, KeyboardInterrupt):
        return error
    if error is None:
        return interrupts[0]
    return BaseExceptionGroup("interrupted during the clean-up", [error, interrupts[0]])


def raise_with(error: BaseException, interrupts: Sequence[KeyboardInterrupt]) -> NoReturn:
    """Raise an error that is being handled, with the interrupts that came meanwhile."""
    combined = with_interrupts(error, interrupts)
    try:
        if combined is None or combined is error:
            raise error
        raise combined from None
    finally:
        # The traceback has this frame: with the error in it, there would be a circle.
        del error, combined


async def wait_for(
    event: trio.Event, on_interrupt: Callable[[KeyboardInterrupt], None] | None = None
) -> list[KeyboardInterrupt]:
    """Wait for an event, through cancellations and interrupts. A checkpoint if it is not set.

    Only for events that are certain to be set: neither a cancellation nor an interrupt ends the
    wait.

    Args:
        event: What to wait for.
        on_interrupt: Called with each interrupt; it must not raise.

    Returns:
        The interrupts that came meanwhile. The caller raises them.
    """
    interrupts: list[KeyboardInterrupt] = []
    with trio.CancelScope(shield=True):  # noqa: ASYNC912  # that is what it is for
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
        ours = name == package or name.startswith(f"{package}.")
        if ours and isinstance(module, ModuleType):  # None blocks an import.
            for code in _codes_in(module):
                if code not in _UNPROTECTED:
                    # Trio's decorator asks only for ``__code__``.
                    trio.lowlevel.enable_ki_protection(cast("Any", SimpleNamespace(__code__=code)))


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
            yield from _codes_of(cast("Any", value).__func__, path)
        case FunctionType():
            # A wrapper belongs to its decorator's module; the function that it wraps may be ours.
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
