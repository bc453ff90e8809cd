"""Who listens to changes: ``subscriptions/listen`` (2026-07-28).

A subscription is a request that stays open, and for which nothing runs. It is no work: it keeps no
session from being idle, and holds up no drain. All there is of it is an entry in the one table of
its manager; on a pipe its id is known to the connection's queue as well, for it is cancelled by it.

What its client is told goes through `_send`, which lets nothing out after the end, and in the
order in which it was put there, the acknowledgement first. Where there is no room, what changed is
kept once each, so nothing is lost and nothing can grow.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from ..core.errors import McpError, ShuttingDown
from ..protocol.error_codes import INTERNAL_ERROR
from ..protocol.subscription_messages import (
    ACKNOWLEDGED,
    Notice,
    Topic,
    acknowledgement,
    listen_result,
    read_filter,
    tag_of,
)
from ..sessions.drain import BATCH
from ..sessions.error_log import write_log
from ..sessions.failures import FAILURES, contain, contained

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..protocol.jsonrpc import RequestId
    from ..sessions.manager import SessionManager
    from .request import InFlightRequest
    from .request_owner import RequestOwner
    from .request_queue import RequestQueue
    from .served_application import ServedApplication

TOO_MANY: Final = "Server is busy: too many subscriptions are open"


@final
@attrs.define(eq=False, repr=False)
class ListenSubscription:
    """One subscription, from its acknowledgement to its end."""

    request: InFlightRequest
    """The request that it is, with the way to its client."""

    principal: Principal | None
    """On whose behalf its client listens."""

    topics: tuple[Topic, ...]
    """What its client hears of."""

    queue: RequestQueue | None
    """What its id is taken in, on a pipe."""

    id: RequestId
    """The id of its request, which is the subscription's."""

    _all: ListenSubscriptions
    _tag: bytes
    _backlog: dict[Topic, Notice] | None = attrs.field(default=None, init=False)
    """What could not be written yet, in its order; each change once."""
    _writer: trio.CancelScope | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<ListenSubscription id={self.id!r} to {len(self.topics)} topics>"

    def notify(self, notice: Notice) -> None:
        """Tell its client of something, as soon as there is room. Not a checkpoint."""
        if self._backlog is not None:
            self._backlog[notice.topic] = notice
        elif not self._send(notice):
            self._backlog = {notice.topic: notice}
            self._writer = trio.CancelScope()
            self._all._manager._start_connection_task(self._write, self._writer)

    def end(self) -> None:
        """Let it end for the server, if it has not ended: its client gets the result.

        Not a checkpoint. What there is no room for by now is given up: a client whose subscription
        ends has to look for itself again. One that could not even be acknowledged has not begun:
        it is refused.
        """
        self._flush()
        if self.request.answered:
            return
        has_begun = (ACKNOWLEDGED, None) not in (self._backlog or ())
        self._finish()
        if has_begun:
            self.request.answer(listen_result(self.id))
        else:
            self.request.fail(INTERNAL_ERROR, "Subscription has ended before it began")

    def cancel(self) -> None:
        """Let it end for its client: nothing more is sent. Not a checkpoint."""
        if not self.request.answered:
            try:
                self.request.end_unanswered()
            finally:
                self._finish()

    def _finish(self) -> None:
        """Be heard of no more, and have nothing left to say."""
        self._all._remove(self)
        self._backlog = None
        if self._writer is not None:
            self._writer.cancel(reason="subscription is over")

    def _send(self, notice: Notice) -> bool:
        """Send something, unless it is over; tell whether there was room.

        A transport that fails ends it: its client could not know that it missed something.
        """
        request = self.request
        if request.answered:
            return True
        taken = request.owner.send_message(request.sink, notice.tagged(self._tag))
        if taken is None:
            self.cancel()
        return taken is not False

    def _flush(self) -> None:
        """Write what waits, as far as there is room."""
        while self._backlog:
            topic, notice = next(iter(self._backlog.items()))
            if not self._send(notice):
                return
            # A stream that is closed for its slow reader has ended it in this moment.
            if self._backlog is not None:
                del self._backlog[topic]

    async def _write(self, scope: trio.CancelScope) -> None:
        """Write what waits, until nothing does. Its task is in the manager's house."""
        try:
            # The nursery belongs to all connections: it must not end with one of them.
            with scope, contained(self._give_up):
                while self._backlog:
                    await self.request.sink.wait_writable()
                    self._flush()
        finally:
            self._backlog = self._writer = None

    def _give_up(self, error: Exception) -> None:
        write_log(logging.ERROR, "a listener can be told nothing any more", error=error)
        self.cancel()


