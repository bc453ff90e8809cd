"""Unix sockets: their files, their permissions, and the credentials of their clients."""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import suppress
from typing import Final

import attrs
import trio

from ..core.identity import Principal

DEFAULT_MODE: Final = 0o600
"""Only the user of the server may connect."""

_CREDENTIALS: Final = struct.Struct("3i")
_ISSUER: Final = "unix"


@attrs.frozen(kw_only=True)
class UnixSocketAccess:
    """Which users may connect to a Unix socket."""

    mode: int = DEFAULT_MODE
    """The file permissions of the socket. Connecting needs the permission to write."""

    owner: str | int | None = None
    """The user that the file belongs to, by name or id; None for the user of the server."""

    group: str | int | None = None
    """The group that the file belongs to, by name or id; None for the group of the server."""

    def ids(self) -> tuple[int, int]:
        """Return the ids of owner and group; -1 leaves one as it is. Not a checkpoint.

        Raises:
            ValueError: The user or the group is unknown.
        """
        return _user_id(self.owner), _group_id(self.group)


async def listen_unix(address: str, access: UnixSocketAccess) -> trio.SocketListener:
    """Listen on a Unix socket. A socket without a listener is replaced. A checkpoint.

    Raises:
        OSError: It cannot be made, another process listens there, or the path is not a socket.
        ValueError: The user or the group is unknown.
    """
    owner, group = access.ids()
    await _remove_stale_socket(address)
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await listening.bind(address)
        try:
            # No client can connect before `listen`, so the permissions are never wrong.
            if (owner, group) != (-1, -1):
                os.chown(address, owner, group)
            os.chmod(address, access.mode)
            listening.listen(128)
        except BaseException:
            os.unlink(address)
            raise
    except BaseException:
        listening.close()
        raise
    return trio.SocketListener(listening)


def remove_socket(address: str) -> None:
    """Remove the file of a Unix socket, if it is there. Not a checkpoint."""
    with suppress(FileNotFoundError):
        os.unlink(address)


async def _remove_stale_socket(address: str) -> None:
    """Remove a socket that was left behind; keep it if another process listens on it."""
    try:
        found = os.stat(address)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(f"{address} exists, and is not a socket: choose another path")
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as probe:
        try:
            await probe.connect(address)
        except ConnectionRefusedError:
            os.unlink(address)
            return
    raise FileExistsError(f"another process listens on {address} already")


def _user_id(owner: str | int | None) -> int:
    if not isinstance(owner, str):
        return -1 if owner is None else owner
    import pwd  # noqa: PLC0415  # not on every system

    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        what = f"the owner of the Unix socket must be a known user, not {owner!r}"
        raise ValueError(what) from None


def _group_id(group: str | int | None) -> int:
    if not isinstance(group, str):
        return -1 if group is None else group
    import grp  # noqa: PLC0415  # not on every system

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        what = f"the group of the Unix socket must be a known group, not {group!r}"
        raise ValueError(what) from None


def peer_credentials(
    connected: socket.socket | trio.socket.SocketType,
) -> tuple[int, int, int] | None:
    """Return the process, user and group id of a client of a Unix socket. Not a checkpoint.

    They are from the moment when the client connected. None where the socket is not a Unix
    socket, or the system does not report them (Linux does: ``SO_PEERCRED``).
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None or connected.family != getattr(socket, "AF_UNIX", None):
        return None
    found = connected.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(found)
    return pid, uid, gid


def principal_of_credentials(credentials: tuple[int, int, int]) -> Principal:
    """Return the principal of a client of a Unix socket: the user that it runs as."""
    pid, uid, gid = credentials
    return Principal(str(uid), _ISSUER, claims={"pid": pid, "uid": uid, "gid": gid})


def unix_peer(stream: trio.SocketStream) -> Principal:
    """Return the principal of a client on a Unix socket: the user that it runs as (Linux).

    For ``principal_of`` of `serve_unix` and `serve_listeners`. Not a checkpoint. The subject is the
    user id as text, and the issuer is ``unix``. The claims are ``uid``, ``gid`` and ``pid``, as the
    system noted them when the client connected (``SO_PEERCRED``). A process id can be in use again:
    do not base access rights on it. Users of another user namespace, such as those of a container,
    can have the same id 65534.

    Raises:
        RuntimeError: The connection is not over a Unix socket, or the system is not Linux. The
            connection is closed then.
    """
    credentials = peer_credentials(stream.socket)
    if credentials is None:
        raise RuntimeError("the system knows no credentials of this client: it needs a Unix socket")
    return principal_of_credentials(credentials)
