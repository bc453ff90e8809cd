"""What the connections of one server have in common."""

from __future__ import annotations

from typing import Any, final

import attrs
import trio

from ..asgi import ASGIApplication
from .deadlines import Sweeper
from .limits import HttpServerLimits
from .wire import Wire


@final
@attrs.define(eq=False, repr=False)
class Service:
    """An application and the connections over which it is used.

    Args:
        application: What answers the requests.
        limits: How much of everything there may be.
        state: What the application's lifespan has left for its requests.
    """

    application: ASGIApplication
    limits: HttpServerLimits
    state: dict[str, Any]
    stopping: bool = attrs.field(default=False, init=False)
    sweeper: Sweeper = attrs.field(init=False)
    _wires: set[Wire] = attrs.field(factory=set[Wire], init=False)
    _fewer: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.sweeper = Sweeper(self._wires)

    @property
    def count(self) -> int:
        """How many connections there are."""
        return len(self._wires)

    @property
    def full(self) -> bool:
        """Whether the limit of connections is reached."""
        return len(self._wires) >= self.limits.max_connections

    def add(self, wire: Wire) -> None:
        """Count a connection."""
        self._wires.add(wire)
        self.sweeper.start()

    def discard(self, wire: Wire) -> None:
        """Forget a connection that has ended."""
        self._wires.discard(wire)
        self._fewer.set()

    async def wait_until_fewer(self) -> None:
        """Wait until a connection has ended."""
        if self._fewer.is_set():
            self._fewer = trio.Event()
        await self._fewer.wait()

    def stop(self) -> None:
        """Take no further requests: close idle connections, let running requests be answered."""
        self.stopping = True
        for wire in self._wires:
            wire.wake()
