"""The response to one stateless request: where it ends, the request ends (2026-07-28)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs
import trio

from ...protocol.sse import COMMENT, encode_event
from ...server.request_source import RequestSource
from ..asgi import Receive
from .client_left import wait_client_left
from .endpoint import WATCH_AFTER, Endpoint
from .http_options import SlowReader
from .sse_response import SseResponse
from .wakeup import Wakeup

if TYPE_CHECKING:
    from ...core.byte_budget import ByteBudget
    from ...server.request import InFlightRequest
    from .http_request import HttpRequest


@final
@attrs.define(eq=False, repr=False, init=False)
class StatelessStream:
    """The sink of a stateless request.

    If the client leaves, its request is cancelled and nothing is kept: closing the response is how
    clients cancel (*Cancellation*).
    """

    # The defaults are in `__init__`, which is written by hand: see `InFlightRequest`.
    endpoint: Endpoint
    _receive: Receive
    budget: ByteBudget
    """The budget of the client's party, which counts the bytes that wait to be written."""
    _may_drop: bool
    """Whether messages are dropped when there is no room. Those of a subscription wait."""
    source: RequestSource | None
    """Where the POST came from."""
    _may_stream: bool
    """Whether it may be answered by a stream: some clients accept JSON only."""
    _cancels: bool
    """Whether a client that leaves cancels its request: not up to 2025-11-25."""
    _http: HttpRequest | None
    """The HTTP request that it responds to."""
    request: InFlightRequest | None
    answer: bytes | None
    """The answer, where it is the only thing to send."""
    _since: float
    _waiter: Wakeup
    _response: SseResponse | None
    _watching: trio.CancelScope | None
    _over: bool

    def __init__(
        self,
        endpoint: Endpoint,
        receive: Receive,
        budget: ByteBudget,
        *,
        may_drop: bool = True,
        source: RequestSource | None = None,
        may_stream: bool = True,
        cancels: bool = True,
        http: HttpRequest | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._receive = receive
        self.budget = budget
        self._may_drop = may_drop
        self.source = source
        self._may_stream = may_stream
        self._cancels = cancels
        self._http = http
        self.request = self.answer = self._response = self._watching = None
        self._since = trio.current_time()
        self._waiter = Wakeup()
        self._over = False

    # The request's sink.

    @property
    def connected(self) -> bool:
        """See `MessageSink.connected`."""
        return not self._over

    @property
    def reachable(self) -> bool:
        """See `MessageSink.reachable`: a client that has left cannot reconnect."""
        return not self._over

    def send_result(self, frame: bytes) -> None:
        """See `MessageSink.send_result`."""
        self._over = True
        if self._response is None:
            self.answer = frame
            self._waiter.wake()
        else:
            self._response.put(encode_event(frame, None), is_result=True)
            self._response.end()

    def send_no_result(self) -> None:
        """See `MessageSink.send_no_result`: the client has left."""
        self._over = True
        self._waiter.wake()
        if self._response is not None:
            self._response.cut()

    def send_message(self, frame: bytes) -> bool:
        """See `MessageSink.send_message`."""
        if self._over:
            return True
        if not self._may_stream:
            self.endpoint.server.stateless.counters.dropped += 1
            return True
        response = self.start_stream()
        if response.full:
            policy = self.endpoint.options.slow_reader
            if self.request is None:
                # The first messages of a subscription: its client had no time to read them yet.
                return False
            if policy is SlowReader.END_STREAM:
                self.leave()
            elif policy is SlowReader.BLOCK or not self._may_drop:
                return False
            else:
                self.endpoint.server.stateless.counters.dropped += 1
            return True
        response.put(encode_event(frame, None))
        return True

    async def wait_writable(self) -> None:
        """See `MessageSink.wait_writable`."""
        await trio.lowlevel.checkpoint()
        while self._response is not None and self._response.full and not self._over:
            await self._response.wait_for_progress()

    def close_stream(self, retry: float | None) -> bool:  # noqa: ARG002  # the client cannot reconnect
        """See `MessageSink.close_stream`: the client cannot reconnect."""
        return False

    # As what responses are for.

    @property
    def send_timeout(self) -> float:
        """See `Carried.send_timeout`."""
        return self.endpoint.manager.config.cleanup.send_timeout

    def begin_response(self, response: SseResponse) -> None:
        """See `Carried.begin_response`."""

    def end_response(self, response: SseResponse) -> None:
        """See `Carried.end_response`: `close` comes next."""

    def stalled(self, response: SseResponse) -> None:
        """See `Carried.stalled`."""
        self.leave()
        response.cut()  # Also where it is only the end that is not read.

    # As what the endpoint works with.

    def start_stream(self) -> SseResponse:
        """Answer by a stream from now on. Not a checkpoint."""
        if self._response is None:
            self._response = SseResponse(self, COMMENT)
            self._waiter.wake()
        return self._response

    async def decided(self) -> SseResponse | None:
        """Wait until it is settled how to answer. A checkpoint, if it is not settled yet.

        Returns:
            What carries the stream of events; None where there is only the `answer`, or the client
            has left.
        """
        if not self._over:
            self.endpoint.stateless_ticker.add(self)
            if self._response is None:
                await self._waiter.sleep()
        return self._response

    def tick(self, now: float) -> None:
        """Check whether the client is still there, and keep its connection from being cut."""
        if self._over:
            return  # The answer may have come in this moment: it is to go out as it is.
        if self._watching is None and now - self._since >= WATCH_AFTER:
            self._watching = trio.CancelScope()
            self.endpoint.manager._start_connection_task(self._watch, self._watching)
        if self._may_stream and now - self._since >= self.endpoint.options.stream_after:
            self.start_stream()
        if self._watching is not None and (self._response is not None or not self._may_stream):
            # The response has a clock of its own, and it may be open for hours.
            self.endpoint.stateless_ticker.discard(self)

    def leave(self) -> None:
        """Called when the client has left. Not a checkpoint.

        Its request is cancelled, or, up to 2025-11-25, runs on without an answer; a tool may choose
        otherwise.
        """
        if self._over:
            return
        if not self._cancels:
            self.send_no_result()
        elif self.request is not None:
            adopter = None
            if self.request.on_disconnect == "adopt" and self._http is not None:
                adopter = self.endpoint.session_beside(self._http)
            self.endpoint.server.cancel(self.request, adopter)

    def close(self) -> None:
        """Release everything: the response is written, or cannot be. Not a checkpoint."""
        if not self._over:
            self.leave()
        if self._response is not None:
            self._response.relieve()  # It may not have been written.
        # Both hold this stream: the circles would wait for the collector.
        self.request = self._response = None
        self.endpoint.stateless_ticker.discard(self)
        if self._watching is not None:
            self._watching.cancel(reason="response is over")

    async def _watch(self, scope: trio.CancelScope) -> None:
        with scope:
            await wait_client_left(self._receive)
            self.leave()
