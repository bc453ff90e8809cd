"""The interface of a server that its manager uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import trio

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..core.metrics import BroadcastReport
    from ..core.reasons import EndingReason
    from ..core.task_info import TaskInfo
    from .session import Session


RunningRequests: TypeAlias = dict[trio.lowlevel.Task, tuple[str, float]]
"""Requests by the tasks that run them: a description, and when that began, on Trio's clock."""


class ManagerServer(Protocol):
    """Serves the requests and subscriptions that belong to no session.

    `server.mcp_server.McpServer` implements it. Only its coroutines are checkpoints.
    """

    @property
    def open_subscriptions(self) -> int:
        """How many subscriptions clients have open."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether there is a stateless request, running or waiting, or a subscription."""
        ...

    def running_requests(self) -> RunningRequests:
        """Return the stateless requests that run, by their tasks. Safe in another thread."""
        ...

    def check_not_inside(self) -> None:
        """Raise if the calling task belongs to a stateless request, which would wait for itself.

        Raises:
            RuntimeError: One of these requests runs the calling task.
        """
        ...

    def revoke(self, principal: Principal) -> None:
        """End the requests and subscriptions of a principal."""
        ...

    def requests_end_soon(self, reason: EndingReason) -> None:
        """Announce the end of all handlers of these requests."""
        ...

    async def end_subscriptions(self) -> None:
        """End all subscriptions. A checkpoint."""
        ...

    async def wait_done(self) -> None:
        """Wait until none of these requests runs. A checkpoint."""
        ...

    async def end(self) -> None:
        """Answer the requests that are open with an error, and cancel them; fail all tasks.

        A checkpoint only if there are many. It cannot be cancelled.
        """
        ...

    def task_removed(self, session: Session) -> None:
        """Called when a session of kind *task* has left the table."""
        ...

    def call_over(self, session: Session) -> None:
        """Called when a session of kind *parked* or *task* has ended, after its last hook."""
        ...

    def list_tasks(self) -> list[TaskInfo]:
        """Return a description of each task."""
        ...

    def cancel_task(self, task_id: str) -> bool:
        """Cancel a task; return whether one with this id was not over."""
        ...

    def broadcast(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        where: Callable[[Session], bool] | None,
    ) -> BroadcastReport:
        """See `SessionManager.broadcast`."""
        ...

    def notify_list_changed(self, what: str, principal: Principal | None) -> BroadcastReport:
        """See `SessionManager.notify_list_changed`."""
        ...

    def notify_resource_updated(self, uri: str) -> BroadcastReport:
        """See `SessionManager.notify_resource_updated`."""
        ...
