"""Clients over byte streams: anything that is a `trio.abc.Stream`, TCP, Unix sockets."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final, cast

import trio

from ..core.errors import SessionRejected
from ..core.identity import Principal, Transport
from ..core.reasons import TerminationReason
from ..protocol.eras import Eras, served_eras
from ..server.mcp_server import server_of
from .byte_stream import ByteStreamChannel
from .connection import serve_channel
from .tcp import is_tcp, notice_vanished

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager

STREAM: Final = Transport("stream")

TCP_HANDSHAKE_TIMEOUT: Final = 60.0
"""Seconds for a handshake over TCP, where the settings do not say.

Programs that are no clients connect to a port, and stay: scanners, health checks. Each would take
a place for ever."""

PrincipalOf = Callable[[trio.SocketStream], Principal | None]
"""Tells on whose behalf a connection speaks; None where that is not known."""


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
        manager: Where the session lives.
        stream: The connection.
        principal: On whose behalf the client speaks, where that is known.
        transport: What to call the connection.
        handshake_timeout: Seconds in which the client has to finish its handshake, where
            `CleanupConfig.connection_handshake_timeout` does not say. By default 60 if the stream
            is a TCP connection, also below TLS, and off for any other: only the caller knows
            what that is. Give one where strangers can connect.
        eras: Which revisions are served; what the application says by default.

    Returns:
        Why the session ended.

    Raises:
        SessionRejected: A limit does not admit the session; the client was told.
        ValueError: ``eras`` is none of them.
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
    end, unless they run in a nursery of the caller's. A client for whom there is no place is told
    and turned away. Over TCP a client has 60 s for its handshake, unless
    `CleanupConfig.connection_handshake_timeout` says otherwise, and keep-alive probes of the
    system find clients that have vanished.

    Args:
        manager: Where the sessions live.
        listeners: Where clients connect.
        principal_of: Tells on whose behalf a connection speaks. It must not raise.
        eras: Which revisions are served; what the application says by default.
        handler_nursery: Where the connections are served; a nursery of its own by default.
        task_status: Told the listeners, as soon as clients may connect.

    Raises:
        ValueError: ``eras`` is none of them.
    """
    served_eras(server_of(manager).application, eras)  # Before any client comes.

    async def serve(stream: trio.SocketStream) -> None:
        if is_tcp(stream.socket.family):
            notice_vanished(stream.socket, manager.config.cleanup.send_timeout)
        principal = None if principal_of is None else principal_of(stream)
        with suppress(SessionRejected):
            await serve_stream(
                manager, stream, principal=principal, transport=_describe(stream.socket), eras=eras
            )

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

    Startable; a checkpoint. There is neither encryption nor authentication: listen on loopback,
    or know who can reach the port. See `serve_listeners` for the rest.

    Args:
        manager: Where the sessions live.
        port: The port; 0 lets the system choose one, which ``started()`` tells.
        host: The address to listen on; None for all.
        principal_of: Tells on whose behalf a connection speaks.
        eras: Which revisions are served; what the application says by default.
        handler_nursery: Where the connections are served; a nursery of its own by default.
        task_status: Told the listeners, as soon as clients may connect.

    Raises:
        OSError: The port cannot be listened on.
        ValueError: ``eras`` is none of them.
    """
    served_eras(server_of(manager).application, eras)  # Before there is anything to close.
    listeners = await trio.open_tcp_listeners(port, host=host)
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
    mode: int = 0o600,
    principal_of: PrincipalOf | None = None,
    eras: Eras | None = None,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[Sequence[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every client that connects to a Unix socket, until cancelled. Not on Windows.

    Startable; a checkpoint. A socket that nobody listens on any more makes room; anything else at
    the path is left alone. The socket is removed at the end. See `serve_listeners` for the rest.

    Args:
        manager: Where the sessions live.
        path: Where the socket is made.
        mode: Who may connect: its file permissions.
        principal_of: Tells on whose behalf a connection speaks.
        eras: Which revisions are served; what the application says by default.
        handler_nursery: Where the connections are served; a nursery of its own by default.
        task_status: Told the listener, as soon as clients may connect.

    Raises:
        OSError: The socket cannot be made, or somebody listens there.
        ValueError: ``eras`` is none of them.
    """
    served_eras(server_of(manager).application, eras)  # Before there is anything to close.
    address = os.fspath(path)
    await _remove_stale_socket(address)
    listener = trio.SocketListener(await _listen_unix(address, mode))
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
        with suppress(FileNotFoundError):
            os.unlink(address)


async def _listen_unix(address: str, mode: int) -> trio.socket.SocketType:
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        # Nobody can connect before `listen`, so there is no moment with the wrong permissions.
        await listening.bind(address)
        os.chmod(address, mode)
        listening.listen(128)
    except BaseException:
        listening.close()
        raise
    return listening


async def _remove_stale_socket(address: str) -> None:
    """Remove a socket that was left behind; leave one alone that somebody listens on."""
    try:
        found = os.stat(address)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(f"{address} is there already, and is no socket")
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as probe:
        try:
            await probe.connect(address)
        except ConnectionRefusedError:
            os.unlink(address)
            return
    raise FileExistsError(f"somebody listens on {address} already")


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
        return Transport("tcp")  # It has left already; serving it will find out.
    return Transport("tcp", f"{host}:{port}" if ":" not in host else f"[{host}]:{port}")
