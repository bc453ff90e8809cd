"""The MCP endpoint as an ASGI application: from a request to the session that it belongs to.

The checks are in the order of the protocol's decision table for HTTP: verb, origin,
authentication, limits, media types, JSON, version, session. Each may refuse; what passes all of
them is served by the session. Nothing is looked up before the client is authenticated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from msgspec import UNSET, UnsetType

from ...core.ids import SessionKind, beginning_of
from ...protocol.eras import ServedEras
from ...protocol.error_codes import INTERNAL_ERROR
from ...protocol.handshake import initialize_too_large
from ...protocol.jsonrpc import RequestId
from ...protocol.revisions import STATELESS_REVISIONS
from ...server.application import required_scopes_of
from ...server.busy import NO_MEMORY
from ...server.mcp_server import server_of
from ...sessions.require_trio import require_trio
from ..asgi import Receive, Scope, Send
from ..refusal_log import RefusalLog
from .authentication import Authenticate
from .authenticator import Authenticator
from .body import ClientLeft
from .cors import answer_preflight, is_preflight, with_cors
from .headers import RequestHeaders, read_headers
from .http_error import MEMORY_OPTIONS, HttpError
from .http_options import HttpOptions
from .http_request import HttpRequest
from .origin import ALLOW_ORIGIN, OriginPolicy
from .refusals import logger, report_refusal
from .ticker import Ticker
from .trusted_proxies import TrustedProxies
from .wrong_node import NodeCheck

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
        self.turns: Final = count(1)
        """Numbers the requests with GET, in the order of arrival."""
        self.retry_after: Final = (b"retry-after", b"%d" % options.retry_after)
        self._path: Final = None if path is None else path.rstrip("/")
        self.authenticate: Final = authenticate
        self.server: Final = server_of(manager)
        """Serves what belongs to no session."""
        self.required_scopes: Final = required_scopes_of(self.server.application)
        self._authenticator: Final = Authenticator(authenticate, options, self.retry_after)
        self._origins: Final = origins
        proxies = options.trusted_proxies
        self._proxies: Final = TrustedProxies(proxies) if proxies else None
        self._methods: Final = methods
        self._serves_sessions: Final = eras.legacy and not options.stateless
        self._refusals: Final = RefusalLog(logger)
        node = manager.config.node
        self.node_check: Final = (
            None if node is None else NodeCheck(node, options.wrong_node_header)
        )
        """Refuses requests of other nodes; None without a label."""

    def __repr__(self) -> str:
        return f"<Endpoint {self._path!r} of {self.manager!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: a request, or the server's own life."""
        require_trio("the application of http_app()")
        if (kind := scope["type"]) == "http":
            await self._serve(scope, receive, send)
        elif kind == "lifespan":
            await _serve_lifespan(receive, send)
        else:
            raise NotImplementedError(f"MCP is not spoken over {kind}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._origins.allowed_origins is not None:
            send = with_cors(self._origins, scope, send)
        if scope["path"] in self._authenticator.documents:
            await self._authenticator.serve_document(scope, send)
            return
        request: HttpRequest | None = None
        try:
            request = await self._accept(scope, receive, send)
            if request is not None:
                await self._methods[scope["method"]](self, request)
        except HttpError as error:
            self.manager._counters.http_refused[error.status] += 1
            if request is not None:
                error.name_request(request.message_id)
            report_refusal(self._refusals, scope, error, self._proxies)
            with suppress(OSError):  # The client may have left.
                await error.send(send)
        except ClientLeft:
            pass

    async def _accept(self, scope: Scope, receive: Receive, send: Send) -> HttpRequest | None:
        """Check what can be checked before the body is read, and authenticate the client.

        None for the preflight of a browser, which is answered here: it has no credentials.
        """
        if self._path is not None and _route(scope) != self._path:
            raise HttpError(404, "Not found", hint=f"MCP is served at {self._path or '/'}")
        if scope["method"] not in self._methods:
            if is_preflight(scope):
                await self._answer_preflight(scope, send)
                return None
            raise _not_allowed(self._methods if self._serves_sessions else ("POST",))
        headers = read_headers(scope["headers"])
        if scope["method"] != "POST" and self._has_no_sessions(headers):
            # There is neither a stream to open nor a session to end.
            raise _not_allowed(("POST",))
        self._origins.check(scope, headers, self._proxies)
        principal = None
        if self.authenticate is not None or "user" in scope:
            principal = await self._authenticator.principal_of(scope)
        return HttpRequest(scope, headers, principal, receive, send, self._proxies)

    async def _answer_preflight(self, scope: Scope, send: Send) -> None:
        """Answer the preflight of a page of an allowed origin.

        Raises:
            HttpError: 403, the origin is not allowed; 405, pages of other origins are not served.
        """
        headers = read_headers(scope["headers"])
        self._origins.check(scope, headers, self._proxies)
        if self._origins.allowed_origins is None:
            raise _not_allowed(
                self._methods, value=headers.origin, hint=f"to accept its pages: {ALLOW_ORIGIN}"
            )
        await answer_preflight(scope, send)

    def _has_no_sessions(self, headers: RequestHeaders) -> bool:
        """Return whether a client gets no session: by its version, or by the settings."""
        speaks_modern = headers.protocol_version in STATELESS_REVISIONS
        return not self._serves_sessions or (self.eras.modern and speaks_modern)

    def session_of(self, request: HttpRequest) -> Session:
        """Return the session that a request names.

        Raises:
            HttpError: 400, it names no session; 404, the session does not exist or belongs to
                another principal; 421, it belongs to another node.
        """
        session = self.find_session(request)
        if session is None:
            session_id = request.headers.session_id or ""
            if self.node_check is not None:
                self.node_check.check_session(request, session_id)
            known = self.manager.get_session(session_id, kind=SessionKind.HEADER)
            raise HttpError(
                404,
                "Session not found",
                # A part: without authentication the whole id gives access.
                value=beginning_of(session_id),
                hint="it has ended, or belongs to another process"
                if known is None
                else "it belongs to another principal",
            )
        return session

    def find_session(self, request: HttpRequest) -> Session | None:
        """Return the session that a request names.

        Returns:
            None if the session does not exist or belongs to another principal.

        Raises:
            HttpError: 400, it names no session, or more than one.
        """
        session_id = request.headers.session_id
        if session_id is None or "session_id" in request.headers.repeated:
            raise HttpError(400, "Mcp-Session-Id is missing, or there is more than one")
        session = self.manager.get_session(session_id, kind=SessionKind.HEADER)
        return None if session is None or session.principal != request.principal else session

    def session_beside(self, request: HttpRequest) -> Session | None:
        """Return the session that a stateless request names, although it needs none."""
        return None if request.headers.session_id is None else self.find_session(request)

    def check_initialize_size(self, size: int, request_id: RequestId) -> None:
        """Refuse ``initialize`` of more bytes than `SessionLimits.max_initialize_size`.

        Raises:
            HttpError: 413.
        """
        limit = self.manager.config.limits.max_initialize_size
        if size > limit:
            error = initialize_too_large(limit)
            raise HttpError(
                413,
                error.message,
                code=error.code,
                request_id=request_id,
                value=str(size),
                hint="the option: SessionLimits.max_initialize_size",
            )

    def unavailable(
        self, why: str, request_id: RequestId | UnsetType = UNSET, size: int | None = None
    ) -> HttpError:
        """Return the error of a request that a limit does not admit now.

        Args:
            why: The error's text.
            request_id: The request's id.
            size: Bytes of the request that have come, for the log.
        """
        return HttpError(
            503,
            why,
            code=INTERNAL_ERROR,
            request_id=request_id,
            headers=[self.retry_after],
            value=None if size is None else str(size),
            hint=MEMORY_OPTIONS if why == NO_MEMORY else "",
        )


def _not_allowed(methods: Iterable[str], *, value: str | None = None, hint: str = "") -> HttpError:
    allowed = ", ".join(methods)
    return HttpError(
        405,
        "Method not allowed",
        headers=[(b"allow", allowed.encode())],
        value=value,
        hint=hint or f"allowed: {allowed}",
    )


def _route(scope: Scope) -> str:
    """Return the path below the one that the application is mounted at."""
    path: str = scope["path"]
    if scope.get("root_path"):
        root: str = scope["root_path"].rstrip("/")
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
