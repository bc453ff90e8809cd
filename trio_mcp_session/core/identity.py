"""The participants of a session: the client, the server, the principal, the transport."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import attrs

from .ids import SessionId, short_hash


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


@attrs.frozen(kw_only=True)
class ServerInfo:
    """The name and version of the server (MCP ``serverInfo``)."""

    name: str
    """Programmatic name of the server."""

    version: str
    """Version of the server."""

    title: str | None = None
    """Name for people; sent from 2025-06-18 on."""


@attrs.frozen(cache_hash=True)
class Principal:
    """The authenticated user or program that a session or request is made for.

    Two principals are equal if subject and issuer are: a refreshed token is the same principal.
    """

    subject: str
    """The authenticated subject, for example a token's ``sub`` or a Unix user id."""

    issuer: str = ""
    """The authority that authenticated the subject, for example a token's ``iss``."""


_CONNECTION: Final = "a connection"
"""The issuer of principals for clients without authentication: each connection is one."""


def principal_of_connection(session_id: SessionId) -> Principal:
    """Return the principal of a client without authentication, from the id of its session.

    The id is hashed, because it can be a secret, and principals are not treated as secrets.
    """
    return Principal(hashlib.sha256(session_id.encode()).hexdigest(), _CONNECTION)


def hash_of_principal(principal: Principal | None) -> str | None:
    """Return a short hash of an authenticated principal, for logs; None if there is none."""
    if principal is None or principal.issuer == _CONNECTION:
        return None
    return short_hash(f"{principal.issuer}\n{principal.subject}")


@attrs.frozen
class Transport:
    """A description of the transport of a session, for people and for filters."""

    name: str
    """``stdio``, ``tcp``, ``unix``, ``stream``, ``http``, ``memory`` or ``application``."""

    peer: str = ""
    """The address of the client, if the transport has addresses."""