@final
@attrs.define(eq=False, repr=False)
class ListenSubscriptions:
    """All subscriptions of a manager, and who listens to what."""

    _manager: SessionManager
    _owner: RequestOwner
    """What reports failures of several at once."""
    _served: ServedApplication
    _table: dict[InFlightRequest, ListenSubscription] = attrs.field(
        factory=dict["InFlightRequest", ListenSubscription], init=False
    )
    _listeners: dict[Topic, dict[ListenSubscription, None]] = attrs.field(
        factory=dict[Topic, dict[ListenSubscription, None]], init=False
    )
    _held_by: Counter[Principal] = attrs.field(factory=Counter["Principal"], init=False)

    def __repr__(self) -> str:
        return f"<ListenSubscriptions: {len(self)} open>"

    def __len__(self) -> int:
        return len(self._table)

    def is_full(self, principal: Principal | None) -> bool:
        """Tell whether there is no room for another subscription on this one's behalf."""
        limits = self._manager.config.limits
        return len(self) >= limits.max_listens or (
            principal is not None and self._held_by[principal] >= limits.max_listens_per_principal
        )

    def admit(self, request: InFlightRequest, queue: RequestQueue | None = None) -> None:
        """Begin a subscription, or answer why not. Not a checkpoint.

        Args:
            request: What asks for it.
            queue: What its id is taken in, and cancelled by; None where ids are their clients' own.
        """
        request.owner.counters.requests += 1
        manager = self._manager
        revision, request_id, principal = request.revision, request.id, request.principal
        assert revision is not None
        assert isinstance(request_id, int | str)
        if not manager.ready:
            request.fail(INTERNAL_ERROR, str(ShuttingDown()))
            return
        if self.is_full(principal):
            request.fail(INTERNAL_ERROR, TOO_MANY)
            return
        try:
            wanted = read_filter(request.params, manager.config.limits.max_subscriptions)
        except McpError as error:
            request.owner.violation("a subscription with bad parameters")
            request.fail(error.code, error.message)
            return
        try:
            honoured = wanted.honoured(self._served.get().capabilities(revision))
        except FAILURES as error:  # the application may say anything of itself
            request.handler_name = "capabilities of the application"
            request.crash(contain(error))
            return
        topics = tuple(honoured.topics())
        listen = ListenSubscription(
            request, principal, topics, queue, request_id, self, tag_of(request_id)
        )
        self._enter(listen)
        listen.notify(acknowledgement(honoured))

    def notify(self, notice: Notice) -> int:
        """Tell of a change to whoever listens to it; return how many. Not a checkpoint."""
        listeners = list(self._listeners.get(notice.topic, ()))
        self._owner.for_each(listeners, lambda listen: listen.notify(notice))
        return len(listeners)

    def cancel(self, request: InFlightRequest) -> bool:
        """End the subscription that a request is, for its client; tell whether it was one."""
        listen = self._table.get(request)
        if listen is None:
            return False
        listen.cancel()
        return True

    def revoke(self, principal: Principal) -> None:
        """End all that one principal listens to. Not a checkpoint."""
        theirs = [one for one in self._table.values() if one.principal == principal]
        self._owner.for_each(theirs, lambda listen: listen.end())

    async def end(self) -> None:
        """End all, without stalling others; none may be admitted any more. A checkpoint."""
        await trio.lowlevel.checkpoint()
        everything = list(self._table.values())
        for start in range(0, len(everything), BATCH):
            batch = everything[start : start + BATCH]
            self._owner.for_each(batch, lambda listen: listen.end())
            await trio.lowlevel.checkpoint()

    def _enter(self, listen: ListenSubscription) -> None:
        self._table[listen.request] = listen
        if listen.queue is not None:
            listen.queue.hold(listen)
        for topic in listen.topics:
            self._listeners.setdefault(topic, {})[listen] = None
        if listen.principal is not None:
            self._held_by[listen.principal] += 1

    def _remove(self, listen: ListenSubscription) -> None:
        """Forget a subscription: the one place where one leaves the tables."""
        del self._table[listen.request]
        if listen.queue is not None:
            listen.queue.release(listen)
        for topic in listen.topics:
            listeners = self._listeners[topic]
            del listeners[listen]
            if not listeners:
                del self._listeners[topic]
        if listen.principal is not None:
            self._held_by[listen.principal] -= 1
            if not self._held_by[listen.principal]:
                del self._held_by[listen.principal]
        self._manager._check_unused()
