"""The response to one request: JSON if nothing else is sent for it, else a stream of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs
import trio
from msgspec import UnsetType

from ...protocol import jsonrpc
from ...protocol.error_codes import INTERNAL_ERROR
from ...server.request_source import RequestSource
from ..asgi import Receive
from .client_left import wait_client_left
from .message_stream import MessageStream, StreamOwner
from .sse_response import SseResponse
from .wakeup import Wakeup


@final
@attrs.define(eq=False, repr=False, init=False)
class RequestStream(MessageStream):
    """The sink of the request (or the batch) that one POST brought.

    Whether it is answered as JSON or by a stream is decided when there is something to send, and
    no sooner. The connection's task waits for that in `decided`.
    """

    # The defaults are in `__init__`, which is written by hand: see `InFlightRequest`.
    request_id: jsonrpc.RequestId | UnsetType
    """The id of the request, for an answer that the application does not give."""
    may_stream: bool
    """Whether it may be answered by a stream: headers that are out can say nothing more."""
    source: RequestSource | None
    """Where the POST came from."""
    receive: Receive | None
    """Tells when the client of the POST leaves."""
    _watching: trio.CancelScope | None
    _on_left: Callable[[], None] | None
    _since: float
    _waiter: Wakeup
    answer: bytes | None
    """The answer, where it is the only thing to send."""
    _first_response: SseResponse | None
    """What the POST's own connection carries, where it is a stream."""
    _over: bool

    def __init__(
        self,
        streams: StreamOwner,
        *,
        request_id: jsonrpc.RequestId | UnsetType,
        may_stream: bool = True,
        source: RequestSource | None = None,
        receive: Receive | None = None,
    ) -> None:
        super().__init__(streams)
        self.request_id = request_id
        self.may_stream = may_stream
        self.source = source
        self.receive = receive
        self._watching = self._on_left = self.answer = self._first_response = None
        self._since = trio.current_time()
        self._waiter = Wakeup()
        self._over = False
        if streams.endpoint.options.answers == "sse":
            self.start_stream()

    @property
    def connected(self) -> bool:
        """See `MessageSink.connected`: the client waits also before it is settled how to answer."""
        undecided = self.answer is None and self._first_response is None
        return super().connected or (undecided and self.may_stream)

    @property
    def reachable(self) -> bool:
        """See `MessageSink.reachable`."""
        return self.may_stream and super().reachable

    def send_result(self, frame: bytes) -> None:
        """See `MessageSink.send_result`."""
        self._over = True
        if self._first_response is None:
            self.answer = frame
            self._waiter.wake()
        else:
            try:
                self._push(frame, is_result=True)
            finally:
                self._end_stream()  # Also when the event store fails: nothing more will come.

    def send_no_result(self) -> None:
        """See `MessageSink.send_no_result`."""
        # With an empty response, the client would reconnect to wait for the answer.
        self.send_result(
            jsonrpc.encode_error(self.request_id, INTERNAL_ERROR, "Request was cancelled")
        )

    def send_message(self, frame: bytes) -> bool:
        """See `MessageSink.send_message`."""
        if self._over:
            # A request to the client is cancelled after the request that made it.
            return self.streams.send_message(frame)
        if not self.may_stream:
            self._drop()  # No connection waits for it.
            return True
        self.start_stream()
        return self._push(frame)

    def close_stream(self, retry: float | None) -> bool:
        """See `MessageSink.close_stream`."""
        if not self._over and self.streams.can_poll and not self.is_lost:
            self.start_stream()
        return super().close_stream(retry)

    def start_stream(self) -> None:
        """Answer by a stream, unless that is settled. Not a checkpoint."""
        if self.may_stream and self._first_response is None and self.answer is None:
            self._first_response = self.attach()
            self.streams.keep(self)
            self._waiter.wake()

    async def decided(self) -> SseResponse | None:
        """Wait until it is settled how to answer. A checkpoint, if it is not settled yet.

        Returns:
            What carries the stream of events; None where there is just the `answer`.
        """
        if self.answer is None and self._first_response is None:
            ticker = self.streams.endpoint.ticker
            ticker.add(self)
            try:
                await self._waiter.sleep()
            except trio.Cancelled:
                # The client has left without an event id, so it cannot resume. A stream may
                # have been opened in the same moment.
                self.may_stream = False
                self.let_go()
                self._give_up_stream()
                raise
            finally:
                ticker.discard(self)
        return self._first_response

    def tick(self, now: float) -> None:
        """Open a stream when the answer takes long: connections that are silent get cut."""
        if now - self._since >= self.streams.endpoint.options.stream_after:
            self.start_stream()

    def _give_up_stream(self) -> None:
        """Forget what was to be written on a stream that its connection will not write."""
        if self._first_response is not None:
            self._first_response.relieve()

    def watch_client(self, on_left: Callable[[], None]) -> None:
        """Call a function if the client leaves before the response is over. Not a checkpoint."""
        if self.receive is not None and self._watching is None:
            self._on_left = on_left
            self._watching = trio.CancelScope()
            self.streams.endpoint.manager._start_connection_task(self._watch, self._watching)

    def response_over(self) -> None:
        """Called when the response of the POST is over. Not a checkpoint."""
        response = self._first_response
        if self._over:  # Otherwise a client may resume the stream.
            self._first_response = None  # It refers to the stream.
        if self._watching is not None:
            self._watching.cancel(reason="response is over")
            on_left, self._on_left = self._on_left, None
            if on_left is not None and response is not None and response.broken:
                on_left()

    async def _watch(self, scope: trio.CancelScope) -> None:
        assert self.receive is not None
        with scope:
            await wait_client_left(self.receive)
            on_left, self._on_left = self._on_left, None
            if on_left is not None:
                on_left()

    def _end_stream(self) -> None:
        self.let_go()
        self.streams.release(self)
