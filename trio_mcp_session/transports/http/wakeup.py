"""A wake-up that can be used again."""

from __future__ import annotations

import attrs
import trio


@attrs.define(eq=False)
class Wakeup:
    """A reusable wake-up: one task at a time waits for it.

    A `trio.Event` can be used once, and costs three times as much.
    """

    _task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)

    async def sleep(self) -> None:
        """Wait to be woken. A checkpoint."""
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def wake(self) -> None:
        """Wake the waiting task, if there is one. Not a checkpoint."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
