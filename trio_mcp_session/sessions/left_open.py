"""Nurseries that user code has entered in a task of the library, and not left.

Trio would raise an error out of the task when that ends, and so end all that shares its nursery.
"""

from __future__ import annotations

from contextlib import suppress

import trio

from .failures import separate_in_task

MESSAGE = "it entered a nursery (or task group) and did not leave it; its tasks were cancelled"


async def leave_nurseries(
    task: trio.lowlevel.Task, error: BaseException | None
) -> tuple[Exception, BaseException | None]:
    """Cancel and join the nurseries that are open in the current task, innermost first.

    A checkpoint. It waits for tasks that refuse to be cancelled. A cancellation does not end it.

    Args:
        task: The current task, whose outermost nursery was opened by user code.
        error: What the user code raised; None if it returned.

    Returns:
        The error to report, with those of the tasks as its cause; and what has to propagate of
        ``error``: not a cancellation of these nurseries.
    """
    for nursery in reversed(task.child_nurseries):
        nursery.cancel_scope.cancel(reason=MESSAGE)
        # What the ``async with`` block of the nursery would do: Trio has no other way to do it.
        error = await nursery._nested_child_finished(error)
        with suppress(RuntimeError):  # A cancel scope in it was not left either.
            error = nursery.cancel_scope._close(error)
    failure, onward = (None, None) if error is None else separate_in_task(error)
    report = RuntimeError(MESSAGE)
    report.__cause__ = failure
    return report, onward
