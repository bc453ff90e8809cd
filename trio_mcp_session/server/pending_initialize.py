"""An ``initialize`` that has not been answered yet (2024-11-05 to 2025-11-25)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, final

import attrs
import msgspec
import trio

from ..core.errors import McpError
from ..core.instrumentation import RequestOutcome
from ..protocol import jsonrpc
from ..protocol.jsonrpc import Notification, Request, RequestId
from .busy import OVERHEAD

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget
    from ..protocol.handshake import Handshake
    from ..sessions.instruments import ObservedRequest
    from .request_owner import RequestOwner
    from .sink import MessageSink

HeldMessage: TypeAlias = "tuple[Request | Notification, MessageSink]"
"""A message that came behind ``initialize``, and the sink for its answer."""


@final
@attrs.define(eq=False)
class PendingInitialize:
    """The request, what was agreed on, and what the client sent behind it.

    It counts as work: a drain waits for its answer, and so does a connection whose input ended.
    """

    request_id: RequestId
    sink: MessageSink
    handshake: Handshake
    take: Callable[[HeldMessage], None]
    """Takes a message that was held, once ``initialize`` is answered."""
    observed: ObservedRequest | None = None
    """Reports it to the instrumentation; None without any that observes it."""
    since: float = attrs.field(factory=trio.current_time, init=False)
    held: list[HeldMessage] = attrs.field(factory=list["HeldMessage"], init=False)
    held_bytes: int = attrs.field(default=0, init=False)
    """Bytes that the session's budget counts for these messages, until all are taken."""

    def hold(self, message: Request | Notification, sink: MessageSink, budget: ByteBudget) -> bool:
        """Hold a message undecoded; return whether there was room for it."""
        size = len(message.frame) + len(message.method) + OVERHEAD
        if not budget.claim(size):
            return False
        self.held_bytes += size
        if message.frame:
            message = msgspec.structs.replace(message, params={})
        self.held.append((message, sink))
        return True

    def uses(self, request_id: RequestId) -> bool:
        """Return whether a request with this id is ``initialize`` or held behind it."""
        return request_id == self.request_id or any(
            isinstance(message, Request) and message.id == request_id for message, _ in self.held
        )

    def cancel(self, owner: RequestOwner, request_id: object) -> bool:
        """Remove a request that is held; ``initialize`` itself cannot be cancelled.

        Returns:
            Whether there was such a request.
        """
        known_id = jsonrpc.read_id(request_id)
        for number, (message, sink) in enumerate(self.held):
            if isinstance(message, Request) and message.id == known_id:
                del self.held[number]
                owner.send_no_result(sink)
                return True
        return False

    def fail(self, owner: RequestOwner, error: McpError) -> None:
        """Answer everything with an error."""
        if self.observed is not None:
            outcome = RequestOutcome(error_code=error.code, error_message=error.message)
            self.observed.finished(outcome)
        waiting = [(m.id, sink) for m, sink in self.held if isinstance(m, Request)]
        owner.for_each(
            [(self.request_id, self.sink), *waiting], lambda one: owner.refuse(*one, error)
        )
