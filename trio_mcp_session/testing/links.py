"""How a test client is connected to a manager: in memory, or over HTTP in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, final

import attrs
import trio

from ..core.errors import SessionRejected
from ..core.identity import Principal, Transport
from ..core.reasons import TerminationReason
from ..transports.channel import BatchChannel
from ..transports.connection import serve_channel
from ..transports.memory import MemoryChannel
from .asgi_connection import HttpConnection
from .faults import FaultyChannel

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session
    from .client import Client


class Link(Protocol):
    """The connection of a client, for the length of its block."""

    @property
    def server_end(self) -> BatchChannel:
        """The value of `Client.server_end`."""
        ...

    @property
    def channel(self) -> MemoryChannel | HttpConnection:
        """What the client sends and receives with."""
        ...

    def find_session(self) -> Session | None:
        """Return the server's session with this client, if there is one."""
        ...

    def open(self, client: Client[Any]) -> None:
        """Start to serve the client. Not a checkpoint.

        Raises:
            RuntimeError: The manager is closed.
        """
        ...

    async def connected(self) -> None:
        """Called after the handshake or discovery. A checkpoint."""
        ...

    async def close(self) -> None:
        """End the connection, and wait until the server has ended it. A checkpoint."""
        ...


@final
@attrs.define(eq=False, kw_only=True)
class MemoryLink:
    """A connection in memory, which the manager serves."""

    manager: SessionManager
    principal: Principal | None
    channel: MemoryChannel
    server_end: BatchChannel
    # Each client has its own transport object, which identifies its session.
    _transport: Transport = attrs.field(factory=lambda: Transport("memory"), init=False)
    _served: trio.Event = attrs.field(factory=trio.Event, init=False)

    def find_session(self) -> Session | None:
        """See `Link.find_session`."""
        sessions = self.manager.sessions()
        return next((one for one in sessions if one.transport is self._transport), None)

    def open(self, client: Client[Any]) -> None:  # noqa: ARG002
        """See `Link.open`."""
        self.manager._start_connection_task(self._serve)

    async def _serve(self) -> None:
        """Run the server's end of the connection, in the sessions nursery."""
        try:
            await serve_channel(
                self.manager,
                self.server_end,
                principal=self.principal,
                transport=self._transport,
            )
        except SessionRejected:
            pass  # The client gets the error as an answer.
        finally:
            self._served.set()

    async def connected(self) -> None:
        """See `Link.connected`."""
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """See `Link.close`."""
        if isinstance(self.server_end, FaultyChannel):
            self.server_end.resume()
        await self._served.wait()


@final
@attrs.define(eq=False, kw_only=True)
class HttpLink:
    """HTTP requests to an application in this process."""

    channel: HttpConnection

    @property
    def server_end(self) -> HttpConnection:
        """See `Link.server_end`."""
        return self.channel

    def find_session(self) -> Session | None:
        """See `Link.find_session`."""
        return self.channel.session

    def open(self, client: Client[Any]) -> None:
        """See `Link.open`."""
        self.channel.serve(
            lambda: client._nursery, unanswered=client._unanswered, crashed=client._fail
        )

    async def connected(self) -> None:
        """See `Link.connected`."""
        await self.channel.open_stream()

    async def close(self) -> None:
        """See `Link.close`. Also if it is cancelled, the session ends."""
        session = self.find_session()
        try:
            await self.channel.delete()
        finally:
            if session is not None:
                session.terminate(TerminationReason.CLIENT_CLOSED)
        if session is not None:
            await session.wait_terminated()
        await self.channel.wait_idle()
