"""Where the modern requests of a connection run (2026-07-28).

They stand for themselves: they need no handshake, see no session, and come before one, after it or
beside it on the same connection. What they have in common is that they end with the connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, final

import attrs
import trio

if TYPE_CHECKING:
    from .session import Session


@final
@attrs.define(eq=False)
class StatelessRoom:
    """A nursery beside the one of a connection's session, which opens at the handshake only.

    It is kept by a task of its own, in the manager's house, and closed by the session's.
    """

    _session: Session
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _early: list[Callable[[trio.Nursery], None]] = attrs.field(
        factory=list[Callable[[trio.Nursery], None]], init=False
    )
    _closed: trio.Event = attrs.field(factory=trio.Event, init=False)

    @property
    def tasks(self) -> frozenset[trio.lowlevel.Task]:
        """The tasks that run here."""
        return frozenset() if self._nursery is None else self._nursery.child_tasks

    def open(self) -> None:
        """Start the task that keeps it. Not a checkpoint."""
        manager = self._session._manager
        manager._context.run(
            partial(manager._house.start_soon, self._keep, name="stateless requests")
        )

    def _spawn(self, async_fn: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        def start(nursery: trio.Nursery) -> None:
            self._context().run(partial(nursery.start_soon, async_fn, *args, name=name))

        if self._nursery is None:
            self._early.append(start)
        else:
            start(self._nursery)

    def _context(self) -> Context:
        return self._session._manager._context.copy()

    async def _keep(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    for start in self._early:
                        start(self._nursery)
                    self._early.clear()
                    await trio.sleep_forever()
        finally:
            self._closed.set()

    async def close(self) -> None:
        """Cancel what runs here, and wait for it. A checkpoint."""
        self._scope.cancel(reason="connection ends")
        await self._closed.wait()
