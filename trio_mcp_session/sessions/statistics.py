"""The figures that a manager gives of all its sessions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..core.metrics import ManagerStatistics

if TYPE_CHECKING:
    from .manager import SessionManager


def statistics_of(manager: SessionManager) -> ManagerStatistics:
    """Return what there is and what there was. Looks at every session."""
    sessions = list(manager._store)
    connections = [one._connection for one in sessions if one._connection is not None]
    server = manager._server
    return ManagerStatistics(
        active=Counter(session.kind for session in sessions),
        states=Counter(session.state for session in sessions),
        reserved=manager._admission.reserved,
        opened=manager._counters.opened,
        refused=Counter(manager._counters.refused),
        ended=Counter(manager._counters.ended),
        durations=tuple(manager._counters.durations),
        in_flight=sum(one.in_flight for one in connections) + server.in_flight,
        listens=server.open_subscriptions,
        subscribers=len(manager._event_streams),
        events_missed=manager._counters.events_missed,
        hook_failures=manager._counters.hook_failures,
        http_refused=Counter(manager._counters.http_refused),
        draining=manager._draining,
    )
