"""One stream of messages to a client, whatever connection carries it at the moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from ...core.reasons import TerminationReason
from ...protocol.sse import COMMENT, FORGET_ID, encode_event, encode_priming, encode_retry
from .event_store import EventsPurged, UnknownEvent
from .http_options import SlowReader
from .session_log import Found, StreamLog
from .sse_response import SseResponse

if TYPE_CHECKING:
    from ...core.byte_budget import ByteBudget
    from ...sessions.session import Session
    from .endpoint import Endpoint
    from .session_log import SessionLog


class StreamOwner(Protocol):
    """What a stream belongs to: the streams of a session. Nothing of it is a checkpoint."""

    @property
    def endpoint(self) -> Endpoint:
        """Where the session is served."""
        ...

    @property
    def session(self) -> Session:
        """The session."""
        ...

    @property
    def log(self) -> SessionLog | None:
        """Where what is sent is kept; None where nothing is."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether there is an event store, and it has not failed for the whole session."""
        ...

    @property
    def can_poll(self) -> bool:
        """Whether the connection may be closed, since the client can reconnect."""
        ...

    @property
    def closed(self) -> bool:
        """Whether nothing more is sent to the client."""
        ...

    def send_message(self, frame: bytes) -> bool:
        """Send a message that belongs to no request; return whether there was room for it."""
        ...

    def keep(self, stream: MessageStream) -> None:
        """Remember a stream that a client may resume."""
        ...

    def release(self, stream: MessageStream) -> None:
        """Forget a stream that carries nothing more; what it carried is kept as before."""
        ...

    def begin_response(self, response: SseResponse | None = None) -> None:
        """Count a response that has to be written before the session can be over."""
        ...

    def end_response(self, response: SseResponse | None = None) -> None:
        """Count a response that is written, or cannot be."""
        ...


