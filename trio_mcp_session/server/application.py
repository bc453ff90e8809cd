"""What the server asks of the application that it serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..core.identity import ServerInfo
from ..protocol.jsonrpc import Params
from ..protocol.results import CacheHint
from ..protocol.revisions import Revision

if TYPE_CHECKING:
    from ..sessions.session import Lifespan
    from .request import InFlightRequest


class Application(Protocol):
    """A server program. `Router` is one.

    It may have an attribute ``eras``, which says what clients it is made for: ``both`` (as where
    there is no such attribute), ``legacy`` or ``modern``. See `Router`.
    """

    @property
    def server_info(self) -> ServerInfo:
        """What the server says of itself."""
        ...

    @property
    def instructions(self) -> str | None:
        """How to use the server, for the model; None to say nothing."""
        ...

    @property
    def lifespan(self) -> Lifespan | None:
        """The lifespan of each client's session, if there is one."""
        ...

    def capabilities(self, revision: Revision) -> Mapping[str, Any]:
        """Return the server's capabilities as ``initialize`` tells them in ``revision``."""
        ...

    def handles_request(self, method: str) -> bool:
        """Tell whether `handle` knows requests of this method."""
        ...

    def header_parameters(self, method: str, params: Params) -> Mapping[str, tuple[str, ...]]:
        """Tell which of the arguments HTTP headers have to repeat (from 2026-07-28 on).

        Returns:
            Where in ``params["arguments"]`` each value is, by the name behind ``Mcp-Param-``.
        """
        ...

    def cache_hint(self, method: str) -> CacheHint:
        """Return how long the results of a method may be kept (from 2026-07-28 on)."""
        ...

    def handles_notification(self, method: str) -> bool:
        """Tell whether `handle` wants notifications of this method."""
        ...

    async def handle(self, request: InFlightRequest) -> object:
        """Handle one request (or one notification, whose return value goes nowhere).

        What else it raises, `SystemExit` included, is a crash of this request. Reports of it name
        ``request.handler_name``, where that was set.

        Returns:
            A mapping, an attrs object, a msgspec struct, or None for an empty result.

        Raises:
            McpError: Answer with this error.
        """
        ...
