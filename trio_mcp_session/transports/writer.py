"""The writer of a channel: one queue, and one task while it is not empty.

A message that can be written at once is written by the task that sends it. The rest waits in a
queue for a task that exists only while messages wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, final

import attrs
import trio

from ..core.reasons import TerminationReason
from ..protocol.framing import HasByteBudget
from ..server.request_source import RequestSource
from .channel import BatchChannel

BATCH_SIZE: Final = 65536
"""The largest write, in bytes, except for larger messages: the timeout is for each write."""


@final
@attrs.define(eq=False, repr=False, weakref_slot=False)
class ConnectionWriter:
    """Sends frames over a channel, results and other messages in their order.

    Args:
        channel: The channel to write to.
        limit: How many bytes may wait before there is no room for messages.
        timeout: Seconds that the peer may refuse to read.
    """

    _channel: BatchChannel = attrs.field(alias="channel")
    _limit: int = attrs.field(alias="limit")
    _timeout: float = attrs.field(alias="timeout")
    source: RequestSource | None = attrs.field(default=None, kw_only=True)
    """The client's principal with claims and scopes, which the session does not keep."""
    _nursery: trio.Nursery = attrs.field(init=False)
    _on_failure: Callable[[TerminationReason], None] = attrs.field(init=False)
    _queue: deque[tuple[bytes, bool]] | None = attrs.field(default=None, init=False)
    _waiting: int = attrs.field(default=0, init=False)
    _writer: trio.CancelScope | None = attrs.field(default=None, init=False)
    _broken: bool = attrs.field(default=False, init=False)
    _gathering: bool = attrs.field(default=False, init=False)
    _progress: trio.Event | None = attrs.field(default=None, init=False)
    _session: HasByteBudget | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<ConnectionWriter: {self._waiting} bytes waiting>"

    def open(
        self,
        nursery: trio.Nursery,
        on_failure: Callable[[TerminationReason], None],
        session: HasByteBudget | None = None,
    ) -> None:
        """Set where the writer's task runs, and what to call when writing fails for good.

        Nothing is sent before that.

        Args:
            nursery: Where the task runs.
            on_failure: Called when writing fails for good.
            session: The session whose budget counts the bytes that wait.
        """
        self._nursery = nursery
        self._on_failure = on_failure
        self._session = session

    def close(self) -> None:
        """Drop messages that are not written yet; wake senders that wait for room."""
        self._broken = True
        self._count(-self._waiting)
        if self._writer is not None:
            self._writer.cancel(reason="connection is over")

    @property
    def full(self) -> bool:
        """Whether there is no room for messages."""
        return self._waiting >= self._limit

    def gather(self) -> None:
        """Write the next messages together. Called before a batch is processed."""
        self._gathering = True

    @property
    def connected(self) -> bool:
        """See `MessageSink.connected`."""
        return not self._broken

    @property
    def reachable(self) -> bool:
        """See `MessageSink.reachable`: a closed connection cannot be opened again."""
        return not self._broken

    def send_result(self, frame: bytes) -> None:
        """See `MessageSink.send_result`."""
        self._send(frame, is_result=True)

    def send_no_result(self) -> None:
        """See `MessageSink.send_no_result`: on a connection there is nothing to do."""

    def send_message(self, frame: bytes) -> bool:
        """See `MessageSink.send_message`."""
        if self._waiting >= self._limit:
            return False
        self._send(frame, is_result=False)
        return True

    async def wait_writable(self) -> None:
        """See `MessageSink.wait_writable`."""
        await trio.lowlevel.checkpoint()
        while self._waiting >= self._limit:
            await self._wait_for_progress()

    def close_stream(self, retry: float | None) -> bool:  # noqa: ARG002  # there is none
        """See `MessageSink.close_stream`: a connection is not the stream of one request."""
        return False

    async def finish(self) -> None:
        """See `SessionSink.finish`."""
        await trio.lowlevel.checkpoint()
        while self._writer is not None:
            await self._wait_for_progress()

    def _send(self, frame: bytes, *, is_result: bool) -> None:
        if self._broken:
            return
        if self._writer is None:
            taken = False
            if not self._gathering:
                try:
                    taken = self._channel.send_nowait(frame)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._fail(TerminationReason.TRANSPORT_FAILED)
                    return
                if taken and not self._channel.needs_flush:
                    return
            # Shielded: a cancellation from outside must not lose the last messages of a session.
            self._writer = trio.CancelScope(shield=True)
            self._queue = deque()
            tail = len(frame) if taken else 0
            self._count(tail)
            self._nursery.start_soon(self._write, self._writer, self._queue, tail, name="writer")
            if taken:
                return
        assert self._queue is not None
        self._queue.append((frame, is_result))
        self._count(len(frame))

    async def _write(
        self, scope: trio.CancelScope, queue: deque[tuple[bytes, bool]], tail: int
    ) -> None:
        """Write until the queue is empty.

        Args:
            scope: Ends it.
            queue: What is to be written.
            tail: Bytes of the frame that the channel has taken and not written yet.
        """
        try:
            with scope:
                while queue or self._channel.needs_flush:
                    scope.deadline = trio.current_time() + self._timeout
                    # Here, not at the end: the next batch may come in while this one is written.
                    self._gathering = False
                    # The rest of a frame goes alone: it may be progress, which shares no write.
                    batch = [] if self._channel.needs_flush else self._next_batch(queue)
                    await self._channel.send_batch(batch)
                    # Nothing waits any longer where the connection has failed meanwhile.
                    self._count(-min(self._waiting, sum(map(len, batch), tail)))
                    tail = 0
                    self._made_progress()
            if scope.cancelled_caught and not self._broken:
                self._fail(TerminationReason.UNRESPONSIVE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._fail(TerminationReason.TRANSPORT_FAILED)
        except Exception:
            # Not an error of the connection, but of the channel: its owner has to get it.
            self._fail(TerminationReason.TRANSPORT_FAILED)
            raise
        finally:
            self._writer = self._queue = None
            self._made_progress()

    @staticmethod
    def _next_batch(queue: deque[tuple[bytes, bool]]) -> list[bytes]:
        """Take results that follow each other, or one other message.

        Progress never shares a write with its result: some clients process the result first, and
        then drop the progress.
        """
        batch: list[bytes] = []
        size = 0
        while queue and size < BATCH_SIZE:
            frame, is_result = queue[0]
            if not is_result and batch:
                break
            batch.append(frame)
            size += len(frame)
            queue.popleft()
            if not is_result:
                break
        return batch

    def _fail(self, reason: TerminationReason) -> None:
        self._broken = True
        self._count(-self._waiting)
        self._on_failure(reason)

    def _count(self, change: int) -> None:
        """Count bytes that wait, or no longer wait."""
        self._waiting += change
        if self._session is not None and change:
            self._session._byte_budget().add(change)

    async def _wait_for_progress(self) -> None:
        if self._progress is None:
            self._progress = trio.Event()
        await self._progress.wait()

    def _made_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None
