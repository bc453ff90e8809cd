"""The socket of one client: reading, writing, and the clocks of both."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from math import inf
from typing import Final, final

import attrs
import trio

from ..asgi import ClientDisconnected
from .limits import HttpServerLimits

_READ_SIZE: Final = 65_536
_EAGER_WRITES: Final = 16
_RESET: Final = struct.pack("ii", 1, 0)


@final
@attrs.define(eq=False, repr=False)
class Wire:
    """A connected socket with patience. One task may read and one may write at a time.

    Its clocks are looked at by the `Sweeper`.

    Args:
        socket: In non-blocking mode. It belongs to the wire.
        limits: How long it has patience.
    """

    _socket: socket.socket = attrs.field(alias="socket")
    _limits: HttpServerLimits = attrs.field(alias="limits")
    broken: bool = attrs.field(default=False, init=False)
    """Whether writing is no longer possible."""
    read_deadline: float = attrs.field(default=inf, init=False)
    write_deadline: float = attrs.field(default=inf, init=False)
    _fd: int = attrs.field(init=False)
    _read_size: int = attrs.field(init=False)
    _expired: bool = attrs.field(default=False, init=False)
    _writing: bool = attrs.field(default=False, init=False)
    _eager_writes: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._fd = self._socket.fileno()
        self._read_size = min(_READ_SIZE, self._limits.max_ahead)

    def expire(self, now: float) -> None:
        """Wake the tasks that wait past a deadline."""
        if self.write_deadline <= now:
            self.cut(reset=True)
        self._expired = self.read_deadline <= now
        self.wake()

    def wake(self) -> None:
        """Wake waiting tasks, so that they check the state again."""
        trio.lowlevel.notify_closing(self._fd)

    def close(self) -> None:
        """Close the socket, also while tasks wait for it."""
        self.broken = True
        self.wake()
        self._socket.close()

    def cut(self, *, reset: bool) -> None:
        """Let the connection end without ending what was begun; it is closed later.

        Args:
            reset: Whether to reset the connection: the client sees an error, and the system drops
                what was not delivered yet.
        """
        self.broken = True
        if reset:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def read(self, deadline: float, room: int = _READ_SIZE) -> bytes:
        """Return what comes next, at least one byte.

        Args:
            deadline: Until when there is patience.
            room: How many bytes there may be at most.

        Raises:
            ClientDisconnected: The client sends nothing further.
            trio.TooSlowError: Nothing came in time.
            trio.ClosedResourceError: `wake` was called.
        """
        self._expired = False
        self.read_deadline = deadline
        data = None
        try:
            while data is None:
                # Not tried before: nearly always there is nothing yet, and others have their turn.
                await trio.lowlevel.wait_readable(self._fd)
                self._eager_writes = 0
                try:  # noqa: SIM105  # `suppress` is three calls, for each request
                    data = self._socket.recv(min(room, self._read_size))
                except BlockingIOError:
                    pass
        except trio.ClosedResourceError:
            if self._expired:
                raise trio.TooSlowError from None
            raise
        except OSError as error:
            self.broken = True
            raise ClientDisconnected("the connection is broken") from error
        finally:
            self.read_deadline = inf
        if not data:
            raise ClientDisconnected("the client sends nothing more")
        return data

    @property
    def is_eager(self) -> bool:
        """Whether so much was written without waiting that others should have their turn."""
        return self._eager_writes >= _EAGER_WRITES

    async def take_turns(self) -> None:
        """Let others run."""
        await trio.lowlevel.checkpoint()
        self._eager_writes = 0

    async def write(self, data: bytes) -> None:
        """Write all of it, at once if possible. A write that fails or is cancelled is the last.

        Raises:
            ClientDisconnected: The client has left, or does not read.
            trio.BusyResourceError: Another task is writing.
        """
        if self._writing:
            raise trio.BusyResourceError("another task is sending a part of this response")
        sent = self._send(data)
        self._eager_writes += 1
        if sent < len(data):
            await self._write_rest(memoryview(data)[sent:])

    def write_last(self, data: bytes) -> None:
        """Write last words, as far as the client takes them, and nothing after them."""
        with suppress(ClientDisconnected):
            self._send(data)
        self.end()

    def end(self) -> None:
        """Close the sending side."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def has_unread(self) -> bool:
        """Return whether the client has sent something that was not read."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.broken = True
            raise ClientDisconnected("the connection is broken") from error

    async def _write_rest(self, rest: memoryview) -> None:
        self._writing = True
        sent = 1
        try:
            while rest:
                if sent:
                    self.write_deadline = trio.current_time() + self._limits.write_timeout
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_writable(self._fd)
                    self._eager_writes = 0
                if self.broken:
                    break
                sent = self._send(rest)
                rest = rest[sent:]
        finally:
            self._writing = False
            self.write_deadline = inf
            # Nothing can follow what was begun and not ended.
            self.broken = self.broken or bool(rest)
        if rest:
            raise ClientDisconnected("the client does not read")
