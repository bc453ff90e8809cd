"""Event streams: bounded memory channels, whose sending side never waits.

Emitting is synchronous: no cancellation can come between a change of state and its event. A
subscriber that is too slow loses events, and gets `Lagged` in their place. The last event of a
session always reaches the session's subscribers, even if they missed events before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias, final

import attrs
import trio

from ..core.events import Event, Lagged

_Item: TypeAlias = tuple[int, Event]
"""An event, and the number of events that were dropped right before it."""


@final
@attrs.define(eq=False, repr=False)
class EventStream(trio.abc.ReceiveChannel[Event]):
    """The receiving end of a subscription to events.

    `receive` yields events in order, with `Lagged` in the place of those that were dropped. When
    the session or the manager has ended, `receive` yields the remaining events, then raises
    `trio.EndOfChannel`.
    """

    _send: trio.MemorySendChannel[_Item] = attrs.field(alias="send")
    _receive: trio.MemoryReceiveChannel[_Item] = attrs.field(alias="receive")
    _missed: int = attrs.field(default=0, init=False)
    _missed_total: int = attrs.field(default=0, init=False)
    _held: Event | None = attrs.field(default=None, init=False)
    _last: Event | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<EventStream: {self._send.statistics().current_buffer_used} events waiting>"

    @property
    def missed(self) -> int:
        """How many events were dropped so far because this subscriber was too slow."""
        return self._missed_total

    def receive_nowait(self) -> Event:
        """Return the next event, if there is one already. Not a checkpoint.

        Raises:
            trio.WouldBlock: There is none.
            trio.EndOfChannel: There will be none.
            trio.ClosedResourceError: You closed the subscription.
        """
        if self._held is not None:
            event, self._held = self._held, None
            return event
        try:
            return self._unpack(self._receive.receive_nowait())
        except trio.WouldBlock:
            if self._missed:
                return self._lagged()
            raise
        except trio.EndOfChannel:
            return self._end()

    async def receive(self) -> Event:
        """Wait for the next event. A checkpoint; a cancelled call consumes no event.

        Raises:
            trio.EndOfChannel: There will be none.
            trio.ClosedResourceError: You closed the subscription.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            event = self.receive_nowait()
        except trio.WouldBlock:
            try:
                return self._unpack(await self._receive.receive())
            except trio.EndOfChannel:
                return self._end()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return event

    def close(self) -> None:
        """Stop the subscription. Not a checkpoint."""
        self._receive.close()
        self._held = None

    async def aclose(self) -> None:
        """Stop the subscription. A checkpoint, closed in any case."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _emit(self, event: Event) -> bool:
        """Offer an event; return whether there was room."""
        try:
            self._send.send_nowait((self._missed, event))
        except trio.WouldBlock:
            self._missed += 1
            self._missed_total += 1
            return False
        except trio.BrokenResourceError:
            return True  # The subscriber has closed it, and leaves its ``with`` block next.
        self._missed = 0
        return True

    def _finish(self, last: Event | None = None) -> None:
        """End the stream, with a last event for which there is always room."""
        self._last = last
        self._send.close()

    def _unpack(self, item: _Item) -> Event:
        missed, event = item
        if not missed:
            return event
        self._held = event
        return Lagged(missed)

    def _lagged(self) -> Lagged:
        missed, self._missed = self._missed, 0
        return Lagged(missed)

    def _end(self) -> Event:
        if self._missed:
            return self._lagged()
        if self._last is not None:
            event, self._last = self._last, None
            return event
        raise trio.EndOfChannel


@final
@attrs.define(eq=False)
class EventStreams:
    """All subscriptions to the events of one source."""

    _subscriptions: dict[EventStream, None] = attrs.field(
        factory=dict[EventStream, None], init=False
    )
    _over: bool = attrs.field(default=False, init=False)
    _last: Event | None = attrs.field(default=None, init=False)

    def __len__(self) -> int:
        return len(self._subscriptions)

    @contextmanager
    def subscribe(self, max_buffer: int) -> Iterator[EventStream]:
        """Subscribe for the length of a ``with`` block. After `finish` the stream ends at once."""
        subscription = EventStream(*trio.open_memory_channel[_Item](max_buffer))
        self._subscriptions[subscription] = None
        if self._over:
            self.finish(self._last)
        try:
            yield subscription
        finally:
            self._subscriptions.pop(subscription, None)
            subscription.close()

    def emit(self, event: Event) -> int:
        """Offer an event to all subscribers; return how many had no room."""
        return sum(not subscription._emit(event) for subscription in self._subscriptions)

    def finish(self, last: Event | None = None) -> None:
        """End all subscriptions, also those that begin later."""
        self._over, self._last = True, last
        while self._subscriptions:
            subscription, _ = self._subscriptions.popitem()
            subscription._finish(last)
