"""The token verifier of an application of the official SDK or FastMCP, for HTTP endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

import attrs

from ..transports.http.authentication import principal_of_user
from ..transports.http.bearer_auth import BearerAuth
from .cannot_serve import CannotServe
from .sdk_refusals import VERIFY, check_authentication

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..transports.asgi import Scope
    from .sdk_names import Sdk
    from .sdk_server import SdkServer

USER: Final = "trio_mcp_session.sdk_user"
"""The claim that carries their user object from the verifier to the request."""


@final
class SdkAuthentication:
    """The ``authenticate`` hook of an application: its verifier, scopes and metadata.

    Args:
        sdk: The names of their library.
        verifier: Verifies a token: their ``TokenVerifier``.
        scopes: The scopes that every request needs.
        resource: The public URL of the endpoint; None to serve no metadata.
        servers: The authorization servers that clients get tokens from.
        audience: The resource that a token must be for, as their backend takes it; None for any.
        supported: The scopes in the metadata; ``scopes`` by default.
    """

    def __init__(
        self,
        sdk: Sdk,
        verifier: object,
        *,
        scopes: list[str],
        resource: str | None,
        servers: list[str],
        audience: object = None,
        supported: list[str] | None = None,
    ) -> None:
        self._sdk: Final = sdk
        # Before 2.3 they cannot check the audience, and do not have this argument.
        options = {} if audience is None else {"resource_server_url": audience}
        self._backend: Final = sdk.bearer_backend(verifier, **options)
        self._bearer: Final = BearerAuth(
            self._verify,
            resource=resource if servers else None,
            authorization_servers=servers,
            scopes=scopes,
            scopes_supported=supported,
        )

    @property
    def scopes(self) -> tuple[str, ...]:
        """See `ProtectedResource.scopes`."""
        return self._bearer.scopes

    @property
    def metadata_url(self) -> str | None:
        """See `ProtectedResource.metadata_url`."""
        return self._bearer.metadata_url

    @property
    def documents(self) -> Mapping[str, bytes]:
        """See `ProtectedResource.documents`."""
        return self._bearer.documents

    async def __call__(self, scope: Scope, headers: Mapping[str, str]) -> Principal:
        """Return the principal of a request, and leave their user object in its scope.

        A checkpoint if their verifier is one.

        Raises:
            AuthenticationFailed: The token is missing, invalid, or lacks a scope.
        """
        principal = await self._bearer(scope, headers)
        claims = dict(principal.claims)
        user: Any = claims.pop(USER)
        scope["user"] = user
        scope["auth"] = self._sdk.credentials(user.scopes)
        return attrs.evolve(principal, claims=claims)

    async def _verify(self, token: str) -> Principal | None:
        """Return the principal of a token, with their user object; None for an invalid one."""
        # Their backend reads only the header.
        found = await self._backend.authenticate(_Connection(f"Bearer {token}"))
        if found is None:
            return None
        user = found[1]
        principal = principal_of_user(user)
        assert principal is not None  # Their users are authenticated.
        return attrs.evolve(principal, claims={**principal.claims, USER: user})


@final
@attrs.frozen
class _Connection:
    """A request, as their backend reads it."""

    authorization: str

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the request."""
        return {"authorization": self.authorization}


def authentication_of(server: SdkServer) -> SdkAuthentication | None:
    """Return the hook that an application asks for; None if it asks for none. Not a checkpoint.

    Raises:
        CannotServe: Its authentication needs asyncio, or is an authorization server.
    """
    return _of_fastmcp(server) if server.fastmcp is not None else _of_mcp(server)


def _of_mcp(server: SdkServer) -> SdkAuthentication | None:
    app = server.app
    settings = getattr(getattr(app, "settings", None), "auth", None)
    if settings is None:
        return None
    if getattr(app, "_auth_server_provider", None) is not None:
        raise CannotServe(
            "auth_server_provider", "it is an authorization server with pages of its own", VERIFY
        )
    resource = settings.resource_server_url
    checks_audience = getattr(settings, "validate_token_resource", None) and resource is not None
    return SdkAuthentication(
        server.sdk,
        app._token_verifier,
        scopes=list(settings.required_scopes or ()),
        resource=None if resource is None else str(resource),
        servers=[str(settings.issuer_url)],
        audience=resource if checks_audience else None,
    )


def _of_fastmcp(server: SdkServer) -> SdkAuthentication | None:
    auth = getattr(server.app, "auth", None)
    if auth is None:
        return None
    check_authentication(auth)
    servers = [str(one) for one in getattr(auth, "authorization_servers", ())]
    base = getattr(auth, "resource_base_url", None) or getattr(auth, "base_url", None)
    return SdkAuthentication(
        server.sdk,
        auth,
        scopes=list(auth.required_scopes or ()),
        resource=None if base is None else f"{str(base).rstrip('/')}/mcp",
        servers=servers,
        supported=list(getattr(auth, "scopes_supported", None) or ()) or None,
    )
