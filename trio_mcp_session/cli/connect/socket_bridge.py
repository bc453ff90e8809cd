"""The bridge to a socket: byte for byte, in both directions."""

from __future__ import annotations

from typing import final

import attrs
import trio

from ...transports.framed_io import READ_SIZE, PairedChannel
from .host_ending import HostEnding


@final
@attrs.define(eq=False)
class SocketBridge:
    """Carries what the host writes to the server, and what the server writes to the host.

    It holds one piece of 64 KiB for each direction, and reads the next piece only after that was
    taken: both directions are as fast as the slower side.

    Args:
        host: Standard input and output.
        server: The connection.
        grace: Seconds that the server has to finish after the host has closed standard input.
    """

    _host: PairedChannel
    _remote: trio.abc.HalfCloseableStream
    _grace: float
    _ending: HostEnding = attrs.field(factory=HostEnding, init=False)

    async def run(self) -> HostEnding:
        """Carry bytes until one of the two has left; return how the host ended. A checkpoint.

        At the end of standard input, only the sending direction of the connection is closed: what
        the server still answers is written.
        """
        with self._ending.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ending.wait_gone, self._host)
                nursery.start_soon(self._to_server)
                await self._to_host()
                nursery.cancel_scope.cancel(reason="the server has closed the connection")
        return self._ending

    def stop(self) -> None:
        """End the bridge: a signal has come. Not a checkpoint."""
        self._ending.scope.cancel(reason="asked to stop by a signal")

    async def _to_server(self) -> None:
        try:
            while data := await self._receive():
                await self._remote.send_all(data)
            await self._remote.send_eof()
        except trio.BrokenResourceError:
            # What it has sent before can still be read, up to its end.
            self._ending.end_within(self._grace)

    async def _receive(self) -> bytes:
        """Return the next bytes of the host; nothing if it has left."""
        try:
            data = await self._host.receive_some()
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self._ending.leave(self._grace)
        return data

    async def _to_host(self) -> None:
        try:
            while data := await self._remote.receive_some(READ_SIZE):
                await self._ending.write(self._host.send_all, bytes(data))
        except trio.BrokenResourceError:
            return  # The connection was reset.
