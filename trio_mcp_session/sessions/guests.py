"""Code of other tasks that works with what a session holds, and must be gone before that is.

A handler that uses a handle runs in a task of its own request, somewhere else. The session knows
the scope that it does so in: when the session ends, it cancels that scope, and waits until the
guest has left it, before it lets go of anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs
import trio


@final
@attrs.define(eq=False)
class Guests:
    """The guests of one session, by their scopes."""

    _tasks: dict[trio.CancelScope, trio.lowlevel.Task] = attrs.field(
        factory=dict[trio.CancelScope, trio.lowlevel.Task], init=False
    )
    _told: dict[trio.CancelScope, Callable[[str], None]] = attrs.field(
        factory=dict[trio.CancelScope, Callable[[str], None]], init=False
    )
    _gone: trio.Event | None = attrs.field(default=None, init=False)

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def tasks(self) -> set[trio.lowlevel.Task]:
        """The tasks that they run in."""
        return set(self._tasks.values())

    def enter(
        self,
        scope: trio.CancelScope,
        task: trio.lowlevel.Task,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Receive a guest. Not a checkpoint.

        Args:
            scope: What it does here.
            task: The task that does it.
            tell: Called with why, when it is sent away.
        """
        self._tasks[scope] = task
        if tell is not None:
            self._told[scope] = tell

    def leave(self, scope: trio.CancelScope) -> None:
        """Let a guest go. Not a checkpoint."""
        del self._tasks[scope]
        self._told.pop(scope, None)
        if self._gone is not None and not self._tasks:
            self._gone.set()

    def send_away(self, why: str) -> None:
        """Cancel what they do here. Not a checkpoint."""
        for scope in self._tasks:
            scope.cancel(reason=why)
        # Only now: a task that is woken before it is cancelled would go on as usual.
        for tell in list(self._told.values()):
            tell(why)

    async def wait_gone(self) -> None:
        """Wait until the last has left; `send_away` goes before. A checkpoint if any is here."""
        if self._tasks:
            self._gone = trio.Event()
            await self._gone.wait()
