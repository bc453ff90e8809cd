"""Borrowers: tasks of other requests that use what a session holds, and end before it is closed.

A handler that uses a handle runs in a task of its own request, in another nursery. The session
knows the cancel scope that the handler uses the handle in: when the session ends, it cancels that
scope, and waits until the task has left it, before it closes anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

import attrs
import trio

if TYPE_CHECKING:
    from ..core.reasons import EndingReason


class Borrower(Protocol):
    """What is told about the end of a session that it uses. Nothing of it is a checkpoint."""

    def end_soon(self, reason: EndingReason) -> None:
        """Called when the end of the session's work is announced."""
        ...

    def session_ends(self, why: str) -> None:
        """Called when the session ends, after the scope of the borrower was cancelled."""
        ...


@final
@attrs.define(eq=False)
class Borrowers:
    """The borrowers of one session, by their scopes."""

    _tasks: dict[trio.CancelScope, trio.lowlevel.Task] = attrs.field(
        factory=dict[trio.CancelScope, trio.lowlevel.Task], init=False
    )
    _told: dict[trio.CancelScope, Borrower] = attrs.field(
        factory=dict[trio.CancelScope, Borrower], init=False
    )
    _gone: trio.Event | None = attrs.field(default=None, init=False)

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def tasks(self) -> set[trio.lowlevel.Task]:
        """The tasks of the borrowers."""
        return set(self._tasks.values())

    def add(
        self,
        scope: trio.CancelScope,
        task: trio.lowlevel.Task,
        borrower: Borrower | None = None,
    ) -> None:
        """Add a borrower. Not a checkpoint.

        Args:
            scope: The scope in which it uses the session.
            task: The task that uses it.
            borrower: What is told about the end of the session.
        """
        self._tasks[scope] = task
        if borrower is not None:
            self._told[scope] = borrower

    def remove(self, scope: trio.CancelScope) -> None:
        """Remove a borrower. Called when it has left its scope. Not a checkpoint."""
        del self._tasks[scope]
        self._told.pop(scope, None)
        if self._gone is not None and not self._tasks:
            self._gone.set()

    def end_soon(self, reason: EndingReason) -> None:
        """Announce the end of the session's work. Not a checkpoint."""
        for borrower in list(self._told.values()):
            borrower.end_soon(reason)

    def cancel_all(self, reason: str) -> None:
        """Cancel the scopes of all borrowers. Not a checkpoint."""
        for scope in self._tasks:
            scope.cancel(reason=reason)
        # After the scopes: a task that is woken before it is cancelled would continue as usual.
        for borrower in list(self._told.values()):
            borrower.session_ends(reason)

    async def wait_gone(self) -> None:
        """Wait until no task of others uses the session; call `cancel_all` first.

        A checkpoint if one does.
        """
        if self._tasks:
            self._gone = trio.Event()
            await self._gone.wait()
