"""The interface of a connection that its session uses; it does not depend on the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from typing import TYPE_CHECKING, Any, Protocol

import trio

if TYPE_CHECKING:
    from ..core.reasons import EndingReason


class SessionClient(Protocol):
    """The client of a session, as the session sees it. A session has one client or none.

    `ClientConnection` of `server` implements it for MCP. Only its coroutines are checkpoints.
    """

    # What applications see through `Session`.

    @property
    def protocol_version(self) -> str | None:
        """The protocol version in use; None before the handshake."""
        ...

    @property
    def subscribed_resources(self) -> AbstractSet[str]:
        """The URIs of the resources that the client subscribed to."""
        ...

    def is_subscribed(self, uri: str) -> bool:
        """Return whether the client subscribed to a resource."""
        ...

    @property
    def in_flight(self) -> int:
        """How many of its requests run."""
        ...

    def running_requests(self) -> dict[trio.lowlevel.Task, tuple[str, float]]:
        """Return the requests that run, as `ManagerServer.running_requests` does."""
        ...

    @property
    def queued(self) -> int:
        """How many of its requests wait for another one to end."""
        ...

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """See `Session.notify`. A checkpoint."""
        ...

    def notify_nowait(self, method: str, params: Mapping[str, Any] | None) -> bool:
        """See `Session.notify_nowait`."""
        ...

    async def ask(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        timeout: float | None,  # noqa: ASYNC109  # the client is told when it is over
    ) -> Any:
        """See `Session.ask`. A checkpoint."""
        ...

    def offer(self, frame: bytes) -> bool | None:
        """Send an encoded notification if there is room for it; count it as dropped if not.

        Returns:
            Whether there was room; None if the client has not finished its handshake, or has no
            connection now.
        """
        ...

    @property
    def has_open_stream(self) -> bool:
        """Whether the client waits on an HTTP response: an answer, or a stream of messages."""
        ...

    # Clocks.

    @property
    def handshake_began(self) -> float | None:
        """When a handshake began that is under way, on Trio's clock; None if there is none."""
        ...

    def next_ping(self, quiet_since: float) -> float:
        """Return when the next keep-alive ping is due, on Trio's clock; infinite if never."""
        ...

    def ping_if_due(self, quiet_since: float, now: float) -> None:
        """Ping the client if a ping is due; end the session after too many unanswered pings."""
        ...

    def session_is_idle(self) -> None:
        """Release what only a busy session needs. Called when the session becomes idle."""
        ...

    # The order of ending; see `lifecycle`.

    def session_is_open(self) -> None:
        """Answer the handshake. Called once, when the session has its nursery."""
        ...

    def requests_end_soon(self, reason: EndingReason) -> None:
        """Announce the end of all handlers of its requests. Called before they are cancelled."""
        ...

    def drain_subscriptions(self) -> None:
        """End the subscriptions of the client that wait for no task. Called in a drain."""
        ...

    def fail_pending(self) -> None:
        """Answer open requests with the reason why the session ends. Called at least twice."""
        ...

    async def flush(self) -> None:
        """Wait until all messages are written. A checkpoint; the caller limits the time."""
        ...

    # Tasks outside of the session's nursery that have to end before the session does.

    @property
    def outside_tasks(self) -> AbstractSet[trio.lowlevel.Task]:
        """The tasks outside of the session's nursery that have not ended."""
        ...

    def let_go(self) -> bool:
        """Called when the session has ended: drop what refers to it, if nothing is open.

        Returns:
            Whether nothing was open.
        """
        ...

    @property
    def has_outside_tasks(self) -> bool:
        """Whether there are, or were, such tasks."""
        ...

    def cancel_outside_tasks(self) -> None:
        """Cancel these tasks. Called only if `has_outside_tasks`."""
        ...

    async def wait_outside_tasks(self) -> None:
        """Wait until they have ended. A checkpoint if there are any."""
        ...
