"""Clients over byte streams: anything that is a `trio.abc.Stream`, TCP, Unix sockets."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Final, cast

import trio

from ..core.errors import SessionRejected
from ..core.identity import Principal, Transport
from ..core.peer import join_host_port
from ..core.reasons import TerminationReason
from ..protocol.eras import Eras, served_eras
from ..server.mcp_server import server_of
from ..sessions.error_log import write_log
from ..sessions.failures import FAILURES, contain
from .byte_stream import ByteStreamChannel
from .connection import serve_channel
from .exposure import warn_if_exposed
from .refusal_log import RefusalLog
from .tcp import is_tcp, notice_vanished
from .unix_sockets import DEFAULT_MODE, UnixSocketAccess, listen_unix, remove_socket

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager

logger: Final = logging.getLogger("trio_mcp_session")

STREAM: Final = Transport("stream")

TCP_HANDSHAKE_TIMEOUT: Final = 60.0
"""Seconds for a handshake over TCP, unless the settings have a number.

Programs other than clients connect to ports and stay connected, such as scanners and health checks.
Each would keep a place for ever."""

PrincipalOf = Callable[[trio.SocketStream], Principal | None]
"""Returns the principal of a connection; None if it is not known."""


async def serve_stream(
    manager: SessionManager,
    stream: trio.abc.Stream,
    *,
    principal: Principal | None = None,
    transport: Transport = STREAM,
    handshake_timeout: float | None = None,
    eras: Eras | None = None,
) -> TerminationReason:
    """Serve one client over a byte stream, one JSON message a line, until its session has ended.

    This is the framing of MCP's stdio transport (all revisions), for any reliable stream. A
    checkpoint. When cancelled, the session ends as *cancelled*, with all of its clean-up, before
    the call raises. The stream is closed in any case.

    Args:
        manager: The manager that opens the session.
        stream: The connection.
        principal: The principal of the client, if known.
        transport: The description of the connection.
        handshake_timeout: Seconds in which the client has to finish its handshake, where
            `CleanupConfig.connection_handshake_timeout` does not say. By default 60 if the stream
            is a TCP connection, also below TLS, and off for any other: only the caller knows what
            that is. Set one if unknown clients can connect.
        eras: The revisions that are served; by default as the application says.

    Returns:
        Why the session ended.

    Raises:
        SessionRejected: A limit does not admit the session; the client got the error.
        ValueError: ``eras`` is not a value of `Eras`.
    """
    if handshake_timeout is None:
        handshake_timeout = TCP_HANDSHAKE_TIMEOUT if _is_tcp(stream) else inf
    return await serve_channel(
        manager,
        ByteStreamChannel(stream, manager.config.limits.max_message_size),
        principal=principal,
        transport=transport,
        handshake_timeout=handshake_timeout,
        eras=eras,
    )


async def serve_listeners(  # noqa: ASYNC128  # handed on
    manager: SessionManager,
    listeners: Sequence[trio.SocketListener],
    *,
    principal_of: PrincipalOf | None = None,
    eras: Eras | None = None,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[Sequence[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every client that connects to one of some listeners, until cancelled.

    Startable; a checkpoint. The listeners are closed when it is cancelled, and the connections
    end, unless they run in a nursery of the caller's. A client gets an error, and is disconnected,
    if there is no place for it. Over TCP a client has 60 s for its handshake, unless
    `CleanupConfig.connection_handshake_timeout` says otherwise, and keep-alive probes of the system
    find clients that have vanished.

    Args:
        manager: The manager that opens the sessions.
        listeners: The listeners that clients connect to.
        principal_of: Returns the principal of a connection. If it raises, that is logged, and the
            connection is closed.
        eras: The revisions that are served; by default as the application says.
        handler_nursery: The nursery that serves the connections; one of its own by default.
        task_status: ``started()`` gets the listeners, as soon as clients may connect.

    Raises:
        ValueError: ``eras`` is not a value of `Eras`.
    """
    served_eras(server_of(manager).application, eras)  # Before any client comes.
    refusals = RefusalLog(logger)

    async def serve(stream: trio.SocketStream) -> None:
        if is_tcp(stream.socket.family):
            notice_vanished(stream.socket, manager.config.cleanup.send_timeout)
        try:
            principal = None if principal_of is None else principal_of(stream)
        except FAILURES as error:  # other clients are served in the same nursery
            write_log(
                logging.ERROR, "principal_of raised; the connection is closed", error=contain(error)
            )
            await trio.aclose_forcefully(stream)
            return
        transport = _describe(stream.socket)
        try:
            await serve_stream(manager, stream, principal=principal, transport=transport, eras=eras)
        except SessionRejected as rejection:
            client = f"a client over {transport.name} {transport.peer}".rstrip()
            refusals.report("no session", str(rejection), client)

    await trio.serve_listeners(
        serve, list(listeners), handler_nursery=handler_nursery, task_status=task_status
    )


