"""All streams of one session: the HTTP side of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import attrs
import trio

from ...protocol.sse import COMMENT
from ...server.client_connection import client_of
from .event_ids import EventId
from .event_store import EventsPurged, StoredEvent, UnknownEvent
from .message_stream import MessageStream
from .session_log import SessionLog, StreamOver
from .sse_response import Replayed, SseResponse

if TYPE_CHECKING:
    from ...sessions.session import Session
    from .endpoint import Endpoint


class NoRoomForReplay(Exception):
    """The budget of the session has no room for what the client missed."""


def streams_of(session: Session) -> SessionStreams:
    """Return the HTTP side of a header session. Not a checkpoint."""
    sink = client_of(session).sink
    assert isinstance(sink, SessionStreams)
    return sink


@final
@attrs.define(eq=False, repr=False)
class SessionStreams:
    """The sink of a header session; messages outside of requests use the stream of GET.

    Made before the session, which it is handed to, and gone with it.
    """

    endpoint: Endpoint
    session: Session = attrs.field(init=False)
    _standalone: MessageStream | None = attrs.field(default=None, init=False)
    _log: SessionLog | None = attrs.field(default=None, init=False)
    _unfinished: dict[int, MessageStream] | None = attrs.field(default=None, init=False)
    """Streams of requests that are not answered yet, for clients that resume them."""
    _sse_responses: set[SseResponse] | None = attrs.field(default=None, init=False)
    listeners: int = attrs.field(default=0, init=False)
    """Connections that carry a stream for GET now."""
    _responses: int = attrs.field(default=0, init=False)
    """Responses that are being waited for, or written."""
    _settled: trio.Event | None = attrs.field(default=None, init=False)
    closed: bool = attrs.field(default=False, init=False)
    """Whether the session has said all that it has to say."""

    # The session's sink.

    @property
    def connected(self) -> bool:
        """See `MessageSink.connected`."""
        return self._standalone is not None and self._standalone.connected

    @property
    def reachable(self) -> bool:
        """See `MessageSink.reachable`."""
        return self.keeps if self._standalone is None else self._standalone.reachable

    def send_result(self, frame: bytes) -> None:  # noqa: ARG002  # there is none
        """See `MessageSink.send_result`: results are sent on the streams of their requests."""
        raise AssertionError("a result belongs on its request's own stream")

    def send_no_result(self) -> None:
        """See `MessageSink.send_no_result`."""

    def send_message(self, frame: bytes) -> bool:
        """See `MessageSink.send_message`."""
        if self.endpoint.options.event_store is None and not self.connected:
            return False
        return self.standalone._push(frame)

    async def wait_writable(self) -> None:
        """See `MessageSink.wait_writable`."""
        await self.standalone.wait_writable()

    def close_stream(self, retry: float | None) -> bool:
        """See `MessageSink.close_stream`."""
        return self.standalone.close_stream(retry)

    async def finish(self) -> None:
        """See `SessionSink.finish`: ends every stream."""
        self.closed = True
        for response in self._sse_responses or ():
            response.end()
        try:
            # Connections write meanwhile: a slow store costs them nothing.
            if self._log is not None:
                await self._log.close()
            await trio.lowlevel.checkpoint()
            if self._responses:
                self._settled = trio.Event()
                await self._settled.wait()
        finally:
            for response in self._sse_responses or ():
                response.cut()
            self._standalone = self._standalone if self._responses else None

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
        options = self.endpoint.options
        if self._log is None and options.event_store is not None and not self.closed:
            self._log = SessionLog(
                options.event_store,
                self.session,
                self.endpoint.ticker,
                timeout=options.event_store_timeout,
                max_waiting=self.endpoint.manager.config.limits.max_output,
            )
        return self._log if self.keeps else None

    @property
    def has_open_stream(self) -> bool:
        """See `SessionClient.has_open_stream`."""
        return self._responses > 0

    @property
    def keeps(self) -> bool:
        """Whether there is an event store, and it has not failed for the whole session."""
        return self.endpoint.options.event_store is not None and (
            self._log is None or not self._log.failed
        )

    @property
    def has_responses(self) -> bool:
        """Whether a response is still written, or a stream could still be resumed."""
        return bool(self._responses or self._sse_responses or self._unfinished) or (
            self._log is not None and not self._log.is_closed
        )

    @property
    def can_poll(self) -> bool:
        """Whether the client can reconnect to a stream (2025-11-25, with an event store)."""
        if self.session._finished:
            return False
        revision = client_of(self.session).revision
        return revision is not None and revision.polling and self.keeps

    def begin_response(self, response: SseResponse | None = None) -> None:
        """Count a response that has to be written before the session can be over."""
        self._responses += 1
        if response is not None:
            if self._sse_responses is None:
                self._sse_responses = set()
            self._sse_responses.add(response)

    def end_response(self, response: SseResponse | None = None) -> None:
        """Called when a response is written, or cannot be."""
        self._responses -= 1
        if response is not None and self._sse_responses is not None:
            self._sse_responses.discard(response)
        if not self._responses:
            if self._settled is not None:
                self._settled.set()
            if self.closed:
                self._standalone = None  # It refers to this object.

    def keep(self, stream: MessageStream) -> None:
        """Remember a stream that a client may resume before it is answered."""
        kept = stream.keep()
        if kept is not None:
            if self._unfinished is None:
                self._unfinished = {}
            self._unfinished[kept.number] = stream

    def release(self, stream: MessageStream) -> None:
        """Forget a stream that carries nothing more; what it carried is kept as before."""
        if stream.kept is not None:
            assert self._unfinished is not None
            self._unfinished.pop(stream.kept.number, None)
            stream.kept.finish()

    def carrier(self, last_event_id: str | None) -> SseResponse | None:
        """Return the response of another GET that one would take over; None if there is none."""
        stream = self._standalone
        if last_event_id is not None:
            try:
                place = None if self.log is None else self.log.read(last_event_id)
            except (EventsPurged, StreamOver, UnknownEvent):
                return None
            stream = None if place is None else self._find(place.stream)
        response = None if stream is None else stream.response
        return response if response is not None and response.turn else None

    async def open_standalone(self, turn: int) -> SseResponse:
        """Let a connection carry what is sent outside of requests, and what it missed of it.

        A connection that carries it already is relieved: its client may have lost it, and the
        system may not know that for hours. A checkpoint only if the event store has to be awaited.

        Args:
            turn: The number of the GET: the newest one gets the stream.

        Raises:
            SessionTerminated: The session has ended meanwhile.
            NoRoomForReplay: Too many bytes are in memory for the session.
        """
        stream = self.standalone
        while True:  # noqa: ASYNC913  # it ends when no connection comes and goes meanwhile
            after = stream._missed_after
            event_id, found = await stream.missed()
            if stream._missed_after == after:
                break
        if stream.response is not None:
            return self._overtaken(stream, turn) or stream.take_over(turn)
        stream._drop(found.missing)
        if stream.is_lost:
            stream.begin_anew()
        number = 0 if stream.kept is None else stream.kept.number
        return self._deliver(stream, number, event_id, found.events, turn)

    async def resume(self, event_id: str, turn: int) -> SseResponse:
        """Resume a stream on a connection, where another connection was cut.

        A checkpoint only if the event store has to be awaited.

        Args:
            event_id: The last event that the client has seen, as it says.
            turn: The number of the GET: the newest one gets the stream.

        Raises:
            UnknownEvent: The session has not sent this event.
            EventsPurged: What came after it is gone.
            StreamOver: Nothing comes after it.
            SessionTerminated: The session has ended meanwhile.
            NoRoomForReplay: Too many bytes are in memory for the session.
        """
        log = self.log
        if log is None:
            raise UnknownEvent
        place = log.read(event_id)
        found = await log.after(place.stream, place.number)
        if found.missing:
            raise EventsPurged
        stream = self._find(place.stream)
        if stream is not None:
            return self._overtaken(stream, turn) or self._deliver(
                stream, place.stream, event_id, found.events, turn
            )
        if not found.events:
            raise EventsPurged  # The id of its last event says that it is the last.
        finished = MessageStream(self)
        response = self._deliver(finished, place.stream, event_id, found.events, finished=True)
        finished.let_go()
        return response

    @staticmethod
    def _overtaken(stream: MessageStream, turn: int) -> SseResponse | None:
        """Return the empty response of a GET if a later one carries the stream already."""
        if stream.response is None or stream.response.turn < turn:
            return None
        overtaken = SseResponse(stream, COMMENT)
        overtaken.end()
        return overtaken

    def _find(self, number: int) -> MessageStream | None:
        """Return the stream with this number in the event log, while it is open."""
        standalone = self._standalone
        kept = None if standalone is None else standalone.kept
        if kept is not None and kept.number == number:
            return standalone
        return (self._unfinished or {}).get(number)

    def _deliver(
        self,
        stream: MessageStream,
        number: int,
        event_id: str | None,
        events: Sequence[StoredEvent],
        turn: int = 0,
        *,
        finished: bool = False,
    ) -> SseResponse:
        # They are held until they are written, also if the store drops them meanwhile.
        size = sum(len(frame) for _, frame in events)
        if size and not stream.budget.claim(size):
            raise NoRoomForReplay
        response = stream.attach(event_id, turn)
        replay: deque[Replayed] = deque()
        for left, (event, frame) in zip(range(len(events))[::-1], events, strict=True):
            # What a finished stream ends with is the result.
            is_last = finished and not left
            name = self._name_of(EventId(number, event, is_last))
            replay.append((frame, name, is_last))
        response.replay(replay, size)
        return response

    def _name_of(self, place: EventId) -> str:
        assert self._log is not None
        return place.encode(self._log.name)
