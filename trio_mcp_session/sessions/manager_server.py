"""What a manager asks of the server that it is a part of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..core.metrics import BroadcastReport
    from .session import Session


class ManagerServer(Protocol):
    """What is served beside sessions: requests and subscriptions that belong to no session.

    `server.mcp_server.McpServer` implements it. Except for the coroutines, nothing of it is a
    checkpoint.
    """

    @property
    def in_flight(self) -> int:
        """How many requests run that belong to no session."""
        ...

    @property
    def open_subscriptions(self) -> int:
        """How many subscriptions clients have open."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether there is any such request, also one that waits, or any subscription."""
        ...

    def check_not_inside(self) -> None:
        """Refuse to let a request wait for the end of all requests, its own included.

        Raises:
            RuntimeError: One of these requests runs the calling task.
        """
        ...

    def revoke(self, principal: Principal) -> None:
        """End the requests and subscriptions of a principal."""
        ...

    async def end_subscriptions(self) -> None:
        """End all subscriptions. A checkpoint."""
        ...

    async def wait_done(self) -> None:
        """Wait until none of these requests runs. A checkpoint."""
        ...

    def end(self) -> None:
        """Answer the requests that are open with an error, and cancel them."""
        ...

    def broadcast(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        where: Callable[[Session], bool] | None,
    ) -> BroadcastReport:
        """See `SessionManager.broadcast`."""
        ...

    def notify_list_changed(self, what: str) -> BroadcastReport:
        """See `SessionManager.notify_list_changed`."""
        ...

    def notify_resource_updated(self, uri: str) -> BroadcastReport:
        """See `SessionManager.notify_resource_updated`."""
        ...
