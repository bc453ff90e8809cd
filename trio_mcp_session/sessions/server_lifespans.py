"""The server's lifespans: contexts that are open around all sessions and requests of a manager.

::

    the task that holds the sessions
     └ budget scope           its deadline is set when the sessions have ended
        └ lifespan            unshielded while it is entered; each further one within it
           └ nursery
              ├ sentinel      unshielded: if the lifespan cancels its body, it ends every session
              └ the sessions  shielded

Each lifespan is left after everything within it, because the blocks nest. None of them sees an
exception of another one, or of the sessions.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, final

import trio

from ..core.errors import CleanupFailed, ExitRequested, ServerLifespanFailed
from .error_log import log_error, write_log
from .failures import is_cancellation, separate_in_task, without_cancellations
from .interrupts import UserContext
from .tasks import name_of

if TYPE_CHECKING:
    from ..core.config import SessionConfig
    from .shutdown_deadline import ShutdownDeadline

T = TypeVar("T")

ContextOf: TypeAlias = Callable[..., AbstractAsyncContextManager[T]]
"""A server lifespan (`ServerLifespan`), as far as its value is concerned."""


class LifespansHost(Protocol):
    """The manager, as its lifespans see it. `SessionManager` implements it."""

    config: SessionConfig
    """Limits and clocks."""

    _shutdown: ShutdownDeadline


def lifespan_name(lifespan: ContextOf[Any]) -> str:
    """Return the name of a server lifespan for reports. Not a checkpoint."""
    return f"server lifespan {name_of(lifespan)}"


@final
class ServerLifespans:
    """The lifespans of one manager, and their values while they are open.

    Args:
        lifespans: The lifespans, in the order in which they are entered.
    """

    def __init__(self, lifespans: Sequence[ContextOf[Any]] = ()) -> None:
        self._lifespans: Final = lifespans
        self._values: Final[dict[ContextOf[Any], Any]] = {}
        self._failures: Final[list[BaseException]] = []
        self._budget: Final = trio.CancelScope()
        self._sessions_ended = False
        self._crashed = False
        self._being_left: tuple[str, ...] = ()

    @property
    def failures(self) -> Sequence[BaseException]:
        """Failures of entering, and while sessions were served. Failed clean-ups are not in it."""
        return self._failures

    @property
    def being_left(self) -> Sequence[str]:
        """The name of the lifespan that is being left now, if any. Safe in another thread."""
        return self._being_left

    def value_of(self, lifespan: ContextOf[T]) -> T:
        """Return the value of an open lifespan. Not a checkpoint.

        Raises:
            LookupError: It is not open.
        """
        try:
            value: T = self._values[lifespan]
        except KeyError:
            raise LookupError(
                f"{lifespan_name(lifespan)} is not open: it must be the server_lifespan of the "
                "application, and has a value from its opening until its clean-up begins"
            ) from None
        return value

    async def hold(
        self,
        manager: LifespansHost,
        run_sessions: Callable[[], Awaitable[None]],
        end_sessions: Callable[[], object],
    ) -> None:
        """Enter all lifespans, run the sessions within them, and leave the lifespans. A checkpoint.

        A cancellation from outside ends the opening only: from then on, `end_sessions` must be
        called.

        Args:
            manager: The manager.
            run_sessions: Runs the sessions until all have ended. It shields itself, and raises
                nothing.
            end_sessions: Makes the sessions end. Not a checkpoint; it must not raise.
        """
        if not self._lifespans:
            await run_sessions()
            return
        manager._shutdown.leave_time_for_lifespans()
        with self._budget:
            await self._within(manager, 0, run_sessions, end_sessions)

    async def _within(
        self,
        manager: LifespansHost,
        number: int,
        run_sessions: Callable[[], Awaitable[None]],
        end_sessions: Callable[[], object],
    ) -> None:
        """Enter a lifespan and all further ones, and leave them again."""
        if number == len(self._lifespans):
            # No wait since the last one was entered. Now only the budget can cancel them.
            self._budget.shield = True
            await self._run_sessions(run_sessions, end_sessions)
            return
        lifespan = self._lifespans[number]
        entered = False
        try:
            async with UserContext(lifespan(manager)) as value:
                entered = True
                self._values[lifespan] = value
                try:
                    await self._within(manager, number + 1, run_sessions, end_sessions)
                finally:
                    self._begin_to_leave(manager)
                    self._values.pop(lifespan, None)
                    self._being_left = (lifespan_name(lifespan),)
        except BaseException as error:  # noqa: ASYNC103  # raised again, if it has to propagate
            failure, onward = separate_in_task(error)
            if not entered and failure is None and onward is None:
                failure = RuntimeError("cancelled itself")
            if failure is not None:
                self._failed(manager, lifespan, failure, entered=entered)
            if self._budget.cancel_called and is_cancellation(onward):
                # The others are cancelled at their next checkpoint.
                left = CleanupFailed(f"{lifespan_name(lifespan)} ran over its budget")
                log_error(manager, left)
                onward = without_cancellations(onward)
            if onward is error:
                raise
            if onward is not None:
                raise onward from None  # noqa: ASYNC104  # it is a part of the error

    def _begin_to_leave(self, manager: LifespansHost) -> None:
        """Start the budget, which is for all lifespans together."""
        self._budget.shield = True
        if self._budget.deadline == inf:
            clocks = manager.config.cleanup
            self._budget.deadline = manager._shutdown.lifespans_until(clocks.cleanup_budget)

    async def _run_sessions(
        self, run_sessions: Callable[[], Awaitable[None]], end_sessions: Callable[[], object]
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, end_sessions, name="sentinel of the server's lifespan")
            await run_sessions()
            self._sessions_ended = True
            nursery.cancel_scope.cancel(reason="all sessions have ended")

    async def _watch(self, end_sessions: Callable[[], object]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not self._sessions_ended:
                self._crashed = True
                end_sessions()
                names = ", ".join(map(lifespan_name, self._lifespans))
                write_log(logging.WARNING, "%s cancelled its block; ending all sessions", names)

    def _failed(
        self,
        manager: LifespansHost,
        lifespan: ContextOf[Any],
        error: Exception,
        *,
        entered: bool,
    ) -> None:
        name = lifespan_name(lifespan)
        cause = error.__cause__ if isinstance(error, ExitRequested) else error
        if entered and not self._crashed:
            left = CleanupFailed(name)
            left.__cause__ = cause
            log_error(manager, left)
        else:
            failed = ServerLifespanFailed(name, opening=not entered)
            failed.__cause__ = cause
            self._failures.append(failed)
