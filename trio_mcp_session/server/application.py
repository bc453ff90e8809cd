"""The interface of an application that the server serves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..core.identity import ServerInfo
from ..protocol.jsonrpc import Params
from ..protocol.results import CacheHint
from ..protocol.revisions import Revision

if TYPE_CHECKING:
    from ..sessions.manager import ServerLifespan
    from ..sessions.session import Lifespan
    from .request import InFlightRequest


RequiredScopes: TypeAlias = Callable[[str, Params], Collection[str]]
"""Returns the scopes that a request needs, from its method and its parameters."""


def required_scopes_of(application: Application | None) -> RequiredScopes | None:
    """Return the application's function for the scopes of a request, if any. Not a checkpoint."""
    found: RequiredScopes | None = getattr(application, "required_scopes", None)
    return found


def server_lifespans_of(application: Application | None) -> Sequence[ServerLifespan[Any]]:
    """Return the application's lifespans of the whole server, if any. Not a checkpoint."""
    found: Sequence[ServerLifespan[Any]] = getattr(application, "server_lifespans", ())
    return found


class RequestHandler(Protocol):
    """What handles requests: an `Application`, or what stands before one."""

    async def handle(self, request: InFlightRequest) -> object:
        """See `Application.handle`."""
        ...


class Application(Protocol):
    """The program that clients are served by. `Router` is one.

    It may have an attribute ``eras``, the clients that it is made for: ``both`` (the default
    without the attribute), ``legacy`` or ``modern``. See `Router`. It may have a method
    ``required_scopes(method, params)``, which returns the scopes that a request needs: over HTTP a
    request without them is refused before `handle` is called. It may have a method
    ``served_by(manager)``, which is called once for each manager that serves it. It may have a
    method ``target_of(method, params)``, which returns the name of the tool or prompt that a
    request is for, or None: only names that it has (`RequestDetails.target`). It may have an
    attribute ``server_lifespans``: functions that return async context managers, which are entered
    in this order before the first client is accepted, and left when all sessions and requests have
    ended. It may have an attribute ``authenticate``, the hook of its HTTP endpoints that have no
    other one.

    An application that describes itself, such as one of another library, may also have

    - an attribute ``own_methods``: the methods among ``server/discover``, ``subscriptions/listen``,
      ``logging/setLevel``, ``resources/subscribe`` and ``resources/unsubscribe`` that `handle`
      answers, and not the library;
    - a method ``initialize_result(session)``, which returns the result of ``initialize``;
    - an attribute ``needs_sessions``: False if its lifespan is for the library's own use, so that
      requests without a session miss nothing.
    """

    @property
    def server_info(self) -> ServerInfo:
        """The name and version of the server, sent to clients."""
        ...

    @property
    def instructions(self) -> str | None:
        """How to use the server, for the model; None to send nothing."""
        ...

    @property
    def lifespan(self) -> Lifespan | None:
        """The lifespan of the sessions of clients; None for none."""
        ...

    def capabilities(self, revision: Revision) -> Mapping[str, Any]:
        """Return the server's capabilities for ``initialize`` in ``revision``."""
        ...

    def handles_request(self, method: str) -> bool:
        """Return whether `handle` serves requests of this method."""
        ...

    def header_parameters(self, method: str, params: Params) -> Mapping[str, tuple[str, ...]]:
        """Return the arguments that HTTP headers have to repeat (from 2026-07-28 on).

        Returns:
            The path of each value in ``params["arguments"]``, by the name behind ``Mcp-Param-``.
        """
        ...

    def cache_hint(self, method: str) -> CacheHint:
        """Return how long clients may cache the results of a method (from 2026-07-28 on)."""
        ...

    def handles_notification(self, method: str) -> bool:
        """Return whether `handle` takes notifications of this method."""
        ...

    async def handle(self, request: InFlightRequest) -> object:
        """Handle one request, or one notification, whose return value is ignored.

        Any error other than `McpError`, `SystemExit` included, is a crash of this request. Reports
        name ``request.handler_name``, if that was set.

        Returns:
            A mapping, an attrs object, a msgspec struct, or None for an empty result.

        Raises:
            McpError: The request is answered with this error.
        """
        ...
