"""Trusted proxies, which may name the address of their client.

A proxy connects for its clients, and names them in ``X-Forwarded-For`` or ``Forwarded`` (RFC
7239). A client can send these headers, too. So they are read from the right, where the proxy
nearest to the server has written, and only as far as the proxies are trusted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, final

from ...core.peer import host_of, read_address
from ..asgi import Scope
from .forwarded_header import read_forwarded
from .headers import values_of

UNIX: Final = "unix"
"""Stands for all clients of a Unix socket."""


def read_proxies(
    proxies: Collection[str],  # one text is a collection, too: of its letters
) -> tuple[bool, tuple[IPv4Network | IPv6Network, ...]]:
    """Read addresses, networks and ``unix``.

    Returns:
        Whether ``unix`` is among them, and the networks.

    Raises:
        ValueError: One is neither.
    """
    if isinstance(proxies, str):
        proxies = (proxies,)
    networks: list[IPv4Network | IPv6Network] = []
    for one in proxies:
        if one != UNIX:
            try:
                networks.append(ip_network(one))
            except ValueError:
                raise ValueError(
                    "trusted_proxies must be addresses, networks such as '10.0.0.0/8', or "
                    f"'{UNIX}', not {one!r}"
                ) from None
    return UNIX in proxies, tuple(networks)


@final
class TrustedProxies:
    """The proxies that an endpoint trusts.

    Raises:
        ValueError: An entry is neither an address nor a network, nor ``unix``.
    """

    def __init__(self, proxies: Collection[str]) -> None:
        self._unix, self._networks = read_proxies(proxies)

    def client_of(self, scope: Scope) -> str:
        """Return the address of the client that a request comes from; empty if there is none.

        If the proxies disagree or name no address, it is the address of the last trusted proxy.
        """
        client = scope.get("client")
        hop = "" if client is None else str(client[0])
        if not self._trusts(hop):
            return hop
        for named in _forwarded_for(scope):
            address = read_address(host_of(named))
            if address is None:
                break
            hop = str(address)
            if not self._trusts(hop):
                break
        return hop

    def _trusts(self, host: str) -> bool:
        if not host:
            return self._unix
        address = read_address(host)
        return address is not None and any(address in network for network in self._networks)


def _forwarded_for(scope: Scope) -> Iterator[str]:
    """Return the clients that the headers name, the nearest to the server first.

    A proxy that writes one of the two headers may hand on the other one as the client sent it. If
    they disagree, it is not known which of them the client has written, and neither counts.
    """
    headers = scope["headers"]
    by_list: list[str] = []
    for value in values_of(headers, b"x-forwarded-for"):
        by_list += [one.strip() for one in value.split(",")]
    by_elements: list[str] = []
    for value in values_of(headers, b"forwarded"):
        # An element without a name of the client, or a malformed header, counts as an empty name.
        by_elements += [one.get("for", "") for one in read_forwarded(value) or ({},)]
    if by_list and by_elements and by_list != by_elements:
        return iter(())
    return reversed(by_list or by_elements)
