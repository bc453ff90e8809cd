"""What a request belongs to, and where it runs."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import UnsetType

from ..core.errors import McpError, PeerViolation
from ..protocol import jsonrpc
from ..protocol.dressing import NO_CACHE, dress_result

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..core.metrics import SessionCounters
    from ..protocol.jsonrpc import RequestId
    from .manager import SessionManager
    from .outlet import Outlet

logger: Final = logging.getLogger("trio_mcp_session")


class Room(Protocol):
    """Where handlers run."""

    def _spawn(self, async_fn: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        """Start a task there. Not a checkpoint."""
        ...

    def _context(self) -> Context:
        """Return the context variables that a handler begins with."""
        ...


class RequestOwner(ABC):
    """Counts what its requests do, and hears of what goes wrong with them.

    `Session` is one. Requests of 2026-07-28 belong to no session on the wire: over HTTP their owner
    serves any number of clients, and knows none of them. Nothing here is a checkpoint.
    """

    __slots__ = ()

    _manager: SessionManager
    _counters: SessionCounters

    @abstractmethod
    def _begin_work(self) -> None:
        """Learn that another request has begun."""

    @abstractmethod
    def _end_work(self) -> None:
        """Learn that a request is over."""

    @abstractmethod
    def _why_it_ends(self) -> str:
        """Say why a request is cut off for which nobody else has said it."""

    @property
    @abstractmethod
    def _acts_for(self) -> Principal | None:
        """On whose behalf requests are made that bring no principal of their own."""

    def _end_what_came_late(self) -> None:
        """End what was opened for a client whose own end has ended all the rest already."""
        return  # Only who stands for a client has an end that others share.

    @abstractmethod
    def _report(self, error: Exception) -> None:
        """Log an error, and tell whoever listens of it."""

    def _send_result(self, outlet: Outlet, frame: bytes) -> None:
        """Send the answer to a request."""
        self._counters.messages_sent += 1
        self._counters.bytes_sent += len(frame)
        outlet.send_result(frame)

    def _refuse(self, request_id: RequestId | UnsetType, outlet: Outlet, error: McpError) -> None:
        """Answer a request that is not taken, with an error."""
        self._counters.errors += 1
        self._send_result(
            outlet, jsonrpc.encode_error(request_id, error.code, error.message, error.data)
        )

    def _send_message(self, outlet: Outlet, frame: bytes) -> bool:
        """Send something else for a request; tell whether there was room."""
        if not outlet.send_message(frame):
            return False
        self._counters.messages_sent += 1
        self._counters.bytes_sent += len(frame)
        return True

    def _dress(self, method: str, result: object, *, keepable: bool) -> Mapping[str, Any]:
        """Add to the result of a modern request what the server says of itself and of it."""
        application = self._manager._served()
        hint = application.cache_hint(method) if keepable else NO_CACHE
        return dress_result(method, result, application.server_info, hint)

    def _violation(self, what: str) -> None:
        """Count what a peer did wrong, and tell of it."""
        self._counters.bad_input += 1
        self._report(PeerViolation(what))

    def _log(self, error: Exception) -> None:
        """Leave one record: whoever has neither hooks nor subscribers still hears of a crash."""
        # What a peer does wrong must not fill anybody's disk.
        level = logging.DEBUG if isinstance(error, PeerViolation) else logging.ERROR
        if logger.isEnabledFor(level):
            logger.log(level, "%r: %s", self, error, exc_info=error.__cause__)
