"""What the connections of one server have in common."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, Final, final

import attrs
import trio

from ..asgi import ASGIApplication
from ..refusal_log import RefusalLog
from .deadlines import Sweeper
from .limits import HttpServerLimits
from .request_refused import RequestRefused
from .wire import Wire

_logger: Final = logging.getLogger("trio_mcp_session.http")

_OPTIONS: Final = {
    HTTPStatus.REQUEST_TIMEOUT: "header_timeout, body_timeout, min_body_rate",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "max_body_size, max_chunks",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "max_header_size, max_headers",
}
"""The limits that a status stands for."""


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
    _refusals: RefusalLog = attrs.field(factory=lambda: RefusalLog(_logger), init=False)

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

    def report(self, refusal: RequestRefused, client: object, *, request: str = "") -> None:
        """Log a refused request, or count it.

        Args:
            refusal: What the client gets.
            client: The client's address, as ASGI has it.
            request: The method and the path, if they could be read.
        """
        where = f" from {client[0]}" if isinstance(client, tuple) else ""
        options = _OPTIONS.get(refusal.status)
        self._refusals.report(
            f"HTTP {refusal.status.value}",
            refusal.reason,
            f"{request or 'a request'}{where}",
            hint="" if options is None else f"the options of HttpServerLimits: {options}",
        )

    def stop(self) -> None:
        """Take no further requests: close idle connections, let running requests be answered."""
        self.stopping = True
        for wire in self._wires:
            wire.wake()
