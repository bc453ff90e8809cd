"""What a manager is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING

import attrs
import trio

from ..core.construction import NoPublicConstructor
from ..core.metrics import ManagerCounters
from .admission import Admission
from .listens import Listens
from .stateless_requests import StatelessRequests
from .store import SessionStore
from .subscriptions import Subscribers

if TYPE_CHECKING:
    from ..core.config import SessionConfig
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
    _told_of_eras: bool = attrs.field(default=False, init=False)
    _draining: bool = attrs.field(default=False, init=False)
    _drained: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._store = SessionStore(config=self.config)
        self._admission = Admission(self._store, self.config.limits)

    # For those who live in it.

    def _served(self) -> Application:
        if self.application is None:
            raise RuntimeError("the session manager was opened without an application to serve")
        return self.application

    def _host(self, async_fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a connection of this process beside its session. It ends by itself with it."""
        self._context.run(self._house.start_soon, async_fn, *args)

    @property
    def _is_left(self) -> bool:
        """Whether nothing can be run here any more."""
        return self._house.cancel_scope.cancel_called
