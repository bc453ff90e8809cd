"""What all servers over TCP do with the sockets that they accept."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import trio

_FAMILIES: Final = frozenset((socket.AF_INET, socket.AF_INET6))
_PROBE_AFTER: Final = 60
_PROBE_EVERY: Final = 15
_MAX_MILLISECONDS: Final = 2**31 - 1


def is_tcp(family: int) -> bool:
    """Return whether stream sockets of an address family are TCP. Not a checkpoint."""
    return family in _FAMILIES


def notice_vanished(
    accepted: socket.socket | trio.socket.SocketType, acknowledge_timeout: float
) -> None:
    """Let the system find clients that have vanished: TCP keep-alive. Not a checkpoint.

    After 60 s without traffic the system probes the client, and then every 15 s; a connection
    whose client does not answer breaks.

    Args:
        accepted: A TCP socket.
        acknowledge_timeout: Seconds that the client's system may take to acknowledge data and
            probes; `math.inf` leaves that to the system.
    """
    options = [
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", _PROBE_AFTER),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", _PROBE_EVERY),
    ]
    if acknowledge_timeout < _MAX_MILLISECONDS / 1000:
        milliseconds = max(1, int(acknowledge_timeout * 1000))
        options.append((socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", milliseconds))
    for level, name, value in options:
        # Not every system has them all, and none is worth a client.
        with suppress(AttributeError, OSError):
            accepted.setsockopt(level, getattr(socket, name), value)
