"""A warning for servers that other machines can reach, without authentication."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from .tcp import is_tcp

if TYPE_CHECKING:
    import trio

logger: Final = logging.getLogger("trio_mcp_session")


def is_exposed(host: str) -> bool:
    """Return whether other machines may reach an address that is listened on."""
    try:
        return not ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host != "localhost"


def warn_if_exposed(listeners: Iterable[trio.SocketListener], ways_out: str) -> None:
    """Log a warning for listeners that other machines may reach. Not a checkpoint.

    Args:
        listeners: What clients connect to.
        ways_out: What the operator can do.
    """
    exposed: list[str] = []
    for listener in listeners:
        if is_tcp(listener.socket.family):
            host, port, *_ = listener.socket.getsockname()
            if is_exposed(host):
                exposed.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    if exposed:
        logger.warning(
            "NO AUTHENTICATION on %s: every program that can reach it can use this server; %s",
            ", ".join(exposed),
            ways_out,
        )
