"""Answers a batch: the results of its requests are sent as one array (2025-03-26)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

from ..protocol.jsonrpc import Batch, Invalid, Request, encode_batch
from .request_source import source_of

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget
    from .request_source import RequestSource
    from .sink import MessageSink


@final
@attrs.define(eq=False)
class BatchSink:
    """The sink of the requests in one batch: holds their results until all are there."""

    _sink: MessageSink
    _open: int
    _budget: ByteBudget
    """What counts the results."""
    _frames: list[bytes] = attrs.field(factory=list[bytes], init=False)

    @classmethod
    def of(cls, batch: Batch, sink: MessageSink, budget: ByteBudget) -> BatchSink:
        """Return a sink that collects this many results."""
        return cls(
            sink,
            sum(
                isinstance(message, Request) or (isinstance(message, Invalid) and message.answer)
                for message in batch.messages
            ),
            budget,
        )

    @property
    def source(self) -> RequestSource | None:
        """Where the batch came from."""
        return source_of(self._sink)

    @property
    def connected(self) -> bool:
        """Whether a connection to the client is open now."""
        return self._sink.connected

    @property
    def reachable(self) -> bool:
        """Whether a message sent now can reach the client, now or later."""
        return self._sink.reachable

    def send_result(self, frame: bytes) -> None:
        """Store a result; send all with the last one."""
        self._frames.append(frame)
        self._budget.add(len(frame))
        self._one_less()

    def send_no_result(self) -> None:
        """Stop waiting for the result of a request that was cancelled."""
        self._one_less()

    def send_message(self, frame: bytes) -> bool:
        """Send a message at once, outside of the array."""
        return self._sink.send_message(frame)

    async def wait_writable(self) -> None:
        """Wait until there is room for a message. A checkpoint."""
        await self._sink.wait_writable()

    def close_stream(self, retry: float | None) -> bool:
        """Close the stream; the client reconnects for the rest. Not a checkpoint."""
        return self._sink.close_stream(retry)

    def _one_less(self) -> None:
        self._open -= 1
        if not self._open:
            self._budget.release(sum(map(len, self._frames)))
            if self._frames:
                self._sink.send_result(encode_batch(self._frames))
            else:
                self._sink.send_no_result()
