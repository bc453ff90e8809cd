"""Injected faults: peers that stall or break, truncated lines, clean-up that fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import NoReturn, final

import attrs
import trio

from ..protocol.framing import Frame
from ..transports.channel import BatchChannel

Fault = Callable[[], Awaitable[object]]
"""A fault: a function that is called without arguments, and awaited."""


async def crash(error: Exception) -> NoReturn:
    """Raise ``error``. A checkpoint first."""
    await trio.lowlevel.checkpoint()
    raise error


async def hang() -> NoReturn:
    """Wait until cancelled. A checkpoint."""
    await trio.sleep_forever()


async def refuse_cancellation(seconds: float) -> None:
    """Sleep for ``seconds``, ignoring cancellations. Not a cancel point.

    Args:
        seconds: Seconds of Trio's clock.
    """
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


async def _nothing() -> None:
    await trio.lowlevel.checkpoint()


@final
class FaultyContext(AbstractAsyncContextManager[None]):
    """An async context manager that fails or stalls when it is entered or left.

    Use it as a lifespan, or let a session hold it::

        Router("demo", lifespan=lambda session: FaultyContext(leave=lambda: crash(OSError())))
        await session.enter_async_context(FaultyContext(leave=hang))

    Args:
        enter: The fault when it is entered; by default only a checkpoint.
        leave: The fault when it is left; by default only a checkpoint.
    """

    def __init__(self, *, enter: Fault = _nothing, leave: Fault = _nothing) -> None:
        self._enter = enter
        self._leave = leave
        self.entered: int = 0
        """How often it was entered without failing."""
        self.leaving: int = 0
        """How often leaving it began."""
        self.left: int = 0
        """How often it was left without failing."""

    async def __aenter__(self) -> None:
        """Enter it, with the fault ``enter``."""
        await self._enter()
        self.entered += 1

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave it, with the fault ``leave``."""
        self.leaving += 1
        await self._leave()  # noqa: ASYNC102  # what it is about
        self.left += 1


def _opened() -> trio.Event:
    event = trio.Event()
    event.set()
    return event


@final
@attrs.define(eq=False, repr=False)
class FaultyChannel(BatchChannel):
    """A channel that stalls or breaks on request.

    Put it around the server's end of a connection in memory::

        async with connect_client(manager, through=FaultyChannel) as client:
            client.server_end.stall()

    or around any other channel before it is given to `serve_channel`.

    Args:
        channel: The channel that carries the frames.
    """

    _channel: BatchChannel = attrs.field(alias="channel")
    _readable: trio.Event = attrs.field(factory=_opened, init=False)
    _writable: trio.Event = attrs.field(factory=_opened, init=False)
    _reading: trio.CancelScope | None = attrs.field(default=None, init=False)
    _writing: trio.CancelScope | None = attrs.field(default=None, init=False)
    _broken: bool = attrs.field(default=False, init=False)

    def __repr__(self) -> str:
        return f"<FaultyChannel of {self._channel!r}{', broken' if self._broken else ''}>"

    def stall(self, *, reading: bool = True, writing: bool = True) -> None:
        """Stop both directions until `resume`. Not a checkpoint.

        Args:
            reading: Receive nothing, not even the end of the stream.
            writing: Accept no frames, as if the peer does not read. Frames that were accepted
                before are still written.
        """
        if reading:
            self._readable = trio.Event()
            if self._reading is not None:
                self._reading.cancel(reason="the channel stalls")
        if writing:
            self._writable = trio.Event()

    def resume(self) -> None:
        """Continue in both directions. Not a checkpoint."""
        self._readable.set()
        self._writable.set()

    def fail(self) -> None:
        """Break: all calls raise `trio.BrokenResourceError`, also those that wait now.

        Not a checkpoint.
        """
        self._broken = True
        for scope in (self._reading, self._writing):
            if scope is not None:
                scope.cancel(reason="the channel breaks")

    async def receive_batch(self) -> list[Frame]:
        """See `BatchChannel.receive_batch`."""
        await trio.lowlevel.checkpoint()
        while not self._broken:  # noqa: ASYNC913  # began with a checkpoint
            # A cancelled receive loses nothing, so it can be called again.
            with trio.CancelScope() as scope:
                self._reading = scope
                await self._readable.wait()
                return await self._channel.receive_batch()
        raise self._failure()

    async def send_batch(self, frames: Sequence[bytes]) -> None:
        """See `BatchChannel.send_batch`."""
        await trio.lowlevel.checkpoint()
        if not self._broken:
            with trio.CancelScope() as scope:
                self._writing = scope
                await self._writable.wait()
                await self._channel.send_batch(frames)
                return
        raise self._failure()

    def send_nowait(self, frame: bytes) -> bool:
        """See `BatchChannel.send_nowait`."""
        if self._broken:
            raise self._failure()
        return self._writable.is_set() and self._channel.send_nowait(frame)

    @property
    def needs_flush(self) -> bool:
        """See `BatchChannel.needs_flush`."""
        return self._channel.needs_flush

    async def aclose(self) -> None:
        """Close the wrapped channel, also when cancelled. A checkpoint."""
        self.resume()  # Wake the tasks that wait.
        await self._channel.aclose()

    @staticmethod
    def _failure() -> trio.BrokenResourceError:
        return trio.BrokenResourceError("a fault was injected")


async def cut_short(
    stream: trio.abc.HalfCloseableStream, frame: bytes, at: int | None = None
) -> None:
    """Send the beginning of a line over a byte stream, and end the stream within the line.

    A checkpoint. The other direction stays open, so that the server's error can be read.

    Args:
        stream: The client's end.
        frame: The message, without its newline.
        at: How many bytes of it to send; half of them by default.
    """
    await stream.send_all(frame[: len(frame) // 2 if at is None else at])
    await stream.send_eof()
