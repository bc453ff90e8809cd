"""The two directions of a byte-oriented channel, and the channel that they make together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import trio

from trio_mcp_session.protocol.framing import Frame, HasByteBudget, LineDecoder

from .channel import BatchChannel

READ_SIZE: Final = 65536
"""Bytes asked for in one read: what a pipe holds on Linux."""


@attrs.define(eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class FrameReader(ABC):
    """Turns reads into batches of frames."""

    # Without `NO_OP`, a field with a converter makes every assignment to any field of the object a
    # call of Python code, and each read makes four. So it is here, and in the classes below it.
    _decoder: LineDecoder = attrs.field(alias="max_size", converter=LineDecoder)
    _ended: bool = attrs.field(default=False, init=False)
    _receiving: bool = attrs.field(default=False, init=False)

    def count_for(self, session: HasByteBudget) -> None:
        """Let a session's budget count what has come of a frame. Not a checkpoint."""
        self._decoder.count_for(session)

    @abstractmethod
    async def _read(self) -> bytes:
        """Read once, with a checkpoint; nothing means the end of the stream."""

    @abstractmethod
    def close(self) -> None:
        """Release the source at once; may be called again."""

    async def receive_some(self) -> bytes:
        """See `PairedChannel.receive_some`."""
        return await self._read()

    async def receive_batch(self) -> list[Frame]:
        """See `BatchChannel.receive_batch`."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this channel")
        self._receiving = True
        try:
            while not self._ended:
                if chunk := await self._read():
                    frames = self._decoder.feed(chunk)
                else:
                    self._ended = True
                    frames = self._decoder.close()
                if frames:
                    return frames
        finally:
            self._receiving = False
        await trio.lowlevel.checkpoint()
        raise trio.EndOfChannel


@attrs.define(eq=False, repr=False)
class FrameWriter(ABC):
    """Turns frames into writes, and keeps what a write left over."""

    _tail: list[memoryview] = attrs.field(factory=list[memoryview], init=False)
    _sending: bool = attrs.field(default=False, init=False)
    _broken: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    @abstractmethod
    def _write(self, data: bytes) -> int:
        """Write without blocking; return how many bytes went, 0 for none."""

    @abstractmethod
    async def _flush(self) -> None:
        """Write the whole tail, with a checkpoint."""

    @abstractmethod
    def close(self) -> None:
        """Release the sink at once; may be called again."""

    @property
    def needs_flush(self) -> bool:
        """See `BatchChannel.needs_flush`."""
        return bool(self._tail)

    @property
    def wait_not_read(self) -> Callable[[], Awaitable[None]] | None:
        """What waits until the peer can no longer read; None where only a write shows it."""
        return None

    @property
    def wait_gone(self) -> Callable[[], Awaitable[None]] | None:
        """What waits until the peer can no longer read, once it has closed its sending side.

        None where only a write shows it, or where `wait_not_read` waits for it anyway.
        """
        return None

    def send_nowait(self, frame: bytes) -> bool:
        """See `BatchChannel.send_nowait`."""
        self._check()
        if self._tail:
            return False
        line = frame + b"\n"
        written = self._write(line)
        if written == len(line):
            return True
        if not written:
            return False
        self._tail.append(memoryview(line)[written:])
        return True

    async def send_batch(self, frames: Sequence[bytes]) -> None:
        """See `BatchChannel.send_batch`."""
        await self.send_all(b"\n".join((*frames, b"")) if frames else b"")

    async def send_all(self, data: bytes) -> None:
        """See `PairedChannel.send_all`."""
        self._check()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this channel")
        if data:
            self._tail.append(memoryview(data))
        self._sending = True
        try:
            await self._flush()
        finally:
            self._sending = False

    def _written(self, count: int) -> None:
        """Take ``count`` bytes off the front of the tail."""
        first = self._tail[0]
        if count == len(first):
            del self._tail[0]
        else:
            self._tail[0] = first[count:]

    def _break(self) -> trio.BrokenResourceError:
        """Give up on the peer; returns the error to raise."""
        self._broken = True
        self._tail.clear()
        return trio.BrokenResourceError("the peer no longer reads")

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this channel was closed")
        if self._broken:
            raise trio.BrokenResourceError("an earlier write failed")


@attrs.define(eq=False, repr=False)
class PairedChannel(BatchChannel):
    """A channel made of a reader and a writer that know nothing of each other."""

    _reader: FrameReader = attrs.field(alias="reader")
    _writer: FrameWriter = attrs.field(alias="writer")

    def count_for(self, session: HasByteBudget) -> None:
        """Let a session's budget count what has come of a frame. Not a checkpoint."""
        self._reader.count_for(session)

    async def receive_batch(self) -> list[Frame]:
        """See `BatchChannel.receive_batch`."""
        return await self._reader.receive_batch()

    async def send_batch(self, frames: Sequence[bytes]) -> None:
        """See `BatchChannel.send_batch`."""
        await self._writer.send_batch(frames)

    async def receive_some(self) -> bytes:
        """Return the next bytes as they came; nothing at the end. Not for use with frames.

        Raises:
            trio.BrokenResourceError: The connection failed.
            trio.ClosedResourceError: This side closed the channel.
        """
        return await self._reader.receive_some()

    async def send_all(self, data: bytes) -> None:
        """Write bytes as they are. As `send_batch` does, also when cancelled."""
        await self._writer.send_all(data)

    def send_nowait(self, frame: bytes) -> bool:
        """See `BatchChannel.send_nowait`."""
        return self._writer.send_nowait(frame)

    @property
    def needs_flush(self) -> bool:
        """See `BatchChannel.needs_flush`."""
        return self._writer.needs_flush

    @property
    def wait_not_read(self) -> Callable[[], Awaitable[None]] | None:
        """What waits until the peer can no longer read; None where only a write shows it."""
        return self._writer.wait_not_read

    @property
    def wait_gone(self) -> Callable[[], Awaitable[None]] | None:
        """What waits until the peer can no longer read; for use after the end of its stream."""
        return self._writer.wait_gone

    async def aclose(self) -> None:
        """Release both directions at once, even if cancelled; what is unwritten is dropped."""
        self._reader.close()
        self._writer.close()
        await trio.lowlevel.checkpoint()
