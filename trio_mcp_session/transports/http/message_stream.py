"""One stream of messages to a client, whatever connection carries it at the moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from ...core.reasons import TerminationReason
from ...protocol.sse import COMMENT, encode_event, encode_priming, encode_retry
from .delivery import Delivery
from .event_store import Event, EventsPurged
from .options import SlowReader

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .session_log import SessionLog
    from .session_streams import SessionStreams


@attrs.define(eq=False, repr=False)
class MessageStream:
    """A stream of a session: a request's, or the one that GET opens.

    Connections come and go, the stream stays: what it carries is kept under event ids where there
    is an event store, and each message is on one stream only.
    """

    streams: SessionStreams
    number: int = 0
    """Its number in the session's event log; 0 while it has none."""
    _last_event_id: str | None = attrs.field(default=None, init=False)
    _missed_after: str | None = attrs.field(default=None, init=False)
    """The last event before those that nobody was there for."""
    _delivery: Delivery | None = attrs.field(default=None, init=False)

    @property
    def connected(self) -> bool:
        """See `Outlet.connected`."""
        return self._delivery is not None

    @property
    def reachable(self) -> bool:
        """See `Outlet.reachable`."""
        return self.connected or self.streams.endpoint.options.event_store is not None

    async def wait_writable(self) -> None:
        """See `Outlet.wait_writable`."""
        await trio.lowlevel.checkpoint()
        while self._delivery is not None and self._delivery.full:
            await self._delivery.wait_for_progress()

    @property
    def endpoint(self) -> Endpoint:
        """See `Carried.endpoint`."""
        return self.streams.endpoint

    @property
    def send_timeout(self) -> float:
        """See `Carried.send_timeout`."""
        return self.streams.session._clocks.send_timeout

    def begin_response(self, delivery: Delivery) -> None:
        """See `Carried.begin_response`."""
        self.streams.begin_response(delivery)

    def end_response(self, delivery: Delivery) -> None:
        """See `Carried.end_response`."""
        self.detach(delivery)
        self.streams.end_response(delivery)

    def attach(self, last_event_id: str | None = None) -> Delivery:
        """Let a new connection carry the stream; one that did so before is relieved.

        Args:
            last_event_id: Where the client stopped reading; None at the beginning.
        """
        if self._delivery is not None:
            self._delivery.relieve()
        self._missed_after = None
        self._delivery = Delivery(self, self._opening(last_event_id))
        return self._delivery

    def detach(self, delivery: Delivery) -> None:
        """Learn that a connection carries it no more. Not a checkpoint."""
        if self._delivery is delivery:
            self._delivery = None

    def missed(self) -> tuple[str | None, Sequence[Event]]:
        """Return what was sent while nobody was there, and the event that it came after.

        What is not kept any more counts as dropped: nobody has asked for it by its id.
        """
        log = self.streams.log
        if log is None or self._missed_after is None:
            return self._last_event_id, ()
        try:
            return self._missed_after, log.after(self._missed_after)[1]
        except EventsPurged as purged:
            self._drop(purged.missing)
            return self._missed_after, purged.kept

    def let_go(self) -> None:
        """Let the connection end that carries it; the stream goes on. Not a checkpoint."""
        if self._delivery is not None:
            self._delivery.end()
            self._delivery = None

    def close_stream(self, retry: float | None) -> bool:
        """See `Outlet.close_stream`."""
        if self._delivery is None or not self.streams.can_poll:
            return False
        if retry is not None:
            self._delivery.put(encode_retry(retry))
        self.let_go()
        return True

    def stalled(self, delivery: Delivery) -> None:
        """Learn that the client has read nothing for too long. Not a checkpoint."""
        policy = self.streams.endpoint.options.slow_reader
        # Of one that the stream has let go, nobody waits for room.
        if policy is SlowReader.BLOCK and delivery.full and delivery is self._delivery:
            self.streams.session.terminate(TerminationReason.UNRESPONSIVE)
        delivery.cut()

    def _push(self, frame: bytes, *, is_result: bool = False) -> bool:
        """Let a message go out; tell whether there was room for it."""
        delivery = self._delivery
        if delivery is not None and delivery.full and not is_result:
            policy = self.streams.endpoint.options.slow_reader
            if policy is SlowReader.BLOCK:
                return False
            if policy is SlowReader.DROP:
                self._drop()
                return True
            delivery.cut()
            delivery = self._delivery = None
        log = self.streams.log
        if self.streams.closed or (delivery is None and log is None):
            self._drop()
            return True
        event_id = None if log is None else self._keep(log, frame)
        if delivery is not None:
            delivery.put(encode_event(frame, event_id), is_result=is_result)
        elif event_id is None:
            self._drop()  # It was to be kept, and could not be.
        return True

    def _keep(self, log: SessionLog, frame: bytes) -> str | None:
        """Keep a message; return its event's id, or None where the store has failed."""
        number = self.number_in(log)
        if self._delivery is None and self._missed_after is None:
            self._missed_after = self._last_event_id or log.beginning(number)
        event_id = log.append(number, frame)
        if event_id is not None:
            self._last_event_id = event_id
        return event_id

    def number_in(self, log: SessionLog) -> int:
        """Return its number in the session's log, which gives it one if it has none."""
        if not self.number:
            self.number = log.open_stream()
        return self.number

    def _drop(self, count: int = 1) -> None:
        self.streams.session._counters.dropped += count

    def _opening(self, last_event_id: str | None) -> bytes:
        """Return what a response begins with."""
        log = self.streams.log
        if log is None or not self.streams.can_poll:
            return COMMENT
        event_id = last_event_id or log.beginning(self.number_in(log))
        if event_id is None:
            return COMMENT
        return encode_priming(event_id, self.streams.endpoint.options.retry)
