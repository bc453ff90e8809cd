"""`BearerAuth`: a protected resource of OAuth 2 (RFC 6750, RFC 9728)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NoReturn, TypeAlias, final
from urllib.parse import urlsplit

from ...core.identity import Principal
from ...core.scopes import checked_scopes
from ...protocol.jsonrpc import encode_json
from ..asgi import Receive, Scope, Send
from .authentication import AuthenticationFailed, checked_principal
from .authenticator import serve_document
from .challenges import challenge
from .json_response import respond

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
"""Where RFC 9728 puts the metadata; the path of the resource follows."""

VerifyToken: TypeAlias = Callable[[str], Awaitable[Principal | None]]
"""Returns the principal of a valid token, with its scopes; None for an invalid one."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_URL: Final = re.compile(r"[!#-\[\]-~]+")


@final
class BearerAuth:
    """An ``authenticate`` hook for bearer tokens, with metadata and challenges for OAuth clients.

    Each request needs a token in the header ``Authorization``. The endpoint serves the metadata of
    the protected resource (RFC 9728) without a token, at the well-known path with the path of the
    resource behind it and at the one without, as 2025-06-18 and later want it. It is not an
    authorization server.

    Args:
        verify: An async function that returns the principal of a token, or None if the token is
            invalid. It must accept only tokens for this server. `JwtVerifier` is one. It may raise
            `AuthenticationFailed`, with status 503 if it cannot check tokens now.
        resource: The public URL of the MCP endpoint, such as ``https://example.com/mcp``. None: no
            metadata is served, for tokens that clients get in another way.
        authorization_servers: The issuers that clients get tokens from; by default the issuer of a
            `JwtVerifier`.
        scopes: Scopes that every request needs. Text is split at spaces.
        scopes_supported: Scopes for basic use, in the metadata; by default ``scopes``.
        resource_name: A name for people, in the metadata.
        resource_documentation: The URL of a page for developers, in the metadata.

    Raises:
        ValueError: ``resource`` is not an absolute URL without query and fragment,
            ``authorization_servers`` are missing, or a scope is malformed.
    """

    def __init__(
        self,
        verify: VerifyToken,
        *,
        resource: str | None = None,
        authorization_servers: Iterable[str] | None = None,
        scopes: str | Iterable[str] = (),
        scopes_supported: str | Iterable[str] | None = None,
        resource_name: str | None = None,
        resource_documentation: str | None = None,
    ) -> None:
        self._verify: Final = verify
        self.scopes: Final = checked_scopes(scopes)
        """The scopes that every request needs."""
        self.metadata_url: Final = None if resource is None else metadata_url_of(resource)
        """The address of the metadata; None without ``resource``."""
        if authorization_servers is None:
            issuer = getattr(verify, "issuer", None)
            authorization_servers = () if issuer is None else (issuer,)
        servers = list(authorization_servers)
        supported = self.scopes if scopes_supported is None else checked_scopes(scopes_supported)
        if resource is not None and not servers:
            raise ValueError(
                "resource needs authorization_servers: clients get their tokens from one of them"
            )
        metadata = {
            "resource": resource,
            "authorization_servers": servers,
            "scopes_supported": list(supported) or None,
            "bearer_methods_supported": ["header"],
            "resource_name": resource_name,
            "resource_documentation": resource_documentation,
        }
        document = encode_json({name: one for name, one in metadata.items() if one is not None})
        url = self.metadata_url
        paths = () if url is None else (urlsplit(url).path, WELL_KNOWN)
        self.documents: Final[Mapping[str, bytes]] = dict.fromkeys(paths, document)
        """The metadata, by the paths that it is served at."""

    def __repr__(self) -> str:
        return f"<BearerAuth of {self.metadata_url!r}>"

    async def __call__(self, _scope: Scope, headers: Mapping[str, str]) -> Principal:
        """Return the principal of a request. A checkpoint if ``verify`` is one.

        Raises:
            AuthenticationFailed: 401, the token is missing or invalid; 400, the header is
                malformed; 403, a scope is missing; or what ``verify`` raised.
        """
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            self._refuse(401, "This server needs a bearer token")
        token = token.strip(" ")
        if not _TOKEN.fullmatch(token):
            self._refuse(400, "The Authorization header is malformed", "invalid_request")
        principal = None
        try:
            principal = checked_principal(await self._verify(token), "verify")
        except AuthenticationFailed as failure:
            if failure.status != 401 or failure.www_authenticate is not None:  # noqa: PLR2004
                raise
            self._refuse(401, failure.message, "invalid_token")
        if principal is None:
            self._refuse(401, "The token is invalid or has expired", "invalid_token")
        if not principal.scopes.issuperset(self.scopes):
            self._refuse(403, "The token lacks a scope", "insufficient_scope")
        return principal

    async def metadata_app(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Serve the metadata: an ASGI application, for an endpoint that is mounted somewhere.

        Mount it at ``/.well-known/oauth-protected-resource`` of the host. Without a mount, the
        endpoint serves the metadata itself.
        """
        document = self.documents.get(scope["path"].rstrip("/"))
        if document is None:
            await respond(send, 404)
        else:
            await serve_document(document, scope, send)

    def _refuse(self, status: int, message: str, error: str | None = None) -> NoReturn:
        raise AuthenticationFailed(
            message,
            status=status,
            www_authenticate=challenge(
                metadata_url=self.metadata_url,
                scopes=self.scopes,
                error=error,
                description=None if error is None else _plain(message),
            ),
        ) from None


def metadata_url_of(resource: str) -> str:
    """Return where the metadata of a resource is (RFC 9728, section 3.1). Not a checkpoint.

    Raises:
        ValueError: It is not an absolute URL without query and fragment.
    """
    parts = urlsplit(resource)
    if (
        parts.scheme.lower() not in ("http", "https")
        or not parts.netloc
        or "?" in resource
        or "#" in resource
        or not _URL.fullmatch(resource)
    ):
        raise ValueError(
            f"resource must be the URL of the endpoint, as https://example.com/mcp, without query "
            f"and fragment, not {resource!r}"
        )
    return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path.rstrip('/')}"


def _plain(text: str) -> str:
    """Return text as an ``error_description`` may contain it (RFC 6750, section 3)."""
    return re.sub(r"[^ !#-\[\]-~]", "?", text)
