"""The MCP endpoint as an ASGI application: from a request to the session that it belongs to.

The order of the checks is that of the protocol's decision table for HTTP: verb, origin,
authentication, limits, media types, JSON, version, session. Each may refuse; what passes all of
them is served by the session. Nothing is looked up before the client is authenticated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from msgspec import UnsetType

from ...core.ids import SessionKind
from ...protocol.eras import ServedEras
from ...protocol.error_codes import INTERNAL_ERROR
from ...protocol.jsonrpc import RequestId
from ...protocol.revisions import STATELESS_REVISIONS
from ..asgi import Receive, Scope, Send
from .authentication import Authenticate, principal_of
from .body import ClientLeft
from .headers import RequestHeaders, read_headers
from .http_error import HttpError
from .http_options import HttpOptions
from .http_request import HttpRequest
from .origin import OriginPolicy
from .ticker import Ticker

if TYPE_CHECKING:
    from ...sessions.manager import SessionManager
    from ...sessions.session import Session

WATCH_AFTER: Final = 0.1
"""Seconds after which a stateless request is watched for a client that has left: most answers are
sooner."""


class Serve(Protocol):
    """What serves the requests of one HTTP method, after the first checks."""

    async def __call__(self, endpoint: Endpoint, request: HttpRequest) -> None:
        """Answer a request.

        Raises:
            HttpError: It is answered with this.
            ClientLeft: The client has left; there is nothing to answer.
        """
        ...


@final
class Endpoint:
    """One MCP endpoint. Made by `http_app`.

    What serves each HTTP method is given to it: those modules work with the endpoint.
    """

    def __init__(
        self,
        manager: SessionManager,
        *,
        path: str | None,
        authenticate: Authenticate | None,
        origins: OriginPolicy,
        options: HttpOptions,
        eras: ServedEras,
        methods: Mapping[str, Serve],
    ) -> None:
        self.manager: Final = manager
        self.options: Final = options
        self.eras: Final = eras
        self.ticker: Final = Ticker(
            manager,
            min(
                options.keep_alive,
                options.stream_after,
                options.event_store_timeout,
                manager.config.cleanup.send_timeout,
            ),
        )
        if path and not path.startswith("/"):
            raise ValueError(f"path must begin with a slash: {path!r}")
        self.stateless_ticker: Final = Ticker(manager, 2 * WATCH_AFTER)
        self.retry_after: Final = (b"retry-after", b"%d" % options.retry_after)
        self._path: Final = None if path is None else path.rstrip("/")
        self._authenticate: Final = authenticate
        self._origins: Final = origins
        self._methods: Final = methods

    def __repr__(self) -> str:
        return f"<Endpoint {self._path!r} of {self.manager!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: a request, or the server's own life."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await _serve_lifespan(receive, send)
            case other:
                raise NotImplementedError(f"MCP is not spoken over {other}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = await self._accept(scope, receive, send)
            await self._methods[scope["method"]](self, request)
        except HttpError as error:
            self.manager._counters.http_refused[error.status] += 1
            with suppress(OSError):  # The client may have left.
                await error.send(send)
        except ClientLeft:
            pass

    async def _accept(self, scope: Scope, receive: Receive, send: Send) -> HttpRequest:
        """Check what can be checked before the body is read, and authenticate the client."""
        if self._path is not None and _route(scope) != self._path:
            raise HttpError(404, "Not found")
        if scope["method"] not in self._methods:
            raise _not_allowed(self._methods if self.eras.legacy else ("POST",))
        headers = read_headers(scope["headers"])
        if scope["method"] != "POST" and self._has_no_sessions(headers):
            # There is neither a stream to open nor a session to end.
            raise _not_allowed(("POST",))
        self._origins.check(scope, headers)
        principal = None
        if self._authenticate is not None or "user" in scope:
            principal = await principal_of(scope, self._authenticate)
        return HttpRequest(scope, headers, principal, receive, send)

    def _has_no_sessions(self, headers: RequestHeaders) -> bool:
        """Return whether there are no sessions for a client: by its version, or by ``eras``."""
        speaks_modern = headers.protocol_version in STATELESS_REVISIONS
        return not self.eras.legacy or (self.eras.modern and speaks_modern)

    def session_of(self, request: HttpRequest) -> Session:
        """Return the session that a request names.

        Raises:
            HttpError: 400 where it names none; 404 where there is no such session, or it belongs to
                another principal.
        """
        session_id = request.headers.session_id
        if session_id is None or "session_id" in request.headers.repeated:
            raise HttpError(400, "Mcp-Session-Id is missing, or there is more than one")
        session = self.manager.get_session(session_id, kind=SessionKind.HEADER)
        if session is None or session.principal != request.principal:
            raise HttpError(404, "Session not found")
        return session

    def unavailable(self, why: str, request_id: RequestId | UnsetType) -> HttpError:
        """Return the error of a request that a limit does not admit now."""
        return HttpError(
            503,
            why,
            code=INTERNAL_ERROR,
            request_id=request_id,
            headers=[self.retry_after],
        )


def _not_allowed(methods: Iterable[str]) -> HttpError:
    return HttpError(405, "Method not allowed", headers=[(b"allow", ", ".join(methods).encode())])


def _route(scope: Scope) -> str:
    """Return the path below the one that the application is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if path == root or path.startswith(f"{root}/"):  # Some servers leave it out of the path.
        path = path[len(root) :]
    return path.rstrip("/")


async def _serve_lifespan(receive: Receive, send: Send) -> None:
    """Answer the server's start and end. The manager is opened and left elsewhere."""
    while True:
        message: Any = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
