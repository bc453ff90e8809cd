"""A warning for servers that other machines can reach, without authentication."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..core.peer import join_host_port, read_address
from ..sessions.error_log import write_log
from .tcp import is_tcp

if TYPE_CHECKING:
    import trio


def is_exposed(host: str) -> bool:
    """Return whether other machines may reach an address that is listened on."""
    address = read_address(host)
    return host != "localhost" if address is None else not address.is_loopback


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
                exposed.append(join_host_port(host, port))
    if exposed:
        write_log(
            logging.WARNING,
            "NO AUTHENTICATION on %s: every program that can reach it can use this server; %s",
            ", ".join(exposed),
            ways_out,
        )
