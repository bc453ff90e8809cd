"""Contexts that a session enters late and leaves at its end.

A context has to be left by the task that entered it, and in the scope stack of that task. A
handler's task ends too early and the session's own task has a nursery open, so each context gets
a task to itself, its *holder*: it enters, waits, and leaves.

Holders are children of the session's nursery. A context that is being entered is cancelled with
it; one that is entered shields itself, so the nursery waits for it. It is released, the youngest
first, when all the rest of the nursery has ended: see `Session._release_next`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, final

import attrs
import trio

from ..core.errors import CleanupFailed
from .failures import contained
from .interrupts import UserContext, raise_with, wait_for
from .tasks import name_of

if TYPE_CHECKING:
    from .session import Session

T = TypeVar("T")


@final
@attrs.define(eq=False)
class _Holder:
    context: AbstractAsyncContextManager[Any]
    name: str
    """The context's name in reports. Read before entering, when its function is still known."""
    entering: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    budget: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    """Shields the entered context; its deadline is set when the context has to be left."""
    settled: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the context is entered, or entering failed."""
    released: trio.Event = attrs.field(factory=trio.Event, init=False)
    done: trio.Event = attrs.field(factory=trio.Event, init=False)
    entered: bool = attrs.field(default=False, init=False)
    value: Any = attrs.field(default=None, init=False)
    error: Exception | None = attrs.field(default=None, init=False)
    task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)

    def release(self, deadline: float) -> None:
        """Leave the context, or stop entering it. Not a checkpoint; the first call counts."""
        if not self.released.is_set():
            self.budget.deadline = deadline
            self.released.set()
            if not self.entered:
                self.entering.cancel(reason="no longer needed")


@final
@attrs.define(eq=False)
class HeldContexts:
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
        holder = _Holder(context, _name_of(context))
        # Listed before it enters: a session that ends meanwhile has to find it.
        self._holders.append(holder)
        self._session._spawn_holder(self._hold, holder)
        try:
            await holder.settled.wait()
        except BaseException as error:  # noqa: BLE001  # or an interrupt; raised again below
            holder.release(trio.current_time() + self._session._clocks.cleanup_budget)
            interrupts = await wait_for(holder.done)
            if holder.error is not None:
                self._failed(holder, holder.error)
            raise_with(error, interrupts)
        if holder.entered and not holder.released.is_set():
            value: T = holder.value
            return value
        await holder.done.wait()
        if holder.error is not None:
            raise holder.error
        raise self._session._terminated()

    async def leave(self, deadline: float) -> None:
        """Leave the contexts that are held now, last one first; those being entered stay.

        A context that is not left by ``deadline`` is cancelled. A checkpoint if any is held.
        """
        for holder in reversed([holder for holder in self._holders if holder.entered]):
            holder.release(deadline)
            await holder.done.wait()

    def release_youngest(self, deadline: float) -> None:
        """Make the last context be left, by ``deadline`` at the latest. Not a checkpoint."""
        self._holders[-1].release(deadline)

    async def wait_gone(self) -> None:
        """Wait until all contexts are left; call `release_youngest` first."""
        while self._holders:
            await self._holders[-1].done.wait()

    async def _hold(self, holder: _Holder) -> None:
        holder.task = trio.lowlevel.current_task()
        try:
            with contained(partial(self._ended_by, holder)):
                with holder.entering, holder.budget:
                    async with UserContext(holder.context) as holder.value:
                        holder.entered = True
                        # It may have been entered although it was cancelled. From here on only its
                        # budget can cancel it.
                        holder.budget.shield = True
                        holder.settled.set()
                        if not holder.released.is_set():
                            await holder.released.wait()
                if holder.entered and not holder.released.is_set():
                    # The context suppressed what its own nursery or scope raised in it.
                    self._session._context_ended(holder.name, None)
                elif holder.entered and holder.budget.cancelled_caught:
                    self._failed(holder, None)
        finally:
            self._holders.remove(holder)
            holder.settled.set()
            holder.done.set()
            self._session._release_next()

    def _ended_by(self, holder: _Holder, error: Exception) -> None:
        if not holder.entered:
            holder.error = error
        elif holder.released.is_set():
            self._failed(holder, error)
        else:
            self._session._context_ended(holder.name, error)

    def _failed(self, holder: _Holder, error: Exception | None) -> None:
        name = holder.name
        report = CleanupFailed(name if error is not None else f"{name} ran over its budget")
        report.__cause__ = error
        self._session._cleanup_failed(report)


def _name_of(context: object) -> str:
    # `contextlib.asynccontextmanager` keeps the function there until the context is entered.
    function = getattr(context, "func", None)
    return name_of(function) if callable(function) else type(context).__name__
