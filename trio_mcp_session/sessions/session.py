"""The face of a session: what an application does with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Set as AbstractSet
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, final

import attrs
import trio

from ..core.metrics import SessionMetrics
from ..core.reasons import TerminationReason
from ..core.state import SessionState
from . import drain, tasks
from .holders import Holders
from .interrupts import ProtectedBlock, wait_for
from .speaking import Speaking

if TYPE_CHECKING:
    from .handles import Handle
    from .manager import SessionManager
    from .state_keys import StateKey

T = TypeVar("T")
_MISSING: Any = object()


@final
@attrs.define(eq=False, repr=False)
class Session(Speaking):
    """What a server holds for one client, or for one handle: a nursery with a name and a clock.

    Managers make sessions. All work that is started in a session, all contexts that it holds and
    its lifespan end with it, in this order, whyever it ends.
    """

    # What it is now.

    @property
    def manager(self) -> SessionManager:
        """The manager that it lives in."""
        return self._manager

    @property
    def handle(self) -> Handle[Any] | None:
        """What it stands for, where `RequestContext.open_handle` opened it; None otherwise."""
        return self._handle

    @property
    def state(self) -> SessionState:
        """Where it stands in its life."""
        return self._state

    @property
    def termination_reason(self) -> TerminationReason | None:
        """Why it ends or has ended; None while it lives."""
        return self._reason

    @property
    def error(self) -> Exception | None:
        """What went wrong in it for good: one error, or a group of several."""
        if not self._errors:
            return None
        if len(self._errors) == 1:
            return self._errors[0]
        return ExceptionGroup("several things failed in a session", self._errors)

    @property
    def protocol_version(self) -> str | None:
        """The revision that its client and the server agreed on; None without a handshake."""
        return None if self._revision is None else self._revision.version

    @property
    def subscriptions(self) -> AbstractSet[str]:
        """The resources that its client subscribed to."""
        return frozenset(self._resources or ())

    @property
    def busy(self) -> bool:
        """Whether a request, a work task or a lease keeps it from being idle."""
        return self._busy > 0

    @property
    def idle_time(self) -> float:
        """Seconds since it was last active; 0 while it is busy."""
        return 0.0 if self._busy else trio.current_time() - self._last_active

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return trio.current_time() - self._opened_at

    @property
    def time_left(self) -> float:
        """Seconds until its lifetime is over; infinite where it has none."""
        return self._expires_at - trio.current_time()

    @property
    def metrics(self) -> SessionMetrics:
        """A picture of what it did so far."""
        now, wall = trio.current_time(), self._manager.config.wall_clock()
        return SessionMetrics(
            created=wall - timedelta(seconds=now - self._opened_at),
            last_active=wall - timedelta(seconds=self.idle_time),
            in_flight=sum(gate.running for gate in self._gates()),
            queued=sum(gate.queued for gate in self._gates()),
            **attrs.asdict(self._counters),
        )

    # What runs in it.

    def start_soon(
        self,
        async_fn: Callable[..., Awaitable[object]],
        *args: object,
        name: str | None = None,
        service: bool = False,
    ) -> None:
        """Run ``async_fn(*args)`` in the session's nursery. Not a checkpoint.

        The task is cancelled and joined before the session counts as terminated. If it raises,
        the session ends as *crashed*, and nothing else does. Called before the session is open,
        in its lifespan for example, it starts as soon as it is.

        Args:
            async_fn: What to run.
            *args: Its arguments.
            name: What to call the task; the function's name by default.
            service: The task serves the session and is no work of its own: it neither keeps the
                session from being idle nor holds up a drain.

        Raises:
            SessionTerminated: The session ends or has ended.
        """
        self._check_live()
        tasks.start_soon(self, async_fn, args, name or tasks.name_of(async_fn), service=service)

    async def start(
        self,
        async_fn: Callable[..., Awaitable[object]],
        *args: object,
        name: str | None = None,
        service: bool = False,
    ) -> Any:
        """Run ``async_fn(*args, task_status=...)`` and wait until it calls ``started()``.

        A checkpoint. When cancelled, the task is cancelled and joined first. Everything else is
        as with `start_soon`, except that what the task raises before ``started()`` is raised here
        and does not end the session.

        Returns:
            The value given to ``task_status.started(value)``.

        Raises:
            RuntimeError: The task returned without calling ``started()``, or the session is not
                open yet.
            SessionTerminated: The session ends or has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_live()
        return await tasks.start(
            self, async_fn, args, name or tasks.name_of(async_fn), service=service
        )

    async def enter_async_context(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter a context that the session holds until it ends.

        A checkpoint. It may be called from any task. The context is entered and left in a task of
        its own, where `current_session` works; held contexts are left last one first, after the
        session's tasks are joined and before its lifespan is left. When cancelled, what was
        entered is left again before the call raises.

        Returns:
            What the context's ``__aenter__`` returned.

        Raises:
            SessionTerminated: The session ends or has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_live()
        if self._holders is None:
            self._holders = Holders(self)
        return await self._holders.enter(context)

    def lease(self) -> AbstractContextManager[None]:
        """Keep the session from being idle, evicted or drained for the length of a block.

        Not a checkpoint.

        Raises:
            SessionTerminated: The session ends or has ended.
        """
        return ProtectedBlock(self._lease())

    @contextmanager
    def _lease(self) -> Iterator[None]:
        self._check_live()
        self._begin_work()
        try:
            yield
        finally:
            self._end_work()

    # What it knows.

    def set_state(self, key: StateKey[T], value: T) -> None:
        """Keep a value under a typed key. Not a checkpoint."""
        if self._values is None:
            self._values = {}
        self._values[key] = value

    def get_state(self, key: StateKey[T], default: T = _MISSING) -> T:
        """Return the value under a typed key. Not a checkpoint.

        Raises:
            KeyError: There is none, and no default was given.
        """
        value: T = (self._values or {}).get(key, default)
        if value is _MISSING:
            raise KeyError(key)
        return value

    # Its clocks.

    def touch(self) -> None:
        """Record that something happened that counts as activity. Not a checkpoint."""
        self._touch()

    def renew(self, lifetime: float | None = None) -> None:
        """Let the session live for another lifetime from now on. Not a checkpoint.

        Args:
            lifetime: Seconds; `CleanupConfig.max_session_time` by default.

        Raises:
            SessionTerminated: The session ends or has ended.
            ValueError: ``lifetime`` is not positive.
        """
        self._check_live()
        lifetime = self._clocks.max_session_time if lifetime is None else lifetime
        if not lifetime > 0:
            raise ValueError(f"lifetime must be more than 0 seconds, not {lifetime!r}")
        self._expires_at = trio.current_time() + lifetime
        self._expiry_announced = False
        self._manager._store._watcher.watch(self)

    # Its end.

    def terminate(self, reason: TerminationReason = TerminationReason.REQUESTED) -> None:
        """Let the session end. Not a checkpoint.

        It may be called any number of times, from anywhere, also from the session's own tasks;
        the first reason stays. Peers do not know the session from this moment on; the rest
        happens in the session's own task.
        """
        if self._reason is None:
            self._reason = reason
            self._move(SessionState.TERMINATING)
            for scope in (self._entering, self._body):
                if scope is not None:
                    scope.cancel(reason=f"session ends: {reason.value}")
            self._wake()

    async def wait_terminated(self) -> TerminationReason:
        """Wait until nothing of the session is left, and return why it ended.

        A checkpoint. When cancelled, it stops waiting, and changes nothing.

        Raises:
            RuntimeError: The session itself runs the calling task, and would wait for itself.
        """
        self._check_not_inside()
        if self._over:
            await trio.lowlevel.checkpoint()
        else:
            if self._ended is None:
                self._ended = trio.Event()
            await self._ended.wait()
        return self._reason_to_end()

    async def _wait_over(self) -> list[KeyboardInterrupt]:
        """Wait as `wait_terminated` does, through cancellations and interrupts; return those."""
        if self._over:
            return []
        if self._ended is None:
            self._ended = trio.Event()
        return await wait_for(self._ended)

    async def drain(self, *, grace: float | None = None) -> drain.DrainReport:
        """Let the session finish what it does, then end it with reason *shutdown*.

        New requests are refused at once; running requests, work tasks and leases have until the
        grace is over, and service tasks until these are done. A checkpoint. When cancelled, it
        stops waiting; the session stays closed to new requests.

        Args:
            grace: Seconds; `CleanupConfig.drain_grace` by default.

        Returns:
            What became of it. It comes within the grace and the budgets of the clean-up, even
            where user code refuses to end: then the session is listed as overran.

        Raises:
            RuntimeError: The session itself runs the calling task.
        """
        self._check_not_inside()
        return await drain.drain(
            [self], self._clocks.drain_grace if grace is None else grace, self._clocks
        )
