"""What a failure of user code is, and what has to go on.

User code may raise anything, alone or in a group: errors, `SystemExit` (``argparse`` and ``click``
raise it), cancellations, `KeyboardInterrupt`. Errors and `SystemExit` are failures of the code
that raised them, and end nothing else. All the rest goes on to whoever waits for it: a
cancellation to its scope, an interrupt to the main program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from types import TracebackType
from typing import Final, TypeGuard, final

import trio

from ..core.errors import ExitRequested

FAILURES: Final = (Exception, SystemExit, BaseExceptionGroup)
"""What may be, or contain, a failure: catch this, then `contain` it or `separate` it."""


def separate(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Separate what failed from what has to go on.

    Returns:
        The failure, or None; and what to raise again, or None. Where there is both, raise the
        second ``from None``. What goes on must be raised in the same scopes, at once: never keep
        it.
    """
    if not is_group(error):
        if isinstance(error, (Exception, SystemExit)):
            return _as_exception(error), None
        return None, error
    # By types: a predicate would be asked about the group itself first.
    failure, onward = error.split((Exception, SystemExit))
    return None if failure is None else _as_exception(failure), onward


def separate_in_task(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Separate what failed in a task from what has to go on.

    As `separate`, but a cancellation goes on only where a scope around is cancelled. Any other is
    of a scope that user code has left, and would cancel everything up to the root: it is dropped.
    """
    failure, onward = separate(error)
    if trio.current_effective_deadline() > -inf:
        onward = without_cancellations(onward)
    return failure, onward


def report_or_raise(error: BaseException, report: Callable[[Exception], object]) -> None:
    """Report what failed in a task, and raise what has to go on (see `separate_in_task`).

    For an ``except BaseException`` in a task that lives as long as a session; `contained` is the
    same as a block, but an object for as long as the block.
    """
    failure, onward = separate_in_task(error)
    if failure is not None:
        report(failure)
    if onward is not None:
        raise onward


@final
class contained:  # noqa: N801  # reads as what it does, in a ``with`` statement
    """Report failures of a block, and let go on what has to go on. Not a checkpoint.

    Args:
        report: Called with the failure; it must not raise.
        waits: Whether the block can wait, and so be cancelled at all.
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
        """End the block: nothing but what has to go on comes out of it."""
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
    """Return whether an error is a group; ``isinstance`` alone leaves open of what."""
    return isinstance(error, BaseExceptionGroup)


def is_cancellation(error: BaseException | None) -> bool:
    """Return whether an error is a cancellation, or a group that contains one."""
    if is_group(error):
        return error.split(trio.Cancelled)[0] is not None
    return isinstance(error, trio.Cancelled)


def without_cancellations(error: BaseException | None) -> BaseException | None:
    """Return an error without the cancellations in it; None where nothing is left."""
    if is_group(error):
        return error.split(trio.Cancelled)[1]
    return None if isinstance(error, trio.Cancelled) else error


def contain(error: BaseException) -> Exception:
    """Return the failure of a synchronous call of user code; raise what has to go on.

    A cancellation that comes out of code that cannot wait is of a scope that it has left: it is
    dropped.

    Raises:
        BaseException: What has to go on.
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
    """Return the first error of a group, or the error itself, if all of them are meant.

    Returns:
        None where one of them is not.
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
    """Return a failure as an `Exception`: hooks, events and `Session.error` promise one."""
    if isinstance(failure, Exception):
        return failure
    wrapped = ExitRequested(failure)
    wrapped.__cause__ = failure
    return wrapped
