"""The hosts that trusted proxies name: ``X-Forwarded-Host``, and ``Forwarded`` (RFC 7239)."""

from __future__ import annotations

from ..asgi import Scope
from .forwarded_header import read_forwarded
from .headers import values_of
from .trusted_proxies import TrustedProxies


def forwarded_hosts(proxies: TrustedProxies, scope: Scope) -> list[str]:
    """Return every host that a request of a trusted proxy names, the nearest proxy's last.

    A client can send these headers, too, and a proxy may add to them. So the caller has to check
    all of the hosts. A malformed ``Forwarded`` counts as an empty host, which is in no list.

    Args:
        proxies: The proxies whose requests may name hosts.
        scope: The request.
    """
    client = scope.get("client")
    if not proxies._trusts("" if client is None else str(client[0])):
        return []
    hosts: list[str] = []
    for value in values_of(scope["headers"], b"forwarded"):
        elements = read_forwarded(value)
        if elements is None:
            hosts.append("")
        else:
            hosts += [one["host"] for one in elements if "host" in one]
    for value in values_of(scope["headers"], b"x-forwarded-host"):
        hosts += [one.strip() for one in value.split(",")]
    return hosts
