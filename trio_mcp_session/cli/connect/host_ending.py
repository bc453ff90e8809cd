"""How a bridge ends: the host closes standard input, stops reading, or the server leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, final

import attrs
import trio

from ...transports.framed_io import PairedChannel

T = TypeVar("T")


@final
@attrs.define(eq=False)
class HostEnding:
    """The scope of a bridge, and why it ends."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    """Around all that the bridge does."""

    host_left: bool = attrs.field(default=False, init=False)
    """Whether the host has closed standard input, or no longer reads standard output."""

    def end_within(self, seconds: float) -> None:
        """End the bridge after some seconds at the latest. Not a checkpoint."""
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + seconds)

    def leave(self, grace: float) -> None:
        """Note that the host has closed standard input: the server has a grace to finish.

        Not a checkpoint.

        Args:
            grace: Seconds.
        """
        self.host_left = True
        self.end_within(grace)

    def end(self) -> None:
        """End the bridge now: the host does not read. Not a checkpoint."""
        self.host_left = True
        self.scope.cancel(reason="standard output has no reader")

    async def wait_gone(self, host: PairedChannel) -> None:
        """Wait until standard output has no reader, then end the bridge. A checkpoint.

        Where the system does not tell, the next write does.
        """
        wait = host.wait_not_read
        if wait is not None:
            await wait()
            self.end()

    async def write(self, send: Callable[[T], Awaitable[None]], data: T) -> None:
        """Write to standard output; end the bridge if it has no reader. A checkpoint."""
        try:
            await send(data)
        except trio.BrokenResourceError:
            self.end()
            await trio.lowlevel.checkpoint()
