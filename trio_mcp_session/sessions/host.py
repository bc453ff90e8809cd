"""What a session needs of its manager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..core.config import SessionConfig
    from ..core.events import Event
    from ..core.identity import Principal
    from ..core.metrics import ManagerCounters
    from ..core.reasons import TerminationReason
    from .event_stream import EventStreams
    from .session import Session
    from .shutdown_deadline import ShutdownDeadline


class SessionHost(Protocol):
    """The manager of a session, as the session sees it. `SessionManager` implements it.

    Nothing of it is a checkpoint.
    """

    config: SessionConfig
    """Limits and clocks."""

    _counters: ManagerCounters
    _event_streams: EventStreams
    _shutdown: ShutdownDeadline

    @property
    def _is_left(self) -> bool:
        """Whether its nursery of sessions is cancelled, so that nothing can start there."""
        ...

    def _emit(self, event: Event) -> None:
        """Send an event to the manager's own subscribers."""
        ...

    def _forget(self, session: Session) -> None:
        """Take a session out of the table: nothing of it is left."""
        ...

    def _watch(self, session: Session) -> None:
        """Note that a clock of a session may be due sooner than was known."""
        ...

    def _terminate_all_of(self, principal: Principal, reason: TerminationReason) -> None:
        """End all sessions of a principal."""
        ...
