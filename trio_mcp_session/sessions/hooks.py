"""Hooks: code of the application that is called when a session opens, changes or ends.

They run in the session's task, one at a time and in the order of events, under a shield and a
budget. A hook that fails or takes too long is reported and counted. It can delay its own session
for its budget, and no other session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, final

import attrs
import trio

from ..core.errors import HookFailed
from ..core.lifecycle_states import SessionState
from ..core.reasons import TerminationReason
from .failures import separate, without_cancellations
from .interrupts import run_user_code
from .tasks import name_of

if TYPE_CHECKING:
    from .session import Session

CreatedHook: TypeAlias = "Callable[[Session], Awaitable[None]]"
TerminatedHook: TypeAlias = "Callable[[Session, TerminationReason], Awaitable[None]]"
StateHook: TypeAlias = "Callable[[Session, SessionState, SessionState], Awaitable[None]]"
ErrorHook: TypeAlias = "Callable[[Session, Exception], Awaitable[None]]"


@attrs.frozen(kw_only=True)
class SessionHooks:
    """Functions to call when a session opens, changes, fails or ends: async, each optional."""

    on_session_created: CreatedHook | None = None
    """Called before a session is established: its client is known. Raise to refuse it."""

    on_session_terminated: TerminatedHook | None = None
    """Called once after the end of each session that ``on_session_created`` accepted."""

    on_state_changed: StateHook | None = None
    """Called after each change of state, with the old and the new state."""

    on_error: ErrorHook | None = None
    """Called after a failure in the session; see `SessionError` for the kinds."""


HookCall: TypeAlias = tuple[str, "Callable[..., Awaitable[None]]", tuple[Any, ...]]
"""A hook's name, the hook, and its arguments after the session."""


@final
@attrs.define(eq=False)
class HookQueue:
    """The hook calls of one session that wait for their turn in the session's task."""

    _session: Session
    _limit: int
    _budget: float
    _calls: deque[HookCall] = attrs.field(factory=deque[HookCall], init=False)

    def __len__(self) -> int:
        return len(self._calls)

    def post(self, name: str, hook: Callable[..., Awaitable[None]], *args: object) -> None:
        """Queue a call of a hook, which the session's task makes. Not a checkpoint."""
        if len(self._calls) < self._limit:
            self._calls.append((name, hook, args))
        else:
            self._session._hook_dropped()

    async def run_waiting(self) -> None:
        """Make the queued calls in order, each within its own budget, until the session ends."""
        while self._calls and self._session.termination_reason is None:
            name, hook, args = self._calls.popleft()
            await self._contain(name, hook, args, self._budget)

    async def run_last(self, until: float) -> None:
        """Make the calls that are queued when the session is over, all before one deadline.

        Args:
            until: The deadline, on Trio's clock.
        """
        while self._calls:
            name, hook, args = self._calls.popleft()
            if trio.current_time() < until:
                await self._contain(name, hook, args, until - trio.current_time())
            else:
                self._session._hook_dropped()

    def drop_all(self) -> None:
        """Drop the queued calls, because the session's task ends without them. Not a checkpoint."""
        while self._calls:
            self._calls.popleft()
            self._session._hook_dropped()

    async def _contain(
        self,
        name: str,
        hook: Callable[..., Awaitable[None]],
        args: tuple[object, ...],
        budget: float,
    ) -> None:
        error = await run_hook(name, hook, (self._session, *args), budget)
        if error is not None:
            self._session._hook_failed(error)


async def run_hook(
    name: str, hook: Callable[..., Awaitable[None]], args: tuple[object, ...], budget: float
) -> HookFailed | None:
    """Call one hook under a shield, for ``budget`` seconds at most.

    Returns:
        The error of the hook, or None.
    """
    try:
        with trio.move_on_after(max(budget, 0), shield=True):
            await run_user_code(hook, *args)
            return None
    except BaseException as error:  # noqa: BLE001  # a failing hook is reported, never passed on
        cause, onward = separate(error)
        failure = HookFailed(name, function=name_of(hook))
        failure.__cause__ = cause
        # Within a shield, a cancellation can only belong to a scope that the hook has left.
        onward = without_cancellations(onward)
        if onward is not None:
            raise onward from failure
        return failure
    return HookFailed(name, overran=True, function=name_of(hook))
