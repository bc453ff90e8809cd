"""Who takes part in a session: the client, the server, the principal, the transport."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import attrs

from .ids import SessionId


@attrs.frozen(kw_only=True)
class ClientInfo:
    """What a client said of itself when it opened the session (MCP ``clientInfo``).

    It is the client's own word: show it, log it, never decide about rights by it.
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
    """What the server says of itself (MCP ``serverInfo``)."""

    name: str
    """Programmatic name of the server."""

    version: str
    """Version of the server."""

    title: str | None = None
    """Name for people; sent from 2025-06-18 on."""


@attrs.frozen(cache_hash=True)
class Principal:
    """On whose behalf a session was opened, as an authenticated fact.

    Two principals are the same when subject and issuer are: a refreshed token stays its owner.
    """

    subject: str
    """The authenticated subject, for example a token's ``sub`` or a Unix user id."""

    issuer: str = ""
    """Who vouches for the subject, for example a token's ``iss``."""


_CONNECTION: Final = "a connection"
"""Vouches for clients that nobody has authenticated: they are who they are as long as they stay."""


def principal_of_connection(session_id: SessionId) -> Principal:
    """Return whom a client stands for of whom nothing is known but the session that it has.

    The id may be a secret, and principals are not treated as ones: it cannot be told from this.
    """
    return Principal(hashlib.sha256(session_id.encode()).hexdigest(), _CONNECTION)


@attrs.frozen
class Transport:
    """By what a session's client is connected: a description, for people and for filters."""

    name: str
    """``stdio``, ``tcp``, ``unix``, ``stream``, ``http``, ``memory`` or ``application``."""

    peer: str = ""
    """The other side's address where there is one."""
