"""Addresses as they are written on a command line, and as they turned out."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import attrs
import trio

from ...core.peer import join_host_port
from ..unix_sockets import UnixSocketAccess, listen_unix, remove_socket
from .socket_activation import ACTIVATED, take_activated

_UNIX: Final = "unix:"
_DESCRIPTOR: Final = "fd:"
_BACKLOG: Final = 0xFFFF
"""Connections that wait to be accepted: up to the limit of the system, like Trio's default."""

_MAX_PORT: Final = 65_535
_DEFAULT_ACCESS: Final = UnixSocketAccess()

Listening: TypeAlias = trio.SocketListener | socket.socket
"""A socket that listens, of Trio or of Python."""


@attrs.frozen(kw_only=True)
class BoundAddress:
    """Where a server listens."""

    host: str = ""
    """The address, without brackets; empty for a Unix socket."""

    port: int = 0
    """The port; 0 for a Unix socket."""

    unix_path: str | None = None
    """Where the Unix socket is."""

    secure: bool = False
    """Whether TLS is spoken there."""

    @property
    def url(self) -> str:
        """What clients use, without a path: ``http://127.0.0.1:8000``."""
        scheme = "https" if self.secure else "http"
        if self.unix_path is not None:
            return f"{scheme}+unix://{quote(self.unix_path, safe='')}"
        return f"{scheme}://{self}"

    def __str__(self) -> str:
        if self.unix_path is not None:
            return f"{_UNIX}{self.unix_path}"
        return join_host_port(self.host, self.port)


@asynccontextmanager
async def open_listeners(
    bind: str | Sequence[str],
    *,
    unix_access: UnixSocketAccess = _DEFAULT_ACCESS,
    reuse_port: bool = False,
) -> AsyncIterator[tuple[trio.SocketListener, ...]]:
    """Listen on addresses; when the block is left, nothing is left of it.

    Args:
        bind: ``HOST:PORT``, ``[HOST]:PORT``, ``unix:PATH``, ``fd:NUMBER`` or ``fd:LISTEN_FDS``, or
            several of them. Port 0 lets the system choose one. A name that stands for several
            addresses means all of them. ``fd:NUMBER`` is the descriptor of a socket that listens
            already; ``fd:LISTEN_FDS`` are all that a service manager has passed to this process.
            They are closed in the end.
        unix_access: Which users may connect to Unix sockets.
        reuse_port: Whether other processes may listen on the same TCP ports (``SO_REUSEPORT``).

    Raises:
        OSError: One of the addresses cannot be listened on.
        ValueError: One of them is malformed, a descriptor is not that of a socket that listens, or
            is named twice, a service manager has passed none, or the user or group is unknown.
    """
    places: list[int | BoundAddress] = []
    for one in [bind] if isinstance(bind, str) else bind:
        places += _descriptors(one) if one.startswith(_DESCRIPTOR) else [parse_bind(one)]
    if not places:
        raise ValueError("there must be an address to listen on")
    _check_distinct(places)
    listeners: list[trio.SocketListener] = []
    paths: list[str] = []
    try:
        for place in places:
            if isinstance(place, int):
                listeners.append(_listener_of(socket.socket(fileno=place), f"fd:{place}"))
            elif place.unix_path is None:
                listeners += await _listen_tcp(place, reuse_port=reuse_port)
            else:
                listener = await listen_unix(place.unix_path, unix_access)
                paths.append(place.unix_path)
                listeners.append(listener)
        yield tuple(listeners)
    finally:
        for listener in listeners:
            listener.socket.close()
        for path in paths:
            remove_socket(path)


async def _listen_tcp(place: BoundAddress, *, reuse_port: bool) -> list[trio.SocketListener]:
    if not reuse_port:
        return await trio.open_tcp_listeners(place.port, host=place.host)
    # Trio does not set the option.
    listeners: list[trio.SocketListener] = []
    found = await trio.socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    try:
        for family, _, _, _, address in found:
            where: Any = address
            listening = socket.create_server(
                where[:2], family=family, backlog=_BACKLOG, reuse_port=True
            )
            listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(listening)))
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


@asynccontextmanager
async def given_listeners(
    listeners: Sequence[Listening],
) -> AsyncIterator[tuple[trio.SocketListener, ...]]:
    """Take over sockets that listen already; they are closed when the block is left.

    Raises:
        ValueError: There is none, or one does not listen.
    """
    if not listeners:
        raise ValueError("listeners must name a socket that listens")
    try:
        yield tuple(
            one if isinstance(one, trio.SocketListener) else _listener_of(one, repr(one))
            for one in listeners
        )
    finally:
        for one in listeners:
            (one.socket if isinstance(one, trio.SocketListener) else one).close()


def _listener_of(listening: socket.socket, name: str) -> trio.SocketListener:
    """Make a listener of a socket, which is closed if it is none.

    Args:
        listening: The socket.
        name: What the error calls it.
    """
    try:
        return trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    except ValueError as error:
        listening.close()
        raise ValueError(f"{name} is not a socket that listens") from error


def _descriptors(bind: str) -> Sequence[int]:
    number = bind.removeprefix(_DESCRIPTOR)
    if number == ACTIVATED:
        return take_activated()
    if not (number.isascii() and number.isdigit()):
        raise ValueError(f"{bind!r} is neither fd:NUMBER nor fd:{ACTIVATED}")
    return [int(number)]


def _check_distinct(places: Sequence[int | BoundAddress]) -> None:
    """Refuse a descriptor that is named twice: it would be closed twice."""
    descriptors = [one for one in places if isinstance(one, int)]
    for number in descriptors:
        if descriptors.count(number) > 1:
            raise ValueError(f"{_DESCRIPTOR}{number} is named twice")


def parse_bind(bind: str) -> BoundAddress:
    """Read where to listen.

    Raises:
        ValueError: It is neither ``HOST:PORT`` nor ``[HOST]:PORT`` nor ``unix:PATH``.
    """
    if bind.startswith(_UNIX):
        if path := bind.removeprefix(_UNIX):
            return BoundAddress(unix_path=path)
    else:
        host, _, port = bind.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        known = port.isascii() and port.isdigit() and int(port) <= _MAX_PORT
        if known and host and bracketed is (":" in host):
            return BoundAddress(host=host, port=int(port))
    raise ValueError(f"{bind!r} is neither HOST:PORT nor [HOST]:PORT nor unix:PATH")


def bound_address(listener: trio.SocketListener) -> BoundAddress:
    """Return where a listener listens."""
    name: Any = listener.socket.getsockname()
    if isinstance(name, (str, bytes)):
        return BoundAddress(unix_path=os.fsdecode(name))
    host, port, *_ = name
    return BoundAddress(host=host, port=port)
