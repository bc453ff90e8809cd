"""Nurseries that user code has entered in a task of the library, and not left.

Trio would raise an error out of the task when that ends, and so end all that shares its nursery.
"""

from __future__ import annotations

from contextlib import suppress

import trio

MESSAGE = "it entered a nursery (or task group) and did not leave it; its tasks were cancelled"


async def leave_nurseries(task: trio.lowlevel.Task) -> Exception:
    """Cancel and join the nurseries that are open in the current task, innermost first.

    A checkpoint. It waits for tasks that refuse to be cancelled. A cancellation does not end it.

    Args:
        task: The current task, whose outermost nursery was opened by user code.

    Returns:
        The error to report, with those of the tasks as its cause.
    """
    error = RuntimeError(MESSAGE)
    for nursery in reversed(task.child_nurseries):
        nursery.cancel_scope.cancel(reason=MESSAGE)
        # What the ``async with`` block of the nursery would do: Trio has no other way to do it.
        failures = await nursery._nested_child_finished(None)
        with suppress(RuntimeError):  # A cancel scope in it was not left either.
            failures = nursery.cancel_scope._close(failures)
        error.__cause__ = failures or error.__cause__
    return error
