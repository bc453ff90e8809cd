"""Which web pages may use the server: the checks of ``Origin`` and ``Host``.

A page of a hostile site runs in a browser that can reach this server. Its requests
bear the site's ``Origin``; and where the site's name is made to resolve to this machine (DNS
rebinding), its name as ``Host``.

So a request is accepted by the address that the server *listens* on, which is the same for every
connection of one listener:

- On a loopback address only the names of loopback are hosts of this server, unless it has a list.
- Elsewhere every host is accepted, as other programs use the server by any name. But the host of a
  request with an ``Origin``, which comes from a web page, must be an address or in the list:
  otherwise a page can rebind its own name to this server's address.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, final
from urllib.parse import urlsplit

import attrs

from ...core.peer import read_address
from ..asgi import Scope
from .forwarded import forwarded_hosts
from .headers import RequestHeaders
from .http_error import HttpError
from .trusted_proxies import TrustedProxies

ALLOW_HOST: Final = "allowed_hosts, --http-host"
"""The options that allow a ``Host``: of `http_app`, and of the command."""

ALLOW_ORIGIN: Final = "allowed_origins, --http-origin"
"""The options that allow an ``Origin``."""

LONGEST_ADDRESS: Final = 45
"""Characters of an IP address, at most."""


@final
@attrs.define
class OriginPolicy:
    """Whose requests are taken.

    Args:
        allowed_hosts: Names that ``Host`` may have, ``*`` standing for any letters; with a port
            to insist on it. None: where the server listens on loopback, the names of loopback;
            elsewhere any, and for web pages any address.
        allowed_origins: What ``Origin`` may be, ``*`` standing for any letters, besides the
            server's own. None: where the server listens on loopback, the pages of this machine.
    """

    allowed_hosts: Collection[str] | None = None
    allowed_origins: Collection[str] | None = None
    _accepted: tuple[str | None, object] | None = attrs.field(
        default=None, init=False, eq=False, repr=False
    )
    """The host of the last request that came from no page and no proxy, and the server's address:
    most requests have the same.
    """

    def check(
        self, scope: Scope, headers: RequestHeaders, proxies: TrustedProxies | None = None
    ) -> None:
        """Refuse the requests of foreign pages (all revisions, *Streamable HTTP*, Security).

        Args:
            scope: The request.
            headers: Its headers.
            proxies: The proxies that may name the host in ``Forwarded`` or ``X-Forwarded-Host``. It
                counts instead of ``Host``, and as the host of a server that is not on loopback.

        Raises:
            HttpError: 403.
        """
        is_direct = headers.origin is None and proxies is None and not headers.repeated
        if is_direct and self._accepted == (headers.host, scope.get("server")):
            return
        if not headers.repeated.isdisjoint({"host", "origin"}):
            raise HttpError(
                403,
                "Host and Origin must come once",
                value=f"{headers.host} {headers.origin}",
                hint="a proxy may have added one",
            )
        from_page = headers.origin is not None
        on_loopback = _listens_on_loopback(scope)
        host = "" if headers.host is None else headers.host.lower()
        if proxies is not None and (named := forwarded_hosts(proxies, scope)):
            on_loopback = False
            # All of them: a proxy that adds to what its client has sent must not be deceived.
            for one in named:
                host = one.lower()
                if not self._host_is_allowed(host, on_loopback=False, from_page=from_page):
                    raise _host_refused(host)
        elif not self._host_is_allowed(host, on_loopback=on_loopback, from_page=from_page):
            raise _host_refused(host)
        if headers.origin is not None and not self._origin_is_allowed(
            headers.origin.lower(), host, on_loopback=on_loopback
        ):
            raise HttpError(
                403,
                f"Origin is not allowed (option of the server: {ALLOW_ORIGIN})",
                value=headers.origin,
                hint=f"to accept it: {ALLOW_ORIGIN}",
            )
        if is_direct:
            self._accepted = (headers.host, scope.get("server"))

    def lists(self, origin: str) -> bool:
        """Return whether an ``Origin`` is one of ``allowed_origins``. Not a checkpoint."""
        return self.allowed_origins is not None and _fits(origin.lower(), self.allowed_origins)

    def _host_is_allowed(self, host: str, *, on_loopback: bool, from_page: bool) -> bool:
        name = _without_port(host)
        if self.allowed_hosts is not None:
            # An IPv6 address may be written with its brackets or without.
            return any(_fits(one, self.allowed_hosts) for one in (host, name, f"[{name}]"))
        if on_loopback:
            return _is_loopback(name)
        # No site can rebind an address, nor the name that browsers resolve themselves.
        return not from_page or _is_address(name) or _is_loopback(name)

    def _origin_is_allowed(self, origin: str, host: str, *, on_loopback: bool) -> bool:
        # Not the scheme: a proxy in front of the server may have taken TLS off.
        if origin in {f"http://{host}", f"https://{host}"}:
            return True
        if self.allowed_origins is not None:
            return _fits(origin, self.allowed_origins)
        return on_loopback and _is_loopback(_host_name_of(origin))


def _host_refused(host: str) -> HttpError:
    return HttpError(
        403,
        f"Host is not allowed (option of the server: {ALLOW_HOST})",
        value=host,
        hint=f"to accept it: {ALLOW_HOST}",
    )


def _listens_on_loopback(scope: Scope) -> bool:
    """Return whether only this machine can reach the server, and a browser on it.

    ASGI wants the address of the listener in ``scope["server"]``. `serve_http` has that; some other
    servers have the address of the connection.
    """
    server = scope.get("server")
    if not server or server[1] is None:
        return False  # A Unix socket, which no browser reaches, or nothing is known.
    return _is_loopback(str(server[0]))


def _is_loopback(host: str) -> bool:
    """Return whether a name or an address can mean nothing but this machine."""
    return len(host) <= LONGEST_ADDRESS and _is_loopback_address(host)


@lru_cache(maxsize=64)  # the same few come with every request
def _is_loopback_address(host: str) -> bool:
    address = read_address(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_address(host: str) -> bool:
    """Return whether a host is an IP address."""
    return len(host) <= LONGEST_ADDRESS and read_address(host) is not None


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
