"""Parties: which clients are counted together where a limit is per principal or per address."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TypeAlias

from .identity import Principal

Party: TypeAlias = Principal | str
"""A principal, or the address of clients without authentication."""


def party_of(principal: Principal | None, peer: str) -> Party | None:
    """Return the party of a client.

    Args:
        principal: The principal of the client, if it is authenticated.
        peer: The address of the client, as in `Transport.peer`.

    Returns:
        The principal; without one, the address without its port. IPv6 addresses with the same first
        64 bits are one party, because one host can use all of them. None if there is no address.
    """
    if principal is not None:
        return principal
    return _network_of(peer.rpartition(":")[0]) if peer else None


@lru_cache(maxsize=1024)
def _network_of(host: str) -> str:
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(address.packed[:8] + bytes(8))}/64"
