"""What a failure of user code is, and what has to go on.

User code may raise anything, alone or in a group: errors, `SystemExit` (``argparse`` and ``click``
raise it), cancellations, `KeyboardInterrupt`. Errors and `SystemExit` are failures of the code
that raised them, and end nothing else. All the rest goes on to whoever waits for it: a
cancellation to its scope, an interrupt to the main program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

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
    if not isinstance(error, BaseExceptionGroup):
        if isinstance(error, (Exception, SystemExit)):
            return _as_exception(error), None
        return None, error
    # By types: a predicate would be asked about the group itself first.
    failure, onward = error.split((Exception, SystemExit))
    return None if failure is None else _as_exception(failure), onward


def is_cancellation(error: BaseException | None) -> bool:
    """Return whether an error is a cancellation, or a group that contains one."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[0] is not None
    return isinstance(error, trio.Cancelled)


def contain(error: BaseException) -> Exception:
    """Return the failure of a synchronous call of user code; raise again what has to go on.

    Raises:
        BaseException: ``error`` itself, if there is anything in it that has to go on.
    """
    failure, onward = separate(error)
    if onward is not None:
        raise error
    assert failure is not None
    return failure


@contextmanager
def contained(report: Callable[[Exception], object]) -> Iterator[None]:
    """Report what fails in a block, and let only that out which has to go on.

    Args:
        report: Called with the failure; it must not raise.
    """
    try:
        yield
    except FAILURES as error:
        failure, onward = separate(error)
        if failure is not None:
            report(failure)
        if onward is error:
            raise
        if onward is not None:
            raise onward from None


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
    if isinstance(error, BaseExceptionGroup):
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
