"""Tasks: their names in reports, whether they run the current one, and `Session.start`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set as AbstractSet
from functools import partial
from typing import Any, TypeAlias, final

import attrs
import trio

from .failures import separate
from .interrupts import run_user_code

AsyncFn: TypeAlias = Callable[..., Awaitable[object]]


def name_of(function: Callable[..., object]) -> str:
    """Return the name of a function for logs and reports."""
    return getattr(function, "__qualname__", None) or repr(function)


def runs_in(tasks: AbstractSet[trio.lowlevel.Task]) -> bool:
    """Return whether one of ``tasks`` runs the current one, directly or through its nurseries."""
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    while task is not None:
        if task in tasks:
            return True
        task = None if task.parent_nursery is None else task.parent_nursery.parent_task
    return False


@final
@attrs.define(eq=False)
class StartingTask(trio.TaskStatus[Any]):
    """A task that is starting, while the caller of `Session.start` waits for it.

    Trio's own ``nursery.start`` moves the task from a nursery of the caller to its final one,
    and hangs if the task is shielded meanwhile. Here the task runs in its session from the
    beginning.
    """

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    settled: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the task has called ``started()``, or has ended without calling it."""
    ended: trio.Event = attrs.field(factory=trio.Event, init=False)
    is_started: bool = attrs.field(default=False, init=False)
    value: Any = attrs.field(default=None, init=False)
    error: Exception | None = attrs.field(default=None, init=False)
    returned: bool = attrs.field(default=False, init=False)

    def started(self, value: Any = None) -> None:
        """Wake the caller of `Session.start`: the task is ready."""
        if self.is_started:
            raise RuntimeError("called 'started' twice on the same task status")
        self.is_started = True
        self.value = value
        self.settled.set()

    async def run(self, async_fn: AsyncFn, args: tuple[object, ...]) -> None:
        """Run the task. Errors before ``started()`` are kept for the caller of `Session.start`."""
        try:
            with self.scope:
                await run_user_code(partial(async_fn, *args, task_status=self))
                self.returned = True
        except BaseException as error:
            failure, onward = separate(error)
            if self.is_started or failure is None:
                raise
            self.error = failure
            if onward is not None:
                raise onward from None
        finally:
            self.settled.set()
            self.ended.set()
