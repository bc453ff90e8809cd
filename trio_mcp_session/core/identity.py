"""The participants of a session: the client, the server, the principal, the transport."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import attrs

from .frozen_mapping import EMPTY, frozen
from .icon import Icon
from .ids import SessionId, short_hash
from .scopes import as_scopes


@attrs.frozen(kw_only=True)
class ClientInfo:
    """The name, version and capabilities that a client declared (MCP ``clientInfo``).

    Clients may declare anything: show it and log it, but do not base access rights on it.
    """

    client_id: str = ""
    """MCP's ``clientInfo.name``."""

    client_version: str = ""
    """MCP's ``clientInfo.version``."""

    capabilities: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """The capabilities that the client declared, as it sent them."""

    metadata: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """The other members of ``clientInfo`` (title, icons, websiteUrl, ...), as sent."""

    @property
    def extensions(self) -> Mapping[str, Any]:
        """The extensions that the client declared, with their settings, by name.

        From 2026-07-28 on each request declares them; clients of earlier revisions may, too.
        """
        declared = self.capabilities.get("extensions")
        return cast("Mapping[str, Any]", declared) if isinstance(declared, Mapping) else EMPTY


def _as_tuple(icons: Iterable[Icon]) -> tuple[Icon, ...]:
    return tuple(icons)


@attrs.frozen(kw_only=True)
class ServerInfo:
    """How the server describes itself (MCP ``serverInfo``)."""

    name: str
    """Programmatic name of the server."""

    version: str
    """Version of the server."""

    title: str | None = None
    """Name for people; sent from 2025-06-18 on."""

    description: str | None = None
    """What the server is for; sent from 2025-11-25 on."""

    website_url: str | None = None
    """Its web page; sent from 2025-11-25 on."""

    icons: tuple[Icon, ...] = attrs.field(default=(), converter=_as_tuple)
    """Its icons; sent from 2025-11-25 on."""


@attrs.frozen(cache_hash=True)
class Principal:
    """The authenticated user or program that a session or request is made for.

    Two principals are equal if subject and issuer are: a refreshed token is the same principal, and
    so is a token with other claims or scopes.
    """

    subject: str
    """The authenticated subject, for example a token's ``sub`` or a Unix user id."""

    issuer: str = ""
    """The authority that authenticated the subject, for example a token's ``iss``."""

    claims: Mapping[str, Any] = attrs.field(
        default=EMPTY, converter=frozen, eq=False, repr=False, kw_only=True
    )
    """What else authentication knows: the claims of a token, or any objects for the handlers.

    Read-only, with all mappings and lists in it; lists become tuples. They belong to one request,
    or to one connection: sessions and handles do not keep them."""

    scopes: frozenset[str] = attrs.field(
        default=frozenset(), converter=as_scopes, eq=False, repr=False, kw_only=True
    )
    """The scopes of the token, for tools that need some. Text is split at spaces."""

    @property
    def identity(self) -> Principal:
        """The same principal without claims and scopes: what sessions and handles keep."""
        if not self.claims and not self.scopes:
            return self
        return attrs.evolve(self, claims=EMPTY, scopes=frozenset())


_CONNECTION: Final = "a connection"
"""The issuer of principals for clients without authentication: each connection is one."""


def principal_of_connection(session_id: SessionId) -> Principal:
    """Return the principal of a client without authentication, from the id of its session.

    The id is hashed, because it can be a secret, and principals are not treated as secrets.
    """
    return Principal(hashlib.sha256(session_id.encode()).hexdigest(), _CONNECTION)


def is_authenticated(principal: Principal) -> bool:
    """Return whether a principal is not just that of a client without authentication."""
    return principal.issuer != _CONNECTION


def hash_of_principal(principal: Principal | None) -> str | None:
    """Return a short hash of an authenticated principal, for logs; None if there is none."""
    if principal is None or not is_authenticated(principal):
        return None
    return short_hash(f"{principal.issuer}\n{principal.subject}")


@attrs.frozen
class Transport:
    """A description of the transport of a session, for people and for filters."""

    name: str
    """``stdio``, ``tcp``, ``unix``, ``stream``, ``http``, ``memory`` or ``application``."""

    peer: str = ""
    """The address of the client, if the transport has addresses."""
