"""Calls the ``authenticate`` hook within its budget, and serves its public documents."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final, final

import trio

from ...protocol.error_codes import INTERNAL_ERROR
from ..asgi import Scope, Send
from .authentication import Authenticate, principal_of
from .challenges import ProtectedResource
from .http_error import HttpError
from .json_response import JSON, Header, respond

if TYPE_CHECKING:
    from ...core.identity import Principal
    from .http_options import HttpOptions

_PUBLIC: Final[tuple[Header, ...]] = (
    # Programs in browsers have to read it before they have a token.
    (b"access-control-allow-origin", b"*"),
    (b"cache-control", b"public, max-age=300"),
)


@final
class Authenticator:
    """The hook of one endpoint."""

    def __init__(
        self, authenticate: Authenticate | None, options: HttpOptions, retry_after: Header
    ) -> None:
        self._authenticate: Final = authenticate
        self._timeout: Final = inf if authenticate is None else options.authenticate_timeout
        self._retry_after: Final = retry_after
        hook: object = authenticate
        self.documents: Final[Mapping[str, bytes]] = (
            hook.documents if isinstance(hook, ProtectedResource) else {}
        )
        """The documents that are served without authentication, by path."""

    async def principal_of(self, scope: Scope) -> Principal | None:
        """Return the principal of a request. A checkpoint if the hook is one.

        Raises:
            HttpError: The hook refused or failed, or took too long (503).
        """
        hook, retry_after = self._authenticate, self._retry_after
        if self._timeout == inf:
            return await principal_of(scope, hook, retry_after=retry_after)
        with trio.CancelScope(relative_deadline=self._timeout):
            return await principal_of(scope, hook, retry_after=retry_after)
        raise HttpError(
            503,
            "Authentication took too long",
            code=INTERNAL_ERROR,
            headers=[retry_after],
            hint=f"authenticate ran for {self._timeout:g} s (HttpOptions.authenticate_timeout)",
        )

    async def serve_document(self, scope: Scope, send: Send) -> None:
        """Answer a request for a document. A checkpoint if the server's ``send`` is one."""
        await serve_document(self.documents[scope["path"]], scope, send)


async def serve_document(document: bytes, scope: Scope, send: Send) -> None:
    """Answer a request for a public JSON document."""
    with suppress(OSError):  # The client may have left.
        match scope["method"]:
            case "GET":
                await respond(send, 200, document, (JSON, *_PUBLIC))
            case "HEAD":
                length = (b"content-length", b"%d" % len(document))
                headers = [JSON, *_PUBLIC, length]
                start = {"type": "http.response.start", "status": 200, "headers": headers}
                await send(start)
                await send({"type": "http.response.body", "body": b""})
            case "OPTIONS":
                allowed = (
                    (b"access-control-allow-methods", b"GET"),
                    (b"access-control-allow-headers", b"*"),
                )
                await respond(send, 204, headers=(*_PUBLIC, *allowed))
            case _:
                await respond(send, 405, headers=((b"allow", b"GET, HEAD, OPTIONS"),))
