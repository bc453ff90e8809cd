"""Channels of frames: they move frames in batches, and can write without waiting."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import final

import attrs
import trio

from trio_mcp_session.protocol.framing import BadFrame, Frame


@attrs.define(eq=False, repr=False)
class BatchChannel(trio.abc.Channel[bytes]):
    """A channel of frames that can move many of them in one step.

    A frame is one encoded message without its newline; it must not contain one.

    At most one task may receive and one may send at a time; a second one gets
    `trio.BusyResourceError`. Use either `receive` or `receive_batch` on a channel: what `receive`
    holds back is not seen by `receive_batch`.
    """

    # newest first
    _unread: list[Frame] = attrs.field(factory=list[Frame], init=False)

    @abstractmethod
    async def receive_batch(self) -> list[Frame]:
        """Wait for frames and return all that are there, at least one.

        A `BadFrame` stands for a line that was lost; the lines behind it follow as usual.
        A cancelled call loses nothing.

        Raises:
          trio.EndOfChannel: if the peer ended the stream.
          trio.BrokenResourceError: if the connection failed.
          trio.ClosedResourceError: if this side closed the channel.
          trio.BusyResourceError: if another task is receiving.
        """

    @abstractmethod
    async def send_batch(self, frames: Sequence[bytes]) -> None:
        """Write whatever an earlier call left unwritten, then ``frames``.

        From the call on the frames belong to the channel. If the call is cancelled, they stay with
        it and go out, whole and once, with the next call; ``send_batch([])`` flushes them.
        A channel that can't promise this is broken by the cancellation, and its own description
        says so.

        Raises:
          trio.BrokenResourceError: if the peer no longer reads.
          trio.ClosedResourceError: if this side closed the channel.
          trio.BusyResourceError: if another task is sending; the frames were not taken.
        """

    @abstractmethod
    def send_nowait(self, frame: bytes) -> bool:
        """Write ``frame`` now if that takes no waiting.

        Returns:
          Whether the channel took the frame. If so, it is written, or its rest is kept and
          `needs_flush` is true. If not, the caller still has it.

        Raises:
          trio.BrokenResourceError: if the peer no longer reads.
          trio.ClosedResourceError: if this side closed the channel.
        """

    @property
    @abstractmethod
    def needs_flush(self) -> bool:
        """Whether the channel holds bytes that only a call of `send_batch` will write."""

    async def receive(self) -> bytes:
        """Wait for the next frame.

        Raises:
          trio.BrokenResourceError: also for a `BadFrame`; the next call returns the frame
            behind it.
        """
        if self._unread:
            await trio.lowlevel.checkpoint_if_cancelled()
            frame = self._unread.pop()
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            frame, *others = await self.receive_batch()
            self._unread.extend(reversed(others))
        if isinstance(frame, BadFrame):
            raise trio.BrokenResourceError(f"a line from the peer was lost: {frame.loss.value}")
        return frame

    async def send(self, value: bytes) -> None:
        """Write one frame: `send_batch` with a single one."""
        await self.send_batch((value,))


def as_batch_channel(channel: trio.abc.Channel[bytes]) -> BatchChannel:
    """Return ``channel`` itself if it is a `BatchChannel`, else a view of it as one.

    The view moves one frame at a time and never writes without waiting.
    """
    return channel if isinstance(channel, BatchChannel) else _ForeignChannel(channel)


@final
@attrs.define(eq=False, repr=False)
class _ForeignChannel(BatchChannel):
    _channel: trio.abc.Channel[bytes] = attrs.field(alias="channel")
    _unsent: deque[bytes] = attrs.field(factory=deque[bytes], init=False)
    _sending: bool = attrs.field(default=False, init=False)

    async def receive_batch(self) -> list[Frame]:
        return [await self._channel.receive()]

    async def send_batch(self, frames: Sequence[bytes]) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this channel")
        self._unsent.extend(frames)
        if not self._unsent:
            await trio.lowlevel.checkpoint()
        self._sending = True
        try:
            while self._unsent:
                # A send that raises did not happen, so its frame stays.
                await self._channel.send(self._unsent[0])
                self._unsent.popleft()
        finally:
            self._sending = False

    def send_nowait(self, frame: bytes) -> bool:  # noqa: ARG002 - always has to wait
        return False

    @property
    def needs_flush(self) -> bool:
        return bool(self._unsent)

    async def aclose(self) -> None:
        await self._channel.aclose()
