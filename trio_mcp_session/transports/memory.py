"""Clients in the same process, over channels in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from ..core.identity import Principal, Transport
from ..protocol.eras import Eras, served_eras
from ..protocol.framing import BadFrame, Frame
from ..server.mcp_server import server_of
from .channel import BatchChannel
from .connection import serve_client

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager

MEMORY: Final = Transport("memory")


@attrs.define(eq=False)
class _Pipe:
    """One direction: frames that were sent and not received yet."""

    capacity: int
    max_size: float
    frames: list[Frame] = attrs.field(factory=list[Frame], init=False)
    ended: bool = attrs.field(default=False, init=False)
    unread: bool = attrs.field(default=False, init=False)
    changed: trio.Event | None = attrs.field(default=None, init=False)

    def tell(self) -> None:
        if self.changed is not None:
            self.changed.set()
            self.changed = None

    async def wait(self) -> None:
        if self.changed is None:
            self.changed = trio.Event()
        await self.changed.wait()


@final
@attrs.define(eq=False, repr=False)
class MemoryChannel(BatchChannel):
    """One end of a connection in memory.

    It holds ``capacity`` frames in each direction: a peer that does not read stops its sender, as
    over a real connection. Other than there, any number of tasks may send and receive at a time,
    and a cancelled `send_batch` keeps nothing for later: the frames are sent, or they are not.
    """

    _incoming: _Pipe = attrs.field(alias="incoming")
    _outgoing: _Pipe = attrs.field(alias="outgoing")
    _closed: bool = attrs.field(default=False, init=False)

    def __repr__(self) -> str:
        return f"<MemoryChannel: {len(self._incoming.frames)} frames to receive>"

    async def receive_batch(self) -> list[Frame]:
        """See `BatchChannel.receive_batch`."""
        await trio.lowlevel.checkpoint()
        while True:  # noqa: ASYNC913  # began with a checkpoint
            if self._closed:
                raise trio.ClosedResourceError("this channel was closed")
            if self._incoming.frames:
                batch, self._incoming.frames = self._incoming.frames, []
                self._incoming.tell()
                return batch
            if self._incoming.ended:
                raise trio.EndOfChannel
            await self._incoming.wait()

    async def send_batch(self, frames: Sequence[bytes]) -> None:
        """See `BatchChannel.send_batch`. A cancelled call has sent a part of the frames."""
        await trio.lowlevel.checkpoint()
        for frame in frames:
            while not self.send_nowait(frame):
                await self._outgoing.wait()

    def send_nowait(self, frame: bytes) -> bool:
        """See `BatchChannel.send_nowait`."""
        if self._closed or self._outgoing.ended:
            raise trio.ClosedResourceError("this channel was closed")
        if self._outgoing.unread:
            raise trio.BrokenResourceError("the peer no longer reads")
        if len(self._outgoing.frames) >= self._outgoing.capacity:
            return False
        fits = len(frame) <= self._outgoing.max_size
        self._outgoing.frames.append(frame if fits else BadFrame.too_long(frame))
        self._outgoing.tell()
        return True

    @property
    def needs_flush(self) -> bool:
        """See `BatchChannel.needs_flush`: frames are never taken in part."""
        return False

    async def send_eof(self) -> None:
        """Close the sending direction; receiving still works. A checkpoint."""
        self._outgoing.ended = True
        self._outgoing.tell()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close both directions. Not a checkpoint."""
        self._closed = True
        self._outgoing.ended = True
        self._incoming.unread = True
        self._incoming.frames.clear()
        self._outgoing.tell()
        self._incoming.tell()

    async def aclose(self) -> None:
        """Close both directions, also when cancelled. A checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()


def memory_channel_pair(
    capacity: int = 1024, *, max_size: float = float("inf")
) -> tuple[MemoryChannel, MemoryChannel]:
    """Make two connected ends. Not a checkpoint.

    Args:
        capacity: Frames that may wait in each direction.
        max_size: Bytes of the largest frame that the second end gets whole.
    """
    there, back = _Pipe(capacity, max_size), _Pipe(capacity, float("inf"))
    return MemoryChannel(incoming=back, outgoing=there), MemoryChannel(
        incoming=there, outgoing=back
    )


async def connect_memory(
    manager: SessionManager,
    *,
    principal: Principal | None = None,
    capacity: int = 1024,
    eras: Eras | None = None,
) -> MemoryChannel:
    """Connect a client in this process, and return its end of the connection.

    A checkpoint; when cancelled, there is no connection. It is served in the manager's nursery,
    until the channel is closed or its session ends. The client begins with ``initialize``, as on
    any other connection.

    Args:
        manager: The manager to connect to.
        principal: The principal of the client.
        capacity: Frames that may wait in each direction.
        eras: The revisions that are served; by default as the application says.

    Raises:
        ValueError: ``eras`` is not a value of `Eras`.
    """
    served_eras(server_of(manager).application, eras)  # Raises if `eras` is invalid.
    client, server = memory_channel_pair(capacity, max_size=manager.config.limits.max_message_size)
    manager._start_connection_task(_serve, manager, server, principal, eras)
    try:
        await trio.lowlevel.checkpoint()
    except BaseException:
        client.close()  # The caller does not get the channel.
        raise
    return client


def _serve(
    manager: SessionManager,
    channel: MemoryChannel,
    principal: Principal | None,
    eras: Eras | None,
) -> Awaitable[object]:
    # Not a coroutine function, which would cost memory in every idle connection.
    return serve_client(manager, channel, principal=principal, transport=MEMORY, eras=eras)
