"""Newline-delimited frames over any `trio.abc.Stream`."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import final

import attrs
import trio

from .framed_io import READ_SIZE, FrameReader, FrameWriter, PairedChannel
from .hangup import wait_for_hangup


@final
class ByteStreamChannel(PairedChannel):
    """A `BatchChannel` over a stream: TCP, a Unix socket, TLS, a pair in memory.

    Closing the channel closes the stream.

    Cancellation:
      On a plain socket the next call continues a cancelled `send_batch`. On any other stream it
      leaves an unknown part of its batch in the stream, so it breaks the sending direction: later
      sends raise `trio.BrokenResourceError`. Receiving still works.

    Args:
      stream: The stream; it must not be used elsewhere from now on.
      max_size: The longest line that is delivered, in bytes.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: trio.abc.Stream, max_size: int) -> None:
        writer: FrameWriter
        if isinstance(stream, trio.SocketStream):
            writer = _SocketWriter(socket=stream.socket)
        else:
            writer = _StreamWriter(stream=stream)
        super().__init__(reader=_StreamReader(max_size=max_size, stream=stream), writer=writer)
        self._stream = stream

    async def aclose(self) -> None:
        """Close the stream; if cancelled, forcefully."""
        self._reader.close()
        self._writer.close()
        await self._stream.aclose()


@final
@attrs.define(eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class _StreamReader(FrameReader):
    _stream: trio.abc.Stream = attrs.field(alias="stream", kw_only=True)
    _closed: bool = attrs.field(default=False, init=False)

    async def _read(self) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError("this channel was closed")
        return bytes(await self._stream.receive_some(READ_SIZE))

    def close(self) -> None:
        self._closed = True


@attrs.define(eq=False, repr=False)
class _Writer(FrameWriter):
    def close(self) -> None:
        self._closed = True
        self._tail.clear()


@final
@attrs.define(eq=False, repr=False)
class _StreamWriter(_Writer):
    _stream: trio.abc.Stream = attrs.field(alias="stream", kw_only=True)

    def _write(self, data: bytes) -> int:  # noqa: ARG002 - always has to wait
        return 0

    async def _flush(self) -> None:
        if not self._tail:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._stream.send_all(b"".join(self._tail))
        except BaseException:
            # It is not known how many bytes were written before the error.
            self._break()
            raise
        self._tail.clear()


@final
@attrs.define(eq=False, repr=False)
class _SocketWriter(_Writer):
    """A plain socket can be written to without waiting, and always tells how far it got."""

    _socket: trio.socket.SocketType = attrs.field(alias="socket", kw_only=True)

    def _write(self, data: bytes) -> int:
        if sys.platform != "win32":  # pragma: no branch
            try:
                return os.write(self._socket.fileno(), data)
            except BlockingIOError:
                pass
            except OSError as error:
                raise self._break() from error
        return 0

    @property
    def wait_gone(self) -> Callable[[], Awaitable[None]] | None:
        """See `FrameWriter.wait_gone`. An idle connection does not need this descriptor."""
        return self._wait_for_hangup if sys.platform == "linux" else None

    async def _wait_for_hangup(self) -> None:
        await wait_for_hangup(self._socket.fileno())

    async def _flush(self) -> None:
        if not self._tail:
            await trio.lowlevel.checkpoint()
        while self._tail:
            try:
                count = await self._socket.send(self._tail[0])
            except OSError as error:
                self._check()
                raise self._break() from error
            self._check()
            self._written(count)
