"""Separates failures of user code from exceptions that have to propagate.

User code may raise anything, alone or in a group: errors, `SystemExit` (``argparse`` and ``click``
raise it), cancellations, `KeyboardInterrupt`. Errors and `SystemExit` are failures of the code
that raised them, and end nothing else. All other exceptions propagate: a cancellation to its scope,
an interrupt to the main program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from types import TracebackType
from typing import Final, TypeGuard, final

import trio

from ..core.errors import ExitRequested

FAILURES: Final = (Exception, SystemExit, BaseExceptionGroup)
"""Types that are failures or can contain one: catch these, then call `contain` or `separate`."""


def separate(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Separate a failure from what has to propagate.

    Returns:
        The failure, or None; and what to raise again, or None. If there are both, raise the second
        ``from None``. Raise it at once, in the same scopes: never store it.
    """
    if not is_group(error):
        if isinstance(error, (Exception, SystemExit)):
            return _as_exception(error), None
        return None, error
    # By types: a predicate would be asked about the group itself first.
    failure, onward = error.split((Exception, SystemExit))
    return None if failure is None else _as_exception(failure), onward


def separate_in_task(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Separate what failed in a task from what has to propagate.

    As `separate`, but a cancellation propagates only if a scope around the task is cancelled. Any
    other cancellation belongs to a scope that user code has left, and would cancel everything up to
    the root: it is dropped.
    """
    failure, onward = separate(error)
    if trio.current_effective_deadline() > -inf:
        onward = without_cancellations(onward)
    return failure, onward


def report_or_raise(error: BaseException, report: Callable[[Exception], object]) -> None:
    """Report what failed in a task, and raise what has to propagate (see `separate_in_task`).

    For an ``except BaseException`` in a task that lives as long as a session. `contained` does the
    same for a block, but costs an object while the block runs.
    """
    failure, onward = separate_in_task(error)
    try:
        if failure is not None:
            report(failure)
        if onward is not None:
            raise onward
    finally:
        # The traceback has this frame: with the error in it, there would be a circle.
        del error, failure, onward


@final
class contained:  # noqa: N801  # reads as what it does, in a ``with`` statement
    """Report failures of a block; other exceptions propagate. Not a checkpoint.

    Args:
        report: Called with the failure; it must not raise.
        waits: Whether the block can wait. If it cannot, cancellations that leave it are dropped.
    """

    __slots__ = ("_report", "_waits")

    def __init__(self, report: Callable[[Exception], object], *, waits: bool = True) -> None:
        self._report: Final = report
        self._waits: Final = waits

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self, _: object, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """End the block: only exceptions that have to propagate leave it."""
        if error is None:
            return False
        failure, onward = separate_in_task(error)
        if not self._waits:
            onward = without_cancellations(onward)
        if failure is not None:
            self._report(failure)
        if onward is None:
            return True
        if onward is not error:
            raise onward from None
        return False


def is_group(error: BaseException | None) -> TypeGuard[BaseExceptionGroup[BaseException]]:
    """Return whether an error is a group; narrows its type more than ``isinstance`` does."""
    return isinstance(error, BaseExceptionGroup)


def is_cancellation(error: BaseException | None) -> bool:
    """Return whether an error is a cancellation, or a group that contains one."""
    if is_group(error):
        return error.split(trio.Cancelled)[0] is not None
    return isinstance(error, trio.Cancelled)


def without_cancellations(error: BaseException | None) -> BaseException | None:
    """Return an error without the cancellations in it; None if nothing is left."""
    if is_group(error):
        return error.split(trio.Cancelled)[1]
    return None if isinstance(error, trio.Cancelled) else error


def contain(error: BaseException) -> Exception:
    """Return the failure of a synchronous call of user code; raise what has to propagate.

    Synchronous code cannot be cancelled, so a cancellation that leaves it belongs to a scope that
    it has left: it is dropped.

    Raises:
        BaseException: What has to propagate.
    """
    failure, onward = separate(error)
    onward = without_cancellations(onward)
    if onward is not None:
        raise onward from failure
    assert failure is not None
    return failure


def first_of(error: BaseException) -> BaseException:
    """Return the first error in a group and its subgroups, or the error that is in no group."""
    return next(_leaves(error))


def first_if_all(
    error: BaseException, is_meant: Callable[[BaseException], bool]
) -> BaseException | None:
    """Return the first error of a group, or the error itself, if ``is_meant`` holds for all.

    Returns:
        None if ``is_meant`` is false for one of them.
    """
    leaves = list(_leaves(error))
    return leaves[0] if all(map(is_meant, leaves)) else None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if is_group(error):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _as_exception(failure: BaseException) -> Exception:
    """Return a failure as an `Exception`, which hooks, events and `Session.error` require."""
    if isinstance(failure, Exception):
        return failure
    wrapped = ExitRequested(failure)
    wrapped.__cause__ = failure
    return wrapped
