"""The interface of a manager that its sessions use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from ..core.config import SessionConfig
    from ..core.events import Event
    from ..core.identity import Principal
    from ..core.metrics import ManagerCounters
    from ..core.reasons import TerminationReason
    from .byte_budgets import ByteBudgets
    from .endings import Endings
    from .event_stream import EventStreams
    from .server_lifespans import ContextOf
    from .session import Session
    from .shutdown_deadline import ShutdownDeadline

T = TypeVar("T")


class SessionHost(Protocol):
    """The manager of a session, as the session sees it. `SessionManager` implements it.

    None of its methods is a checkpoint.
    """

    config: SessionConfig
    """Limits and clocks."""

    _counters: ManagerCounters
    _event_streams: EventStreams
    _byte_budgets: ByteBudgets
    _endings: Endings
    _shutdown: ShutdownDeadline
    _drains: dict[Session, float]
    """When the grace of sessions that drain by themselves is over."""

    def server_state(self, lifespan: ContextOf[T]) -> T:
        """Return the value of the server's lifespan."""
        ...

    @property
    def _is_left(self) -> bool:
        """Whether the sessions nursery is cancelled, so that no task can start in it."""
        ...

    def _emit(self, event: Event) -> None:
        """Send an event to the manager's own subscribers."""
        ...

    def _forget(self, session: Session) -> None:
        """Remove a session from the table. Called when it has ended."""
        ...

    def _call_over(self, session: Session) -> None:
        """Drop the handler that a session owned. Called when its last hooks have run."""
        ...

    def _watch(self, session: Session) -> None:
        """Tell the watcher that a clock of a session may be due sooner than before."""
        ...

    def _terminate_all_of(self, principal: Principal, reason: TerminationReason) -> None:
        """End all sessions of a principal."""
        ...
