"""Which web pages may use the server: the checks of ``Origin`` and ``Host``.

A page of a hostile site runs in a browser that can reach this server. Its requests
bear the site's ``Origin``; and where the site's name is made to resolve to this machine (DNS
rebinding), its name as ``Host``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, final
from urllib.parse import urlsplit

import attrs

from ..asgi import Scope
from .headers import RequestHeaders
from .http_error import HttpError

LONGEST_ADDRESS: Final = 45
"""Characters of an IP address, at most."""


@final
@attrs.frozen
class OriginPolicy:
    """Whose requests are taken.

    Args:
        allowed_hosts: Names that ``Host`` may have, ``*`` standing for any letters; with a port
            to insist on it. None: where the server listens on loopback, the names of loopback.
        allowed_origins: What ``Origin`` may be, ``*`` standing for any letters, besides the
            server's own. None: where the server listens on loopback, the pages of this machine.
    """

    allowed_hosts: Collection[str] | None = None
    allowed_origins: Collection[str] | None = None

    def check(self, scope: Scope, headers: RequestHeaders) -> None:
        """Refuse the requests of foreign pages (all revisions, *Streamable HTTP*, Security).

        Raises:
            HttpError: 403.
        """
        if not headers.repeated.isdisjoint({"host", "origin"}):
            raise HttpError(403, "Host and Origin must come once")
        on_loopback = _listens_on_loopback(scope)
        host = "" if headers.host is None else headers.host.lower()
        if not self._host_is_allowed(host, on_loopback=on_loopback):
            raise HttpError(403, "Host is not allowed")
        if headers.origin is not None and not self._origin_is_allowed(
            headers.origin.lower(), host, on_loopback=on_loopback
        ):
            raise HttpError(403, "Origin is not allowed")

    def _host_is_allowed(self, host: str, *, on_loopback: bool) -> bool:
        name = _without_port(host)
        if self.allowed_hosts is not None:
            # An IPv6 address may be written with its brackets or without.
            return any(_fits(one, self.allowed_hosts) for one in (host, name, f"[{name}]"))
        return not on_loopback or _is_loopback(name)

    def _origin_is_allowed(self, origin: str, host: str, *, on_loopback: bool) -> bool:
        # Not the scheme: a proxy in front of the server may have taken TLS off.
        if origin in {f"http://{host}", f"https://{host}"}:
            return True
        if self.allowed_origins is not None:
            return _fits(origin, self.allowed_origins)
        return on_loopback and _is_loopback(_host_name_of(origin))


def _listens_on_loopback(scope: Scope) -> bool:
    """Return whether only this machine can reach the server, and a browser on it."""
    server = scope.get("server")
    if not server or server[1] is None:
        return False  # A Unix socket, which no browser reaches, or nothing is known.
    return _is_loopback(str(server[0]))


def _is_loopback(host: str) -> bool:
    """Return whether a name or an address can mean nothing but this machine."""
    return len(host) <= LONGEST_ADDRESS and _is_loopback_address(host)


@lru_cache(maxsize=64)  # the same few come with every request
def _is_loopback_address(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    # Python detects this for IPv4-mapped IPv6 addresses only since 3.13.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _fits(text: str, patterns: Iterable[str]) -> bool:
    """Return whether it matches one of the patterns, in which only ``*`` is special."""
    return any(
        fnmatchcase(text, pattern.lower().replace("[", "[[]").replace("?", "[?]"))
        for pattern in patterns
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        return name if bracket and rest[:1] in {"", ":"} else host
    return host.partition(":")[0]


def _host_name_of(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""
