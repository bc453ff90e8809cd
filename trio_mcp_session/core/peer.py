"""Parties: the principals and addresses that limits for one client are counted by.

An authenticated client is counted by its principal, any other by the address of its peer. One
network of IPv6 gives a subscriber 2**64 addresses, so these are counted by their first 64 bits.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from .identity import Principal

Party: TypeAlias = Principal | str
"""A principal, or the address of a client without one."""


def party_of(principal: Principal | None, peer: str) -> Party | None:
    """Return what a client is counted by; None if neither principal nor address is known.

    Args:
        principal: The principal of the client.
        peer: The address of the client, with a port or without; empty if there is none.
    """
    return party_at(principal, host_of(peer))


def party_at(principal: Principal | None, host: str) -> Party | None:
    """Return what a client is counted by, as `party_of`, from an address without a port."""
    if principal is not None:
        return principal.identity  # What counts parties must not keep their claims.
    return network_of(host) or None


def host_of(peer: str) -> str:
    """Return an address without its port: ``192.0.2.1:80`` or ``[2001:db8::1]:80``."""
    if peer.startswith("["):
        return peer[1:].partition("]")[0]
    host, colon, rest = peer.partition(":")
    # With more than one colon it is an IPv6 address without a port.
    return peer if not colon or ":" in rest else host


def join_host_port(host: str, port: int) -> str:
    """Return an address with its port; IPv6 addresses get brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def network_of(host: str) -> str:
    """Return the network that is counted as one client.

    The address itself for IPv4, the first 64 bits for IPv6; other text stays as it is.
    """
    return _network_of_ipv6(host) if ":" in host else host


@lru_cache(maxsize=1024)  # a client sends many requests
def _network_of_ipv6(host: str) -> str:
    address = read_address(host)
    if not isinstance(address, IPv6Address):
        return host if address is None else str(address)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def read_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an IP address, or None for other text. IPv4 within IPv6 becomes IPv4."""
    try:
        address = ip_address(text.partition("%")[0])  # without the interface of a local address
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
