"""What a request belongs to, and where it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..core.metrics import SessionCounters
    from .outlet import Outlet


class Room(Protocol):
    """Where handlers run."""

    def _spawn(self, async_fn: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        """Start a task there. Not a checkpoint."""
        ...

    def _context(self) -> Context:
        """Return the context variables that a handler begins with."""
        ...


class RequestOwner(Protocol):
    """Counts what its requests do, and hears of what goes wrong with them.

    `Session` is one. Requests of 2026-07-28 belong to no session on the wire: their owner serves
    any number of clients, and knows none of them.
    """

    _counters: SessionCounters

    def _dress(self, method: str, result: object) -> Mapping[str, Any]:
        """Add to the result of a modern request what the server says of itself and of it."""
        ...

    def _begin_work(self) -> None:
        """Learn that another request has begun. Not a checkpoint."""
        ...

    def _end_work(self) -> None:
        """Learn that a request is over. Not a checkpoint."""
        ...

    def _why_it_ends(self) -> str:
        """Say why a request is cut off for which nobody else has said it."""
        ...

    def _send_result(self, outlet: Outlet, frame: bytes) -> None:
        """Send the answer to a request. Not a checkpoint."""
        ...

    def _send_message(self, outlet: Outlet, frame: bytes) -> bool:
        """Send something else for a request; tell whether there was room. Not a checkpoint."""
        ...

    def _report(self, error: Exception) -> None:
        """Tell of an error. Not a checkpoint."""
        ...

    def _violation(self, what: str) -> None:
        """Count what a peer did wrong, and tell of it. Not a checkpoint."""
        ...