async def serve_tcp(  # noqa: ASYNC128  # handed on
    manager: SessionManager,
    port: int,
    *,
    host: str | None = "127.0.0.1",
    principal_of: PrincipalOf | None = None,
    eras: Eras | None = None,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[Sequence[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every client that connects to a TCP port, until cancelled.

    Startable; a checkpoint. There is neither encryption nor authentication: listen on loopback, or
    make sure that only trusted clients can reach the port. A warning is logged if other machines
    may reach it, unless ``principal_of`` is set. See `serve_listeners` for the rest.

    Args:
        manager: The manager that opens the sessions.
        port: The port; 0 lets the system choose one; see the listeners of ``started()``.
        host: The address to listen on; None for all.
        principal_of: Returns the principal of a connection.
        eras: The revisions that are served; by default as the application says.
        handler_nursery: The nursery that serves the connections; one of its own by default.
        task_status: ``started()`` gets the listeners, as soon as clients may connect.

    Raises:
        OSError: The port cannot be listened on.
        ValueError: ``eras`` is not a value of `Eras`.
    """
    served_eras(server_of(manager).application, eras)  # Before there is anything to close.
    listeners = await trio.open_tcp_listeners(port, host=host)
    if principal_of is None:
        warn_if_exposed(listeners, "listen on 127.0.0.1, or let only trusted machines reach it")
    await serve_listeners(
        manager,
        listeners,
        principal_of=principal_of,
        eras=eras,
        handler_nursery=handler_nursery,
        task_status=task_status,
    )


async def serve_unix(  # noqa: ASYNC128  # handed on
    manager: SessionManager,
    path: str | os.PathLike[str],
    *,
    mode: int = DEFAULT_MODE,
    owner: str | int | None = None,
    group: str | int | None = None,
    principal_of: PrincipalOf | None = None,
    eras: Eras | None = None,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[Sequence[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every client that connects to a Unix socket, until cancelled. Not on Windows.

    Startable; a checkpoint. An existing socket without a listener is replaced; any other file at
    the path is kept. The socket is removed at the end. See `serve_listeners` for the rest.

    Args:
        manager: The manager that opens the sessions.
        path: The path of the socket.
        mode: The file permissions of the socket: they decide which users may connect.
        owner: The user that the socket belongs to, by name or id; by default that of the process.
            Only a privileged process can give it to another user.
        group: The group that it belongs to, by name or id.
        principal_of: Returns the principal of a connection; `unix_peer` is one.
        eras: The revisions that are served; by default as the application says.
        handler_nursery: The nursery that serves the connections; one of its own by default.
        task_status: ``started()`` gets the listener, as soon as clients may connect.

    Raises:
        OSError: The socket cannot be made, or another process listens there.
        ValueError: ``eras`` is not a value of `Eras`, or the user or group is unknown.
    """
    served_eras(server_of(manager).application, eras)  # Before there is anything to close.
    address = os.fspath(path)
    access = UnixSocketAccess(mode=mode, owner=owner, group=group)
    listener = await listen_unix(address, access)
    try:
        await serve_listeners(
            manager,
            [listener],
            principal_of=principal_of,
            eras=eras,
            handler_nursery=handler_nursery,
            task_status=task_status,
        )
    finally:
        remove_socket(address)


def _is_tcp(stream: trio.abc.Stream) -> bool:
    """Return whether a stream is a TCP connection, or TLS over one."""
    while isinstance(stream, trio.SSLStream):
        stream = cast("trio.SSLStream[trio.abc.Stream]", stream).transport_stream
    return isinstance(stream, trio.SocketStream) and is_tcp(stream.socket.family)


def _describe(socket: trio.socket.SocketType) -> Transport:
    if socket.family == getattr(trio.socket, "AF_UNIX", None):
        return Transport("unix")
    try:
        host, port, *_ = socket.getpeername()
    except OSError:
        return Transport("tcp")  # The client has left already; serving it ends at once.
    return Transport("tcp", join_host_port(host, port))
