"""A warning for servers that other machines can reach, without authentication."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

logger: Final = logging.getLogger("trio_mcp_session")


def is_exposed(host: str) -> bool:
    """Return whether other machines may reach an address that is listened on."""
    try:
        return not ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host not in ("localhost", "")


def warn_if_exposed(addresses: Iterable[tuple[str, str]], ways_out: str) -> None:
    """Log a warning for addresses that other machines may reach. Not a checkpoint.

    Args:
        addresses: Host and text of each address; the host of a Unix socket is empty.
        ways_out: What the operator can do.
    """
    exposed = [text for host, text in addresses if is_exposed(host)]
    if exposed:
        logger.warning(
            "NO AUTHENTICATION on %s: every program that can reach it can use this server; %s",
            ", ".join(exposed),
            ways_out,
        )
