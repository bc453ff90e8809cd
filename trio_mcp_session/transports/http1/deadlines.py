"""One task that looks at the clocks of all connections."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final, final

import attrs
import trio

from ...sessions.arrivals import let_arrive
from .wire import Wire

_INTERVAL: Final = 1.0
"""A scope with a deadline for each wait would cost more than the rest of a request."""


@final
@attrs.define(eq=False, repr=False)
class Sweeper:
    """Closes connections whose deadline has passed; it checks about once a second.

    It sleeps while no connection has a deadline.

    Args:
        wires: Whose clocks they are. After one was added, `start` is called.
    """

    _wires: AbstractSet[Wire] = attrs.field(alias="wires")
    _sleeping: trio.Event | None = attrs.field(default=None, init=False)

    def start(self) -> None:
        """Start again, if it stopped because there were no connections."""
        if self._sleeping is not None:
            self._sleeping.set()
            self._sleeping = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if not self._wires:
                self._sleeping = trio.Event()
                await self._sleeping.wait()
            due = trio.current_time() + _INTERVAL
            await trio.sleep(_INTERVAL)
            await let_arrive(due)
            now = trio.current_time()
            for wire in self._wires:
                if wire.read_deadline <= now or wire.write_deadline <= now:
                    wire.expire(now)
