"""Tasks of a session: started in its nursery, counted, contained."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, final

import attrs
import trio

from .failures import contained, separate
from .interrupts import raise_with, run_user_code, wait_for

if TYPE_CHECKING:
    from .session import Session

AsyncFn: TypeAlias = Callable[..., Awaitable[object]]


def name_of(function: Callable[..., object]) -> str:
    """Return what logs and reports call a function."""
    return getattr(function, "__qualname__", None) or repr(function)


def start_soon(
    session: Session, async_fn: AsyncFn, args: tuple[object, ...], name: str, *, service: bool
) -> None:
    """Run a task in the session's nursery. Not a checkpoint."""
    if session._nursery is None:
        # Not counted yet: perhaps the session never opens.
        session._once_open(partial(start_soon, session, async_fn, args, name, service=service))
        return
    if not service:
        session._begin_work()
    session._spawn(partial(_run, session, async_fn, args, name, service=service), name=name)


async def _run(
    session: Session, async_fn: AsyncFn, args: tuple[object, ...], name: str, *, service: bool
) -> None:
    try:
        # Reported before it stops to be work: a drain ends a session without work.
        with contained(partial(session._task_crashed, name)):
            await run_user_code(async_fn, *args)
    finally:
        if not service:
            session._end_work()


@final
@attrs.define(eq=False)
class _Start(trio.TaskStatus[Any]):
    """A start in progress: what `start` waits for.

    Trio's own ``nursery.start`` moves the task from a nursery of the caller to its final one,
    and hangs if it is shielded meanwhile. Here the task is in its session from the beginning.
    """

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    settled: trio.Event = attrs.field(factory=trio.Event, init=False)
    """It is up, or will never be."""
    ended: trio.Event = attrs.field(factory=trio.Event, init=False)
    is_started: bool = attrs.field(default=False, init=False)
    value: Any = attrs.field(default=None, init=False)
    error: Exception | None = attrs.field(default=None, init=False)
    returned: bool = attrs.field(default=False, init=False)

    def started(self, value: Any = None) -> None:
        """Tell the caller of ``start`` that the task is up."""
        if self.is_started:
            raise RuntimeError("called 'started' twice on the same task status")
        self.is_started = True
        self.value = value
        self.settled.set()

    async def run(self, async_fn: AsyncFn, args: tuple[object, ...]) -> None:
        """Run the task; until it is up, its errors are the caller's."""
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


async def start(
    session: Session, async_fn: AsyncFn, args: tuple[object, ...], name: str, *, service: bool
) -> Any:
    """Run a task in the session's nursery and wait until it is up. A checkpoint."""
    if session._nursery is None:
        raise RuntimeError("the session is not open yet: nobody could wait for the task")
    starting = _Start()
    start_soon(session, starting.run, (async_fn, args), name, service=service)
    try:
        await starting.settled.wait()
    except BaseException as error:  # noqa: BLE001  # or an interrupt; raised again below
        # Also if it is just up: its value reaches no caller.
        starting.scope.cancel(reason="start was cancelled")
        interrupts = await wait_for(starting.ended)
        if starting.error is not None:
            session._task_failed_to_start(name, starting.error)
        raise_with(error, interrupts)
    if starting.is_started:
        return starting.value
    if starting.error is not None:
        raise starting.error
    if starting.returned:
        raise RuntimeError(f"{name} returned without calling task_status.started()")
    raise session._terminated()
