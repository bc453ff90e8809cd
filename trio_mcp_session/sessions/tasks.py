"""Tasks of a session: started in its nursery, counted, contained."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, final

import attrs
import trio

from ..core.errors import SessionTerminated

if TYPE_CHECKING:
    from .session import Session

AsyncFn: TypeAlias = Callable[..., Awaitable[object]]


def name_of(async_fn: AsyncFn) -> str:
    """Return what to call a task that runs ``async_fn``."""
    return getattr(async_fn, "__qualname__", None) or repr(async_fn)


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
        if service:
            await _serve(session, async_fn, args)
        else:
            await async_fn(*args)
    except Exception as error:  # noqa: BLE001  # contained: it ends this session, nothing else
        session._task_crashed(name, error)
    except BaseExceptionGroup as group:
        # Cancellations and interrupts go on; what failed beside them is not lost.
        errors, others = group.split(Exception)
        if errors is not None:
            session._task_crashed(name, errors)
        assert others is not None
        raise others from None
    finally:
        if not service:
            session._end_work()


async def _serve(session: Session, async_fn: AsyncFn, args: tuple[object, ...]) -> None:
    """Run a service task in a scope of its own: a drain ends it before the work."""
    if session._services is None:
        session._services = set()
    with trio.CancelScope() as scope:
        session._services.add(scope)
        if session._drain_reason is not None:
            scope.cancel(reason="session drains")
        try:
            await async_fn(*args)
        finally:
            session._services.discard(scope)


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
                await async_fn(*args, task_status=self)
                self.returned = True
        except Exception as error:
            if self.is_started:
                raise
            self.error = error
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
    except trio.Cancelled:
        # Also if it is just up: its value reaches nobody.
        starting.scope.cancel(reason="start was cancelled")
        with trio.CancelScope(shield=True):
            await starting.ended.wait()
        raise
    if starting.is_started:
        return starting.value
    if starting.error is not None:
        raise starting.error
    if starting.returned:
        raise RuntimeError(f"{name} returned without calling task_status.started()")
    raise SessionTerminated(session._reason_to_end())
