"""What a manager tells: to subscribers what happens, to clients what has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, cast

import attrs

from ..core.metrics import ManagerStatistics
from ..protocol import jsonrpc
from ..protocol.subscription_messages import CHANGES, LISTS, RESOURCE_UPDATED, Notice, list_changed
from .broadcast import BroadcastReport, broadcast
from .finding import Finding
from .interrupts import ProtectedBlock
from .statistics import picture
from .subscriptions import Subscription

if TYPE_CHECKING:
    from ..core.events import Event
    from .manager import SessionManager
    from .session import Session


@attrs.define(eq=False, repr=False)
class Telling(Finding):
    """The part of a manager that tells."""

    def subscribe(self, max_buffer: int = 256) -> AbstractContextManager[Subscription]:
        """Receive the events of all sessions for the length of a block. Not a checkpoint.

        Args:
            max_buffer: Events that may wait. A reader that is slower misses some, gets `Lagged`
                in their place, and can catch up from `sessions`.
        """
        return ProtectedBlock(self._subscribers.subscribe(max_buffer))

    def statistics(self) -> ManagerStatistics:
        """Return a picture of all sessions. Not a checkpoint."""
        return picture(cast("SessionManager", self))

    def broadcast(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        where: Callable[[Session], bool] | None = None,
    ) -> BroadcastReport:
        """Send a notification to every established client that has room for it.

        Not a checkpoint: nobody waits for a slow client, it misses the message and that is
        counted. Changes of lists and resources also reach the subscriptions of 2026-07-28 that
        asked for them, unless ``where`` says that single sessions are meant.

        Args:
            method: The notification's method.
            params: Its parameters.
            where: Which sessions; all by default.
        """
        return self._tell(self.sessions(where), method, params, listeners=where is None)

    def notify_list_changed(
        self, what: Literal["tools", "prompts", "resources"]
    ) -> BroadcastReport:
        """Tell all clients that a list has changed: its items, or what is said of them.

        Sessions get ``notifications/.../list_changed``, subscriptions of 2026-07-28 that asked
        for it theirs. Not a checkpoint: a session whose client is too slow misses it, for a
        subscription it is kept.

        Args:
            what: Which list.

        Raises:
            ValueError: There is no such list.
        """
        if what not in LISTS:
            raise ValueError(f"there are lists of {', '.join(LISTS)}, not of {what!r}")
        return self._tell(self.sessions(), list_changed(what), None)

    def notify_resource_updated(self, uri: str) -> BroadcastReport:
        """Tell those clients that subscribed to a resource that it has changed.

        Sessions and subscriptions of 2026-07-28 alike (``notifications/resources/updated``). Not
        a checkpoint, as `notify_list_changed`.
        """
        subscribed = self.sessions(
            lambda session: session._resources is not None and uri in session._resources
        )
        return self._tell(subscribed, RESOURCE_UPDATED, {"uri": uri})

    def _tell(
        self,
        sessions: Iterable[Session],
        method: str,
        params: Mapping[str, Any] | None,
        *,
        listeners: bool = True,
    ) -> BroadcastReport:
        heard = 0
        if listeners and method in CHANGES and len(self._listens):
            heard = self._listens.tell(Notice.of(method, params))
        return broadcast(sessions, jsonrpc.encode_notification(method, params), heard)

    def _emit(self, event: Event) -> None:
        if self._subscribers:
            self._counters.events_missed += self._subscribers.emit(event)
