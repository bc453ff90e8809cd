"""A client in memory that speaks the real protocol, to test a server with.

Nothing of the server is replaced: the client's frames go through the same reader, the same
session and the same handlers as those of any connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from ..core.lifecycle_states import SessionState
from ..protocol.jsonrpc import encode_notification, encode_request
from ..protocol.revisions import LATEST_HANDSHAKE
from .calls import ConnectionEnded, PendingRequest, ToolResult
from .conversation import ChannelT, Conversation

if TYPE_CHECKING:
    from ..sessions.session import Session

_CAPABILITIES: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "elicitation/create": ("elicitation", {}),
    "sampling/createMessage": ("sampling", {}),
    "roots/list": ("roots", {"listChanged": True}),
}


@final
@attrs.define(eq=False, repr=False)
class Client(Conversation[ChannelT]):
    """A client in memory. `connect_client` makes it.

    A task of its own reads the server's messages and passes them on: answers to their requests,
    questions to the functions that answer them, notifications to `notifications`.
    """

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._pending)} requests waiting"
        return f"<Client: {state}>"

    # Properties.

    @property
    def session(self) -> Session:
        """The server's session with this client.

        Raises:
            LookupError: The server has no session with this client, or it has ended.
        """
        for session in self._manager.sessions():
            if session.transport is self._transport:
                return session
        raise LookupError("the server has no session with this client")

    @property
    def protocol_version(self) -> str:
        """The protocol version that was agreed on.

        Raises:
            LookupError: There was no handshake yet.
        """
        if self.initialize_result is None:
            raise LookupError("there was no handshake")
        version: str = self.initialize_result["protocolVersion"]
        return version

    @property
    def closed(self) -> bool:
        """Whether the server has ended the connection, or this client dropped it."""
        return self._over.is_set()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, and all messages before that are processed.

        A checkpoint.
        """
        await self._over.wait()

    # Sending.

    async def initialize(
        self,
        version: str = LATEST_HANDSHAKE.version,
        *,
        name: str = "test",
        client_version: str = "1",
        capabilities: Mapping[str, Any] | None = None,
        confirm: bool = True,
    ) -> dict[str, Any]:
        """Make the handshake: ``initialize``, ``notifications/initialized``. A checkpoint.

        With ``confirm`` it returns when the server has processed the notification: from then on,
        this client gets the notifications that the server sends to all clients.

        Args:
            version: The protocol version to ask for.
            name: The client's name.
            client_version: The client's version.
            capabilities: The capabilities to declare; by default those with an answering function.
            confirm: Whether to send the notification.

        Returns:
            The server's answer.

        Raises:
            McpError: The server refused.
            ConnectionEnded: The server closed the connection.
        """
        if capabilities is None:
            capabilities = dict(
                _CAPABILITIES[method] for method in self._answerers if method in _CAPABILITIES
            )
        result: dict[str, Any] = await self.request(
            "initialize",
            {
                "protocolVersion": version,
                "capabilities": capabilities,
                "clientInfo": {"name": name, "version": client_version},
            },
        )
        self._note_initialize(result)
        if confirm:
            await self.notify("notifications/initialized")
            await self._wait_established()
        return result

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, progress: bool = False
    ) -> Any:
        """Send a request and return the result of its answer.

        A checkpoint. When cancelled, the server is sent ``notifications/cancelled``.

        Args:
            method: The request's method.
            params: Its parameters.
            progress: Whether to ask for progress notifications.

        Raises:
            McpError: The answer is an error.
            ConnectionEnded: The connection was closed before the answer.
        """
        pending = await self.start_request(method, params, progress=progress)
        try:
            return await pending.wait()
        except trio.Cancelled:
            pending.cancel()
            raise

    async def start_request(
        self, method: str, params: Mapping[str, Any] | None = None, *, progress: bool = False
    ) -> PendingRequest:
        """Send a request without waiting for its answer.

        A checkpoint; it waits while the server does not read. When cancelled, nothing was sent.
        Arguments as for `request`.

        Raises:
            ConnectionEnded: The connection is over.
        """
        request_id = next(self._ids)
        if progress:
            params = dict(params or {})
            params["_meta"] = {**params.get("_meta", {}), "progressToken": request_id}
        pending: PendingRequest = PendingRequest._create(request_id, method, client=self)
        self._pending[request_id] = pending
        try:
            await self.send_raw(encode_request(request_id, method, params))
        except BaseException:
            self._pending.pop(request_id, None)  # The connection has ended before.
            raise
        return pending

    async def call_tool(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, progress: bool = False
    ) -> ToolResult:
        """Call a tool (``tools/call``). Checkpoint, cancellation and errors are `request`'s."""
        result = await self.request(
            "tools/call", {"name": name, "arguments": arguments or {}}, progress=progress
        )
        return ToolResult(
            content=result["content"],
            structured=result.get("structuredContent"),
            is_error=result.get("isError", False),
        )

    async def ping(self) -> None:
        """Ping the server. Checkpoint, cancellation and errors are `request`'s."""
        await self.request("ping")

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification.

        A checkpoint; it waits while the server does not read. When cancelled, nothing was sent.

        Raises:
            ConnectionEnded: The connection is over.
        """
        await self.send_raw(encode_notification(method, params))

    async def send_raw(self, frame: bytes) -> None:
        """Send any bytes as one frame, well-formed or not. Otherwise as `notify`."""
        try:
            await self._channel.send(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionEnded("the connection is over") from error

    # Receiving.

    async def wait_notification(
        self, method: str, where: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> dict[str, Any]:
        """Wait until there is a notification, and return its parameters. A checkpoint.

        Those that are in `notifications` already count: empty that list to wait for a new one.

        Args:
            method: Its method.
            where: Returns whether these parameters are the wanted ones; by default any are.

        Raises:
            ConnectionEnded: The connection is over, and there was none.
        """

        def find() -> dict[str, Any] | None:
            found = (p for m, p in self.notifications if m == method and where(p))
            return next(found, None)

        return await self._wait_for(find, f"notification {method}")

    async def wait_stray(
        self, where: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> dict[str, Any]:
        """Wait until there is an answer that belongs to no request, and return it.

        As `wait_notification`, with `strays`; it returns the whole message.
        """
        return await self._wait_for(lambda: next(filter(where, self.strays), None), "answer")

    async def _wait_established(self) -> None:
        """Wait until the server's session has left its handshake, or has ended."""
        try:
            session = self.session
        except LookupError:
            return
        with session.subscribe() as events:
            while session.state is SessionState.INITIALIZING:
                await events.receive()

    async def _wait_for(
        self, find: Callable[[], dict[str, Any] | None], what: str
    ) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        while (found := find()) is None:
            if self.closed:
                raise ConnectionEnded(f"the connection is over, and there was no {what}")
            await self._news.wait()
        return found

    # Stalling and leaving.

    def stall(self) -> None:
        """Stop reading until `resume`. Not a checkpoint."""
        if self._stalled is None:
            self._stalled = trio.Event()
            if self._reading is not None:
                self._reading.cancel(reason="the client stalls")

    def resume(self) -> None:
        """Continue reading. Not a checkpoint."""
        if self._stalled is not None:
            self._stalled.set()
            self._stalled = None

    async def send_eof(self) -> None:
        """Close the sending direction, and continue reading. A checkpoint."""
        await self._channel.send_eof()

    def drop(self) -> None:
        """Close both directions, as when the client's process dies. Not a checkpoint."""
        self._channel.close()
        self.resume()
        self._end()
