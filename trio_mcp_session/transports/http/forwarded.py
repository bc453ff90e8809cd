"""The hosts that trusted proxies name: ``X-Forwarded-Host``, and ``Forwarded`` (RFC 7239)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ..asgi import Scope
from .trusted_proxies import TrustedProxies

_PAIR: Final = re.compile(r'([A-Za-z]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]*)')
_ESCAPED: Final = re.compile(r"\\(.)")


def forwarded_hosts(proxies: TrustedProxies, scope: Scope) -> list[str]:
    """Return every host that a request of a trusted proxy names, the nearest proxy's last.

    A client can send these headers, too, and a proxy may add to them. So the caller has to check
    all of the hosts. Where ``Forwarded`` is malformed, these can be more than it means.

    Args:
        proxies: The proxies whose requests may name hosts.
        scope: The request.
    """
    client = scope.get("client")
    if not proxies._trusts("" if client is None else str(client[0])):
        return []
    hosts = list(_hosts_of_elements(scope))
    for value in _values(scope, b"x-forwarded-host"):
        hosts += [one.strip() for one in value.split(",")]
    return hosts


def _hosts_of_elements(scope: Scope) -> Iterator[str]:
    for value in _values(scope, b"forwarded"):
        for name, text in _PAIR.findall(value):
            if name.lower() == "host":
                yield _ESCAPED.sub(r"\1", text[1:-1]) if text.startswith('"') else text


def _values(scope: Scope, name: bytes) -> Iterator[str]:
    for field, value in scope["headers"]:
        if field == name:
            yield value.decode("latin-1")
