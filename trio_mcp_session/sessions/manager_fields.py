"""What a manager is made of."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import attrs
import trio

from ..core.construction import NoPublicConstructor
from ..core.errors import SessionRejected
from ..core.metrics import ManagerCounters
from .admission import Admission
from .cleanup import connection_clocks
from .failures import report_or_raise
from .listens import Listens
from .owner import write_log
from .shutdown_deadline import ShutdownDeadline
from .stateless_requests import StatelessRequests
from .store import SessionStore
from .subscriptions import Subscribers
from .tasks import name_of

if TYPE_CHECKING:
    from ..core.config import CleanupConfig, SessionConfig
    from .application import Application
    from .hooks import SessionHooks


@attrs.define(eq=False, repr=False)
class ManagerFields(metaclass=NoPublicConstructor):
    """The fields of a manager. Those with an underscore are for this package only."""

    application: Application | None
    """The program that the sessions' clients are served by."""

    config: SessionConfig
    """Its limits and clocks."""

    _hooks: tuple[SessionHooks, ...] = attrs.field(alias="hooks")
    _house: trio.Nursery = attrs.field(alias="house")
    _context: Context = attrs.field(factory=copy_context, init=False)
    _store: SessionStore = attrs.field(init=False)
    _admission: Admission = attrs.field(init=False)
    _subscribers: Subscribers = attrs.field(factory=Subscribers, init=False)
    _counters: ManagerCounters = attrs.field(factory=ManagerCounters, init=False)
    _stateless: StatelessRequests = attrs.field(
        default=attrs.Factory(StatelessRequests, takes_self=True), init=False
    )
    _listens: Listens = attrs.field(default=attrs.Factory(Listens, takes_self=True), init=False)
    _connection_clocks: Callable[[float], CleanupConfig] = attrs.field(init=False)
    """The clocks of connections, by what their transport decides: the same object for all."""
    _retiring: bool = attrs.field(default=False, init=False)
    _unused: trio.Event | None = attrs.field(default=None, init=False)
    """Set when nothing is left that a retiring manager waits for."""
    _told_of_eras: bool = attrs.field(default=False, init=False)
    _draining: bool = attrs.field(default=False, init=False)
    _shutdown: ShutdownDeadline = attrs.field(factory=ShutdownDeadline, init=False)
    _drained: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._store = SessionStore(config=self.config)
        self._admission = Admission(self._store, self.config.limits)
        self._connection_clocks = lru_cache(maxsize=8)(
            partial(connection_clocks, self.config.cleanup)
        )

    # For those who live in it.

    def _served(self) -> Application:
        if self.application is None:
            raise RuntimeError("the session manager was opened without an application to serve")
        return self.application

    def _host(self, async_fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a connection of this process beside its session. It ends by itself with it."""
        start = partial(self._house.start_soon, name=name_of(async_fn))
        self._context.run(start, self._contain, async_fn, *args)

    async def _contain(self, async_fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task of no session: what fails in it is logged, and ends nothing else."""
        try:
            running = async_fn(*args)
            del args  # Every idle connection would keep them.
            await running
        except BaseException as error:  # noqa: BLE001  # raised again, as far as it has to go on
            report_or_raise(error, self._task_failed)

    def _task_failed(self, error: Exception) -> None:
        if isinstance(error, SessionRejected):
            return  # Of a client in memory, which has been told; the manager counts it.
        write_log(logging.ERROR, "%s: a task of the manager failed", repr(self), error=error)

    def _begin_shutdown(self, timeout: float | None = None) -> None:
        """Set the moment by which all must be over, or bring it closer. Not a checkpoint.

        Args:
            timeout: Seconds from now; `CleanupConfig.shutdown_timeout` by default.
        """
        if timeout is None:
            timeout = self.config.cleanup.shutdown_timeout
        if timeout is not None:
            self._shutdown.begin(timeout)

    def _is_unused(self) -> bool:
        """Return whether a retiring manager has nothing left to wait for."""
        return not (
            len(self._store)
            or len(self._listens)
            or self._stateless.busy
            or self._admission.reserved
        )

    def _check_unused(self) -> None:
        """Wake what waits in `retire`, if nothing is left. Called when something has ended."""
        if self._unused is not None and self._is_unused():
            self._unused.set()
            self._unused = None

    @property
    def _is_left(self) -> bool:
        """Whether nothing can be run here any more."""
        return self._house.cancel_scope.cancel_called
