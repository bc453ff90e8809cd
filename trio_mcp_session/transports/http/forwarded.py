"""What trusted proxies say about a request: the host that it was for, and the client's address.

Any client can send ``Forwarded`` (RFC 7239) and ``X-Forwarded-*``. So they are read only in
requests from the addresses that the operator names, and those proxies have to set them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias, final

import attrs

from ..asgi import Scope

UNIX: Final = "unix"
"""Stands for all clients of Unix sockets, which have no addresses."""

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_PAIR: Final = re.compile(r'([A-Za-z]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]*)')
_ESCAPED: Final = re.compile(r"\\(.)")


@final
@attrs.frozen
class TrustedProxies:
    """The proxies whose headers are read.

    Args:
        networks: Their addresses.
        unix: Whether the clients of Unix sockets are such proxies.
    """

    networks: tuple[Network, ...] = ()
    unix: bool = False

    def trusts(self, scope: Scope) -> bool:
        """Return whether a request comes from one of the proxies."""
        host = _host_of(scope)
        return self._contains(_read_address(host)) if host else self.unix and _is_unix(scope)

    def hosts(self, scope: Scope) -> list[str]:
        """Return every host that a proxy names, the nearest proxy's last.

        Nothing, if the request does not come from one of the proxies.
        """
        if not self.trusts(scope):
            return []
        forwarded = [pair[1] for pair in _pairs(scope) if pair[0] == "host"]
        return forwarded + _elements(scope, b"x-forwarded-host")

    def client_address(self, scope: Scope) -> str:
        """Return the IP address of the client, as the proxies saw it; empty if it has none.

        It is the last address in the headers that is not a proxy's. If ``Forwarded`` and
        ``X-Forwarded-For`` disagree, one of them is the client's own: the answer is the address of
        the proxy then.
        """
        address = _host_of(scope)
        if not self.trusts(scope):
            return address
        named = [
            [pair[1] for pair in _pairs(scope) if pair[0] == "for"],
            _elements(scope, b"x-forwarded-for"),
        ]
        found = {self._last_untrusted(chain) for chain in named if chain}
        only = found.pop() if len(found) == 1 else None
        return address if only is None else str(only)

    def _last_untrusted(self, chain: list[str]) -> Address | None:
        """Return the last address that is not a proxy's; None behind one that is unreadable."""
        for text in reversed(chain):
            address = _read_address(_without_port(text))
            if address is None or not self._contains(address):
                return address
        return None

    def _contains(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self.networks)


NO_PROXIES: Final = TrustedProxies()


def read_trusted_proxies(addresses: Collection[str]) -> TrustedProxies:
    """Read the addresses of proxies.

    Args:
        addresses: IP addresses, networks such as ``10.0.0.0/8``, or ``unix``.

    Raises:
        TypeError: It is a single text.
        ValueError: One of them is something else.
    """
    if isinstance(addresses, str):
        raise TypeError(f"trusted_proxies must be a collection of addresses, not {addresses!r}")
    networks: list[Network] = []
    for text in addresses:
        if text != UNIX:
            try:
                networks.append(ip_network(text))
            except ValueError as error:
                raise ValueError(
                    f"a trusted proxy must be an IP address, a network or 'unix': {error}"
                ) from error
    return TrustedProxies(tuple(networks), UNIX in addresses) if addresses else NO_PROXIES


def _host_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _is_unix(scope: Scope) -> bool:
    server = scope.get("server")
    return server is not None and len(server) > 1 and server[1] is None


def _read_address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _values(scope: Scope, name: bytes) -> Iterator[str]:
    for field, value in scope["headers"]:
        if field == name:
            yield value.decode("latin-1")


def _elements(scope: Scope, name: bytes) -> list[str]:
    return [one.strip() for value in _values(scope, name) for one in value.split(",")]


def _pairs(scope: Scope) -> Iterator[tuple[str, str]]:
    """Return the parameters of ``Forwarded``; where it is malformed, more of them than there are.

    Every host that is found has to be allowed, so one too many is safe.
    """
    for value in _values(scope, b"forwarded"):
        for name, text in _PAIR.findall(value):
            is_quoted = text.startswith('"')
            yield name.lower(), _ESCAPED.sub(r"\1", text[1:-1]) if is_quoted else text
