"""Held contexts of a session that has no nursery yet: in another nursery, around that.

Hooks and lifespans may have the session hold contexts, and so may other tasks, before the client's
handshake, which may never come. The session's task opens a nursery for them when the first one
comes, around all that follows. Most sessions never do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, final

import attrs
import trio

if TYPE_CHECKING:
    pass


@final
@attrs.define(eq=False)
class EarlyTasks:
    """Starts tasks in that nursery, as soon as it is open. Nothing here is a checkpoint."""

    nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    """The nursery, while it is open."""

    _waiting: list[Callable[[], None]] = attrs.field(factory=list[Callable[[], None]], init=False)

    @property
    def is_waiting(self) -> bool:
        """Whether a task waits for the nursery."""
        return bool(self._waiting)

    def open(self, nursery: trio.Nursery) -> None:
        """Start what waits, and from now on everything, in this nursery."""
        self.nursery = nursery
        waiting, self._waiting = self._waiting, []
        for start in waiting:
            start()

    def start(
        self,
        context: Context,
        async_fn: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
        name: str,
    ) -> None:
        """Start a task, or note it for the moment when the nursery is open."""
        if self.nursery is None:
            self._waiting.append(partial(self.start, context, async_fn, args, name))
        else:
            context.run(partial(self.nursery.start_soon, async_fn, *args, name=name))
