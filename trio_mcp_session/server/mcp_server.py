"""The server of a manager: the application, stateless requests and subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast, final

import attrs

from ..core.errors import AccessRevoked, ShuttingDown
from ..core.identity import is_of_connection
from ..core.ids import SessionKind
from ..core.metrics import BroadcastReport
from ..protocol import jsonrpc
from ..protocol.subscription_messages import (
    CHANGES,
    LISTS,
    RESOURCE_UPDATED,
    Notice,
    list_changed,
)
from .busy import BUSY
from .listen import ListenSubscriptions
from .parked import forget_parked_handler
from .request_rates import RequestRates
from .request_watch import RequestWatch
from .resting import Resting
from .stateless_requests import StatelessRequests
from .task import all_tasks, count_no_longer, forget_task, task_of, tasks_of

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..core.peer import Party
    from ..core.reasons import EndingReason
    from ..core.task_info import TaskInfo
    from ..sessions.manager import SessionManager
    from ..sessions.manager_server import RunningRequests
    from ..sessions.session import Session
    from .application import Application
    from .request import InFlightRequest
    from .served_application import ServedApplication


@final
@attrs.define(eq=False, repr=False)
class McpServer:
    """Serves what belongs to no session; it implements `ManagerServer`.

    Requests of 2026-07-28 over HTTP and all subscriptions belong to it. The connections of sessions
    also use it: for the application, and for stateless requests on a pipe.
    """

    served: ServedApplication
    manager: SessionManager
    stateless: StatelessRequests = attrs.field(init=False)
    subscriptions: ListenSubscriptions = attrs.field(init=False)
    resting: Resting = attrs.field(init=False)
    """The queues of connections that have idle workers."""
    rates: RequestRates | None = attrs.field(init=False)
    """How often requests may be sent; None without a limit."""

    def __attrs_post_init__(self) -> None:
        self.rates = RequestRates.of(self.manager.config.limits)
        self.resting = Resting(self.manager)
        self.stateless = StatelessRequests(self.manager, self.served)
        self.subscriptions = ListenSubscriptions(self.manager, self.stateless, self.served)
        served_by = getattr(self.application, "served_by", None)
        if served_by is not None:
            served_by(self.manager)

    @property
    def application(self) -> Application | None:
        """The program that clients are served by; None if the program opens all sessions itself."""
        return self.served.application

    def request_watch(self) -> RequestWatch | None:
        """Return what reports requests to the instrumentation; None without any."""
        instruments = self.manager._instruments
        return RequestWatch(instruments, self.served.get()) if instruments else None

    # Requests of 2026-07-28 over HTTP.

    def no_turn_for(self, party: Party | None, *, at_once: bool) -> str | None:
        """Return the error if another request of a party would be refused; None if it is taken.

        Args:
            party: The party.
            at_once: The request is answered without a place among the running ones.
        """
        if self.manager._draining:
            return str(ShuttingDown())
        return None if at_once or self.stateless.has_room_for(party) else BUSY

    def cancel(self, request: InFlightRequest, adopter: Session | None = None) -> None:
        """Cancel a request whose client has left; nothing is sent. Not a checkpoint.

        Args:
            request: The request. Its handler may have chosen to run on.
            adopter: The session that may adopt its handler.
        """
        if self.subscriptions.cancel(request) or self.stateless.client_left(request, adopter):
            self.stateless.counters.cancelled += 1

    # The interface for the manager.

    @property
    def open_subscriptions(self) -> int:
        """See `ManagerServer.open_subscriptions`."""
        return len(self.subscriptions)

    @property
    def is_busy(self) -> bool:
        """See `ManagerServer.is_busy`."""
        return bool(len(self.subscriptions) or self.stateless.busy)

    def check_not_inside(self) -> None:
        """See `ManagerServer.check_not_inside`."""
        self.stateless.check_not_inside()

    def revoke(self, principal: Principal) -> None:
        """See `ManagerServer.revoke`.

        Subscriptions are notified of the end of tasks before they end.
        """
        self.stateless.revoke(principal)
        self.fail_tasks(principal, str(AccessRevoked()))
        self.subscriptions.revoke(principal)

    def requests_end_soon(self, reason: EndingReason) -> None:
        """See `ManagerServer.requests_end_soon`."""
        self.stateless.end_soon(reason)

    async def end_subscriptions(self) -> None:
        """See `ManagerServer.end_subscriptions`."""
        await self.subscriptions.end()

    async def wait_done(self) -> None:
        """See `ManagerServer.wait_done`."""
        await self.stateless.wait_done()

    async def end(self) -> None:
        """See `ManagerServer.end`. Subscriptions to tasks end after that."""
        try:
            await self.stateless.end()
        finally:
            await self.stateless.for_each_in_batches(  # noqa: ASYNC102  # shields itself
                list(all_tasks(self.manager)), lambda one: one.fail(str(ShuttingDown()))
            )

    # Tasks.

    def fail_tasks(self, principal: Principal, why: str) -> None:
        """Fail the tasks of a principal, before its subscriptions end: they are notified of it.

        Not a checkpoint. The sessions of the tasks have to be ended, too.
        """
        tasks = tasks_of(self.manager, principal)
        self.stateless.for_each(tasks, lambda task: task.fail(why))

    def task_removed(self, session: Session) -> None:
        """See `ManagerServer.task_removed`."""
        count_no_longer(session)

    def call_over(self, session: Session) -> None:
        """See `ManagerServer.call_over`."""
        if session.kind is SessionKind.TASK:
            forget_task(session)
        else:
            forget_parked_handler(session)

    def list_tasks(self) -> list[TaskInfo]:
        """See `ManagerServer.list_tasks`."""
        return [task.info() for task in all_tasks(self.manager)]

    def cancel_task(self, task_id: str) -> bool:
        """See `ManagerServer.cancel_task`."""
        session = self.manager.store.get(task_id, SessionKind.TASK)
        task = None if session is None else task_of(session)
        if task is None or task.status.is_final:
            return False
        task.cancel("cancelled by the server")
        return True

    def running_requests(self) -> RunningRequests:
        """See `ManagerServer.running_requests`."""
        found = self.stateless.running_requests()
        for task in all_tasks(self.manager):
            found |= task.running_handler()
        return found

    # Notifications to many clients.

    def broadcast(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        where: Callable[[Session], bool] | None,
    ) -> BroadcastReport:
        """See `SessionManager.broadcast`."""
        heard = 0 if where is not None else self._notify_subscriptions(method, params)
        return self._send_to(self.manager.sessions(where), method, params, heard)

    def notify_list_changed(self, what: str, principal: Principal | None) -> BroadcastReport:
        """See `SessionManager.notify_list_changed`."""
        if what not in LISTS:
            raise ValueError(f"there are lists of {', '.join(LISTS)}, not of {what!r}")
        method = list_changed(what)
        if principal is None:
            return self.broadcast(method, None, None)
        heard = self._notify_subscriptions(method, None, principal)
        return self._send_to(self._sessions_of(principal), method, None, heard)

    def notify_resource_updated(self, uri: str) -> BroadcastReport:
        """See `SessionManager.notify_resource_updated`."""
        params = {"uri": uri}
        subscribed = [
            session
            for session in self.manager.sessions()
            if session._connection is not None and session._connection.is_subscribed(uri)
        ]
        heard = self._notify_subscriptions(RESOURCE_UPDATED, params)
        return self._send_to(subscribed, RESOURCE_UPDATED, params, heard)

    def _sessions_of(self, principal: Principal) -> list[Session]:
        """Return the sessions whose requests have this principal, if they bring no other one."""
        if not is_of_connection(principal):
            return self.manager._store.of_principal(principal)
        return self.manager.sessions(
            lambda session: session.principal is None and session._default_principal == principal
        )

    def _notify_subscriptions(
        self, method: str, params: Mapping[str, Any] | None, principal: Principal | None = None
    ) -> int:
        if method not in CHANGES or not len(self.subscriptions):
            return 0
        return self.subscriptions.notify(Notice.of(method, params), principal)

    @staticmethod
    def _send_to(
        sessions: Iterable[Session],
        method: str,
        params: Mapping[str, Any] | None,
        listeners: int,
    ) -> BroadcastReport:
        frame = jsonrpc.encode_notification(method, params)
        sent = dropped = 0
        for session in sessions:
            taken = None if session._connection is None else session._connection.offer(frame)
            if taken is not None:
                sent, dropped = (sent + 1, dropped) if taken else (sent, dropped + 1)
        return BroadcastReport(sent=sent, dropped=dropped, listeners=listeners)


def server_of(manager: SessionManager) -> McpServer:
    """Return the server that a manager is a part of."""
    # The engine's types do not know the server's: `open_session_manager` sets this server.
    return cast("McpServer", manager._server)
