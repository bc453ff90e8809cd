"""Clients come in: from a listener to a connection that is served."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any, Final

import trio

from ...sessions.error_log import write_log
from ..asgi import UNIX_PEER
from ..tcp import is_tcp, notice_vanished
from ..unix_sockets import peer_credentials
from .http_connection import Connection
from .listeners import BoundAddress
from .service import Service
from .wire import Wire

_logger: Final = logging.getLogger("trio_mcp_session.http")

_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
_RETRY_AFTER: Final = 0.1

_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}


async def accept_clients(
    listener: trio.SocketListener, address: BoundAddress, service: Service, nursery: trio.Nursery
) -> None:
    """Serve every client that connects to a listener, until that is closed."""
    # What ASGI wants, and the same for all clients: the address that is listened on.
    path = address.unix_path
    server = (address.host, address.port) if path is None else (path, None)
    complained = False
    while True:  # noqa: ASYNC913  # each pass begins with one
        try:
            stream = await listener.accept()
        except trio.ClosedResourceError:
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            # There may be room again when a connection has ended.
            if not complained:
                text = "No client can be accepted: %s"
                write_log(logging.WARNING, text, error.strerror, log=_logger)
                complained = True
            await trio.sleep(_RETRY_AFTER)
            continue
        complained = False
        accepted = socket.socket(fileno=stream.socket.detach())
        connection = None
        try:
            while service.full:
                await service.wait_until_fewer()
            connection = _make_connection(accepted, service, server)
        finally:
            if connection is None:
                accepted.close()
        if connection is not None:
            nursery.start_soon(connection.run, name="HTTP connection")


def _make_connection(
    accepted: socket.socket, service: Service, server: tuple[Any, Any]
) -> Connection | None:
    """Make a connection of a socket; None if its client has left already."""
    accepted.settimeout(0)
    try:
        peer = accepted.getpeername()
    except OSError:
        return None
    client = None
    if is_tcp(accepted.family):
        client = peer[:2]
        notice_vanished(accepted, service.limits.write_timeout)
    wire = Wire(accepted, service.limits)
    scope = {
        "type": "http",
        "asgi": _ASGI,
        "scheme": "http",
        "root_path": "",
        "client": client,
        "server": server,
    }
    credentials = peer_credentials(accepted)
    if credentials is not None:
        scope[UNIX_PEER] = credentials
    connection = Connection(service, wire, scope)
    service.add(wire)
    return connection
