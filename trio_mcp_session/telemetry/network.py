"""Attributes of the connection that a request came on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from . import names

if TYPE_CHECKING:
    from ..core.identity import Transport

_TRANSPORTS: Final = {"stdio": "pipe", "tcp": "tcp", "unix": "unix", "http": "tcp"}
"""``network.transport`` by the name of a transport. Others, such as memory, have no network."""

_HTTP: Final = "http"


def network_of(
    transport: Transport | None, scope: Mapping[str, Any] | None = None
) -> Mapping[str, str]:
    """Return the attributes ``network.*``, which metrics have, too.

    Args:
        transport: The transport of the session; None without one.
        scope: The ASGI scope of the request; None where the transport is not HTTP.
    """
    if scope is not None:
        server = scope.get("server")
        is_unix = server is not None and server[1] is None
        return _of_http(str(scope.get("http_version", "")), is_unix=is_unix)
    return _of_transport("" if transport is None else transport.name)


@lru_cache(maxsize=16)  # there are few of them
def _of_http(version: str, *, is_unix: bool) -> Mapping[str, str]:
    carrier = "quic" if version.startswith("3") else "tcp"
    found = {
        names.NETWORK_TRANSPORT: "unix" if is_unix else carrier,
        names.NETWORK_PROTOCOL: _HTTP,
    }
    return {**found, names.NETWORK_VERSION: version} if version else found


@lru_cache(maxsize=16)  # as above
def _of_transport(name: str) -> Mapping[str, str]:
    carrier = _TRANSPORTS.get(name)
    found = {} if carrier is None else {names.NETWORK_TRANSPORT: carrier}
    return {**found, names.NETWORK_PROTOCOL: _HTTP} if name == _HTTP else found


def client_of(
    transport: Transport | None, scope: Mapping[str, Any] | None
) -> Mapping[str, str | int]:
    """Return the attributes ``client.*``, for spans only."""
    if scope is None:
        peer = transport.peer if transport is not None and transport.name == "tcp" else ""
        return {names.CLIENT_ADDRESS: peer} if peer else {}
    client = scope.get("client")
    if not client:
        return {}
    found: dict[str, str | int] = {names.CLIENT_ADDRESS: str(client[0])}
    if isinstance(client[1], int):
        found[names.CLIENT_PORT] = client[1]
    return found