@attrs.define(eq=False, repr=False)
class MessageStream:
    """A stream of a session: a request's, or the one that GET opens.

    Connections come and go, the stream stays: what it carries is kept under event ids where there
    is an event store, and each message is on one stream only.
    """

    streams: StreamOwner
    kept: StreamLog | None = attrs.field(default=None, init=False)
    """What is kept of it; None while nothing was, or where nothing can be."""
    _missed_after: int | None = attrs.field(default=None, init=False)
    """The number of the last event before those that no connection carried."""
    _response: SseResponse | None = attrs.field(default=None, init=False)

    @property
    def connected(self) -> bool:
        """See `MessageSink.connected`."""
        return self._response is not None

    @property
    def reachable(self) -> bool:
        """See `MessageSink.reachable`."""
        return self.connected or (self.streams.keeps and not self.is_lost)

    @property
    def is_lost(self) -> bool:
        """Whether the event store has failed for this stream: it can no longer be resumed."""
        return self.kept is not None and self.kept.lost

    async def wait_writable(self) -> None:
        """See `MessageSink.wait_writable`."""
        await trio.lowlevel.checkpoint()
        while (full := self._full()) is not None:
            await full.wait_for_progress()

    def _full(self) -> SseResponse | StreamLog | None:
        """Return what has no room for messages; None where there is room."""
        for one in (self._response, self.kept):
            if one is not None and one.full:
                return one
        return None

    @property
    def endpoint(self) -> Endpoint:
        """See `Carried.endpoint`."""
        return self.streams.endpoint

    @property
    def send_timeout(self) -> float:
        """See `Carried.send_timeout`."""
        return self.streams.session._clocks.send_timeout

    @property
    def budget(self) -> ByteBudget:
        """See `Carried.budget`."""
        return self.streams.session._byte_budget()

    def begin_response(self, response: SseResponse) -> None:
        """See `Carried.begin_response`."""
        self.streams.begin_response(response)

    def end_response(self, response: SseResponse) -> None:
        """See `Carried.end_response`."""
        self.detach(response)
        self.streams.end_response(response)

    @property
    def response(self) -> SseResponse | None:
        """What carries the stream now."""
        return self._response

    def attach(self, event_id: str | None = None, turn: int = 0) -> SseResponse:
        """Let a new connection carry the stream; one that did so before is relieved.

        Args:
            event_id: Where the client stopped reading; None at the newest event.
            turn: The number of the GET that opens the connection.
        """
        if self._response is not None:
            self._response.relieve()
        self._missed_after = None
        self._response = SseResponse(self, self._opening(event_id), turn)
        return self._response

    def take_over(self, turn: int) -> SseResponse:
        """Let a new connection carry the stream in place of the one that carries it now.

        What is not written yet is written on the new one.

        Args:
            turn: The number of the GET that opens the connection.
        """
        assert self._response is not None
        replay, size, others = self._response.hand_over()
        waiting = [one for one in others if one[0] != COMMENT]
        if self.is_lost:
            self.begin_anew()
        if not (replay or waiting):
            return self.attach(turn=turn)
        # The ids of these events come first: a priming event would name the newest one.
        self._response = SseResponse(self, COMMENT, turn)
        self._response.replay(replay, size)
        for event, is_result in waiting:
            self._response.put(event, is_result=is_result)
        return self._response

    def detach(self, response: SseResponse) -> None:
        """Called when a connection has stopped carrying it. Not a checkpoint."""
        if self._response is response:
            self._response = None

    async def missed(self) -> tuple[str | None, Found]:
        """Return what no connection carried, and the id of the event before.

        A checkpoint only if the event store has to be awaited.

        Raises:
            SessionTerminated: The session has ended meanwhile.
        """
        kept, after = self.kept, self._missed_after
        if kept is None or after is None:
            return None, Found(())
        try:
            return kept.id_of(after), await kept.after(after)
        except (EventsPurged, UnknownEvent):
            # The messages of a lost stream are counted already.
            return None, Found((), 0 if kept.lost else kept.last - after)

    def begin_anew(self) -> None:
        """Continue as a new stream of the event store, which has failed for this one."""
        self.kept = None

    def let_go(self) -> None:
        """End the connection that carries it; the stream stays open. Not a checkpoint."""
        if self._response is not None:
            self._response.end()
            self._response = None

    def close_stream(self, retry: float | None) -> bool:
        """See `MessageSink.close_stream`."""
        if self._response is None or not self.streams.can_poll or self.is_lost:
            return False
        if retry is not None:
            self._response.put(encode_retry(retry))
        self.let_go()
        return True

    def stalled(self, response: SseResponse) -> None:
        """Called when the client has read nothing for too long. Not a checkpoint."""
        policy = self.streams.endpoint.options.slow_reader
        # No sender waits for room on a response that the stream has let go.
        if policy is SlowReader.BLOCK and response.full and response is self._response:
            self.streams.session.terminate(TerminationReason.UNRESPONSIVE)
        response.cut()

    def _push(self, frame: bytes, *, is_result: bool = False) -> bool:
        """Let a message go out; return whether there was room for it."""
        response = self._response
        if response is not None and response.full and not is_result:
            policy = self.streams.endpoint.options.slow_reader
            if policy is SlowReader.BLOCK:
                return False
            if policy is SlowReader.DROP:
                self._drop()
                return True
            response.cut()
            response = self._response = None
        if self.streams.closed:
            self._drop()
            return True
        kept = self.keep()
        if kept is not None and kept.full and not is_result:
            return False
        event_id = None if kept is None else self._append(kept, frame, is_last=is_result)
        if response is not None:
            response.put(encode_event(frame, event_id), is_result=is_result)
        elif event_id is None:
            self._drop()
        return True

    def _append(self, kept: StreamLog, frame: bytes, *, is_last: bool) -> str | None:
        """Keep a message; return its event's id, or None where it cannot be kept."""
        before = kept.last
        event_id = kept.append(frame, is_last=is_last)
        if event_id is not None and self._response is None and self._missed_after is None:
            self._missed_after = before
        return event_id

    def keep(self) -> StreamLog | None:
        """Return what is kept of the stream, from now on if there was nothing.

        Returns:
            None where nothing can be kept.
        """
        if self.kept is None and (log := self.streams.log) is not None:
            self.kept = log.open_stream(self._on_lost)
        return self.kept

    def _on_lost(self) -> None:
        """Tell the client that the stream can no longer be resumed."""
        assert self.kept is not None
        if self._response is not None:
            self._response.put(FORGET_ID)
        elif self._missed_after is not None:
            self._drop(self.kept.last - self._missed_after)
            self._missed_after = None

    def _drop(self, count: int = 1) -> None:
        self.streams.session._counters.dropped += count

    def _opening(self, event_id: str | None) -> bytes:
        """Return what a response begins with."""
        if self.streams.can_poll:
            if event_id is None:
                kept = self.keep()
                if kept is not None and not kept.lost:
                    event_id = kept.id_of(kept.last)
            if event_id is not None:
                return encode_priming(event_id, self.streams.endpoint.options.retry)
        return COMMENT
