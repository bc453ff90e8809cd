"""All streams of one session: the HTTP side of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import attrs
import trio

from ...core.errors import EventStoreFailed
from ...protocol.sse import encode_event
from ...server.client_connection import client_of
from .delivery import Delivery
from .event_store import Event, StreamOver, UnknownEvent
from .message_stream import MessageStream
from .request_stream import RequestStream
from .session_log import SessionLog

if TYPE_CHECKING:
    from ...sessions.session import Session
    from .endpoint import Endpoint


@final
@attrs.define(eq=False, repr=False)
class SessionStreams:
    """The outlet of a header session; what belongs to no request goes on the stream of GET.

    Made before the session, which it is handed to, and gone with it.
    """

    endpoint: Endpoint
    session: Session = attrs.field(init=False)
    _standalone: MessageStream | None = attrs.field(default=None, init=False)
    _log: SessionLog | None = attrs.field(default=None, init=False)
    _unfinished: dict[int, RequestStream] | None = attrs.field(default=None, init=False)
    """Streams of requests that are not answered yet, for clients that come back to them."""
    _deliveries: set[Delivery] | None = attrs.field(default=None, init=False)
    listeners: int = attrs.field(default=0, init=False)
    """Connections that carry a stream for GET now."""
    _responses: int = attrs.field(default=0, init=False)
    """Responses that are being waited for, or written."""
    _settled: trio.Event | None = attrs.field(default=None, init=False)
    closed: bool = attrs.field(default=False, init=False)
    """Whether the session has said all that it has to say."""

    # As the session's outlet.

    @property
    def connected(self) -> bool:
        """See `Outlet.connected`."""
        return self._standalone is not None and self._standalone.connected

    @property
    def reachable(self) -> bool:
        """See `Outlet.reachable`."""
        return self.connected or self.endpoint.options.event_store is not None

    def send_result(self, frame: bytes) -> None:  # noqa: ARG002  # there is none
        """See `Outlet.send_result`: results go on the streams of their requests."""
        raise AssertionError("a result belongs on its request's own stream")

    def send_no_result(self) -> None:
        """See `Outlet.send_no_result`."""

    def send_message(self, frame: bytes) -> bool:
        """See `Outlet.send_message`."""
        if not self.reachable:
            return False
        return self.standalone._push(frame)

    async def wait_writable(self) -> None:
        """See `Outlet.wait_writable`."""
        await self.standalone.wait_writable()

    def close_stream(self, retry: float | None) -> bool:
        """See `Outlet.close_stream`."""
        return self.standalone.close_stream(retry)

    async def finish(self) -> None:
        """See `Outlet.finish`: ends every stream."""
        self.closed = True
        for delivery in self._deliveries or ():
            delivery.end()
        try:
            await trio.lowlevel.checkpoint()
            if self._responses:
                self._settled = trio.Event()
                await self._settled.wait()
        finally:
            for delivery in self._deliveries or ():
                delivery.cut()
            if self._log is not None:
                self._log.close()

    # As what the endpoint works with.

    @property
    def standalone(self) -> MessageStream:
        """The stream that GET opens."""
        if self._standalone is None:
            self._standalone = MessageStream(self)
        return self._standalone

    @property
    def log(self) -> SessionLog | None:
        """Where what is sent is kept; None where nothing is, or where that has failed."""
        store = self.endpoint.options.event_store
        if self._log is None and store is not None and not self.closed:
            self._log = SessionLog(store, self._store_failed)
        return None if self._log is None or self._log.failed else self._log

    def _store_failed(self, error: Exception) -> None:
        report = EventStoreFailed()
        report.__cause__ = error
        self.session._report(report)

    @property
    def can_poll(self) -> bool:
        """Whether the client may be let go and come back (2025-11-25, with an event store)."""
        revision = client_of(self.session).revision
        return (
            revision is not None
            and revision.polling
            and self.endpoint.options.event_store is not None
            and (self._log is None or not self._log.failed)
        )

    def begin_response(self, delivery: Delivery | None = None) -> None:
        """Count a response that has to be written before the session can be over."""
        self._responses += 1
        if delivery is not None:
            if self._deliveries is None:
                self._deliveries = set()
            self._deliveries.add(delivery)

    def end_response(self, delivery: Delivery | None = None) -> None:
        """Learn that a response is written, or cannot be."""
        self._responses -= 1
        if delivery is not None and self._deliveries is not None:
            self._deliveries.discard(delivery)
        if not self._responses and self._settled is not None:
            self._settled.set()

    def keep(self, stream: RequestStream) -> None:
        """Remember a stream that a client may come back to before it is answered."""
        if self.log is not None:
            if self._unfinished is None:
                self._unfinished = {}
            self._unfinished[stream.number_in(self.log)] = stream

    def release(self, stream: RequestStream) -> None:
        """Forget a stream that carries nothing more; what it carried is kept as before."""
        if self._unfinished and self._unfinished.pop(stream.number, None) is not None:
            assert self._log is not None
            self._log.close_stream(stream.number)

    def open_standalone(self) -> Delivery:
        """Let a connection carry what is sent outside of requests, and what it missed of it."""
        return self._deliver(self.standalone, *self.standalone.missed())

    def resume(self, event_id: str) -> Delivery:
        """Let a connection go on where another one was cut.

        Args:
            event_id: The last event that the client has seen, as it says.

        Raises:
            UnknownEvent: The session has sent no such event.
            EventsPurged: What came after it is not kept any more.
            StreamOver: Nothing comes after it.
        """
        log = self.log
        if log is None:
            raise UnknownEvent
        number, events = log.after(event_id)
        if self._standalone is not None and number == self._standalone.number:
            return self._deliver(self._standalone, event_id, events)
        stream = (self._unfinished or {}).get(number)
        if stream is not None:
            return self._deliver(stream, event_id, events)
        if not events:
            raise StreamOver
        finished = MessageStream(self, number)
        delivery = self._deliver(finished, event_id, events, finished=True)
        finished.let_go()
        return delivery

    @staticmethod
    def _deliver(
        stream: MessageStream,
        last_event_id: str | None,
        events: Sequence[Event],
        *,
        finished: bool = False,
    ) -> Delivery:
        delivery = stream.attach(last_event_id)
        for number, (event_id, frame) in enumerate(events, 1):
            # What a finished stream ends with is the result.
            is_result = finished and number == len(events)
            delivery.put(encode_event(frame, event_id), is_result=is_result)
        return delivery
