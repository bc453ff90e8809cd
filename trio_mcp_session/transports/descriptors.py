"""Frames over two file descriptors, without threads where the descriptors allow it.

Pipes and sockets are switched to non-blocking mode and waited for by trio.
Regular files, terminals and devices can't be waited for, or are shared with programs that do not
expect that mode; they are served by threads, see `threaded_descriptors`.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, final

import attrs
import trio

from .framed_io import READ_SIZE, FrameReader, FrameWriter, PairedChannel
from .hangup import wait_for_hangup
from .threaded_descriptors import ThreadedReader, ThreadedWriter

STDERR: Final = 2


@final
class DescriptorChannel(PairedChannel):
    """A `BatchChannel` over two descriptors of pipes or sockets, in non-blocking mode.

    The channel owns the descriptors: closing it closes them. Non-blocking mode belongs to the open
    file description, so every process that inherited or duplicated a descriptor shares it; closing
    restores the mode. Not for Windows.

    Args:
      read_fd: Where frames come from.
      write_fd: Where frames go to; not the same number as ``read_fd`` (`os.dup` one of them).
      max_size: The longest line that is delivered, in bytes.

    Raises:
      OSError: if one of the descriptors is not open; then nothing has happened to the other.
      ValueError: if both are the same descriptor.
    """

    __slots__ = ()

    def __init__(self, read_fd: int, write_fd: int, max_size: int) -> None:
        _check_descriptors(read_fd, write_fd)
        super().__init__(
            reader=_NonBlockingReader(max_size=max_size, fd=read_fd),
            writer=_NonBlockingWriter(fd=write_fd),
        )


@final
class ThreadedDescriptorChannel(PairedChannel):
    """`DescriptorChannel` for descriptors of any kind, with a thread for each read and write.

    A read or write that blocks for ever delays neither a cancellation nor the end of the program.
    """

    __slots__ = ()

    def __init__(self, read_fd: int, write_fd: int, max_size: int) -> None:
        _check_descriptors(read_fd, write_fd)
        super().__init__(
            reader=ThreadedReader(max_size=max_size, fd=read_fd), writer=ThreadedWriter(fd=write_fd)
        )


def open_descriptor_channel(read_fd: int, write_fd: int, max_size: int) -> PairedChannel:
    """Make a channel from two descriptors, choosing for each direction whether it needs threads.

    The channel owns both. See `DescriptorChannel` for the arguments and errors.
    """
    _check_descriptors(read_fd, write_fd)
    return PairedChannel(
        reader=_NonBlockingReader(max_size=max_size, fd=read_fd)
        if _allows_non_blocking(read_fd)
        else ThreadedReader(max_size=max_size, fd=read_fd),
        writer=_NonBlockingWriter(fd=write_fd)
        if _allows_non_blocking(write_fd)
        else ThreadedWriter(fd=write_fd),
    )


def _check_descriptors(read_fd: int, write_fd: int) -> None:
    if read_fd == write_fd:
        raise ValueError(f"read_fd and write_fd must be different descriptors, not both {read_fd}")
    os.fstat(read_fd)
    os.fstat(write_fd)


def _allows_non_blocking(fd: int) -> bool:
    status = os.fstat(fd)
    # With `2>&1` the standard error stream is likely to be the same description, and code that logs
    # to it would get BlockingIOError.
    with suppress(OSError):
        if os.path.samestat(status, os.fstat(STDERR)):
            return False
    pollable = stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)
    return pollable and sys.platform != "win32"


@attrs.define(eq=False, repr=False)
class _NonBlocking:
    """A descriptor in non-blocking mode; its number is -1 once it is released."""

    fd: int
    _restore: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        if sys.platform != "win32":  # pragma: no branch
            # Restored only if it was switched here: the other direction may share the description.
            self._restore = os.get_blocking(self.fd)
            os.set_blocking(self.fd, False)

    def release(self) -> None:
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        trio.lowlevel.notify_closing(fd)
        with suppress(OSError):
            if self._restore and sys.platform != "win32":
                os.set_blocking(fd, True)
            os.close(fd)


@final
@attrs.define(eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class _NonBlockingReader(FrameReader):
    _source: _NonBlocking = attrs.field(alias="fd", converter=_NonBlocking, kw_only=True)
    _drained: bool = attrs.field(default=False, init=False)

    async def _read(self) -> bytes:
        while True:  # noqa: ASYNC913 - each pass begins with one
            if self._source.fd < 0:
                raise trio.ClosedResourceError("this channel was closed")
            try:
                if self._drained:
                    await trio.lowlevel.wait_readable(self._source.fd)
                else:
                    await trio.lowlevel.checkpoint()
                chunk = os.read(self._source.fd, READ_SIZE)
            except BlockingIOError:
                self._drained = True
            except OSError as error:
                if self._source.fd < 0:
                    raise trio.ClosedResourceError("this channel was closed") from None
                raise trio.BrokenResourceError("the peer can no longer be read from") from error
            else:
                # A short read took all there was: trying again at once would be in vain.
                self._drained = len(chunk) < READ_SIZE
                return chunk

    def close(self) -> None:
        self._source.release()


@final
@attrs.define(eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class _NonBlockingWriter(FrameWriter):
    _sink: _NonBlocking = attrs.field(alias="fd", converter=_NonBlocking, kw_only=True)

    def _write(self, data: bytes | memoryview) -> int:
        try:
            return os.write(self._sink.fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._break() from error

    async def _flush(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while self._tail:
            count = self._write(self._tail[0])
            if count:
                self._written(count)
                continue
            waited = True
            try:
                await trio.lowlevel.wait_writable(self._sink.fd)
            except OSError as error:
                raise self._break() from error
            self._check()
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    @property
    def wait_not_read(self) -> Callable[[], Awaitable[None]] | None:
        """See `FrameWriter.wait_not_read`."""
        return self._wait_for_error if sys.platform == "linux" else None

    async def _wait_for_error(self) -> None:
        await wait_for_hangup(self._sink.fd)

    def close(self) -> None:
        self._closed = True
        self._tail.clear()
        self._sink.release()
