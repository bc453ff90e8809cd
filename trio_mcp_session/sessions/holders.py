"""Contexts that a session enters late and leaves at its end.

A context has to be left by the task that entered it, and in the scope stack of that task. A
handler's task ends too early and the session's own task has a nursery open, so each context gets
a task to itself, its *holder*: it enters, waits, and leaves. Holders live in the manager's
nursery, out of reach of the session's cancellation, and the session's task closes them, last one
first, when its own nursery is joined.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar, final

import attrs
import trio

from ..core.errors import CleanupFailed, SessionTerminated

if TYPE_CHECKING:
    from .session import Session

T = TypeVar("T")


@final
@attrs.define(eq=False)
class _Holder:
    context: AbstractAsyncContextManager[Any]
    entering: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    budget: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    """Shields what was entered; its deadline is set when it is time to leave."""
    settled: trio.Event = attrs.field(factory=trio.Event, init=False)
    """It has entered its context, or failed to."""
    release: trio.Event = attrs.field(factory=trio.Event, init=False)
    done: trio.Event = attrs.field(factory=trio.Event, init=False)
    entered: bool = attrs.field(default=False, init=False)
    value: Any = attrs.field(default=None, init=False)
    error: Exception | None = attrs.field(default=None, init=False)
    task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)


@final
@attrs.define(eq=False)
class Holders:
    """The contexts that one session holds, in the order in which they were asked for."""

    _session: Session
    _holders: list[_Holder] = attrs.field(factory=list[_Holder], init=False)

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def tasks(self) -> set[trio.lowlevel.Task]:
        """The holders' tasks."""
        return {holder.task for holder in self._holders if holder.task is not None}

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter ``context`` in a task of its own and return its value."""
        holder = _Holder(context)
        # Known before it enters: a session that ends meanwhile has to find it.
        self._holders.append(holder)
        self._session._spawn_holder(self._hold, holder)
        try:
            await holder.settled.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                budget = self._session._clocks.cleanup_budget
                await self._close(holder, trio.current_time() + budget)
            raise
        if holder.entered and not holder.release.is_set():
            value: T = holder.value
            return value
        await holder.done.wait()
        if holder.error is not None:
            raise holder.error
        raise SessionTerminated(self._session._reason_to_end())

    async def close(self, deadline: float) -> None:
        """Leave all contexts, last one first; what is not left by ``deadline`` is cancelled.

        Returns when all have been left, even where that takes longer.
        """
        while self._holders:
            await self._close(self._holders[-1], deadline)

    async def leave(self, deadline: float) -> None:
        """Leave, last one first, the contexts that are held now, and not those being entered."""
        for holder in reversed([holder for holder in self._holders if holder.entered]):
            await self._close(holder, deadline)

    async def _close(self, holder: _Holder, deadline: float) -> None:
        if not holder.release.is_set():
            holder.budget.deadline = deadline
            holder.release.set()
            if not holder.entered:
                holder.entering.cancel(reason="no longer needed")
        await holder.done.wait()

    async def _hold(self, holder: _Holder) -> None:
        holder.task = trio.lowlevel.current_task()
        try:
            with holder.entering, holder.budget:
                async with holder.context as holder.value:
                    holder.entered = True
                    # It may have been entered although it was cancelled: from here on nothing
                    # but its budget cuts it short.
                    holder.budget.shield = True
                    holder.settled.set()
                    if not holder.release.is_set():
                        await holder.release.wait()
            if holder.entered and holder.budget.cancelled_caught:
                self._failed(holder, None)
        except Exception as error:  # noqa: BLE001  # contained: it is the session's to report
            if holder.entered:
                self._failed(holder, error)
            else:
                holder.error = error
        finally:
            self._holders.remove(holder)
            holder.settled.set()
            holder.done.set()

    def _failed(self, holder: _Holder, error: Exception | None) -> None:
        name = type(holder.context).__name__
        report = CleanupFailed(name if error is not None else f"{name} ran over its budget")
        report.__cause__ = error
        self._session._cleanup_failed(report)
