"""Who listens to changes: ``subscriptions/listen`` (2026-07-28).

A subscription is a request that stays open, and for which nothing runs. It is no work: it keeps no
session from being idle, and holds up no drain. All there is of it is an entry in the one table of
its manager; on a pipe its id is known to the connection's gate as well, for it is cancelled by it.

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
from .drain import BATCH
from .failures import FAILURES, contain, contained
from .owner import write_log

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..protocol.jsonrpc import RequestId
    from .gate import RequestGate
    from .manager import SessionManager
    from .requests import InFlightRequest

TOO_MANY: Final = "Server is busy: too many subscriptions are open"


@final
@attrs.define(eq=False, repr=False)
class Listen:
    """One subscription, from its acknowledgement to its end."""

    request: InFlightRequest
    """The request that it is, with the way to its client."""

    principal: Principal | None
    """On whose behalf its client listens."""

    topics: tuple[Topic, ...]
    """What its client hears of."""

    gate: RequestGate | None
    """What its id is taken in, on a pipe."""

    id: RequestId
    """The id of its request, which is the subscription's."""

    _listens: Listens
    _tag: bytes
    _backlog: dict[Topic, Notice] | None = attrs.field(default=None, init=False)
    """What could not be written yet, in its order; each change once."""
    _writer: trio.CancelScope | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<Listen id={self.id!r} to {len(self.topics)} topics>"

    def tell(self, notice: Notice) -> None:
        """Tell its client of something, as soon as there is room. Not a checkpoint."""
        if self._backlog is not None:
            self._backlog[notice.topic] = notice
        elif not self._send(notice):
            self._backlog = {notice.topic: notice}
            self._writer = trio.CancelScope()
            self._listens._manager._host(self._write, self._writer)

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
        self._leave()
        if has_begun:
            self.request.answer(listen_result(self.id))
        else:
            self.request.fail(INTERNAL_ERROR, "Subscription has ended before it began")

    def cancel(self) -> None:
        """Let it end for its client: nothing more is sent. Not a checkpoint."""
        if not self.request.answered:
            self.request.answered = True
            try:
                self._leave()
            finally:
                self.request.owner._send_no_result(self.request.outlet)

    def _leave(self) -> None:
        """Be heard of no more, and have nothing left to say."""
        self._listens._strike_out(self)
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
        taken = request.owner._send_message(request.outlet, notice.tagged(self._tag))
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
                    await self.request.outlet.wait_writable()
                    self._flush()
        finally:
            self._backlog = self._writer = None

    def _give_up(self, error: Exception) -> None:
        write_log(logging.ERROR, "a listener can be told nothing any more", error=error)
        self.cancel()


@final
@attrs.define(eq=False, repr=False)
class Listens:
    """All subscriptions of a manager, and who listens to what."""

    _manager: SessionManager
    _table: dict[InFlightRequest, Listen] = attrs.field(
        factory=dict["InFlightRequest", Listen], init=False
    )
    _listeners: dict[Topic, dict[Listen, None]] = attrs.field(
        factory=dict[Topic, dict[Listen, None]], init=False
    )
    _held_by: Counter[Principal] = attrs.field(factory=Counter["Principal"], init=False)

    def __repr__(self) -> str:
        return f"<Listens: {len(self)} open>"

    def __len__(self) -> int:
        return len(self._table)

    def is_full(self, principal: Principal | None) -> bool:
        """Tell whether there is no room for another subscription on this one's behalf."""
        limits = self._manager.config.limits
        return len(self) >= limits.max_listens or (
            principal is not None and self._held_by[principal] >= limits.max_listens_per_principal
        )

    def admit(self, request: InFlightRequest, gate: RequestGate | None = None) -> None:
        """Begin a subscription, or answer why not. Not a checkpoint.

        Args:
            request: What asks for it.
            gate: What its id is taken in, and cancelled by; None where ids are their clients' own.
        """
        request.owner._counters.requests += 1
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
            request.owner._violation("a subscription with bad parameters")
            request.fail(error.code, error.message)
            return
        try:
            honoured = wanted.honoured(manager._served().capabilities(revision))
        except FAILURES as error:  # the application may say anything of itself
            request.handler_name = "capabilities of the application"
            request.crash(contain(error))
            return
        topics = tuple(honoured.topics())
        listen = Listen(request, principal, topics, gate, request_id, self, tag_of(request_id))
        self._enter(listen)
        listen.tell(acknowledgement(honoured))

    def tell(self, notice: Notice) -> int:
        """Tell of a change to whoever listens to it; return how many. Not a checkpoint."""
        listeners = list(self._listeners.get(notice.topic, ()))
        self._manager._stateless._for_each(listeners, lambda listen: listen.tell(notice))
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
        self._manager._stateless._for_each(theirs, lambda listen: listen.end())

    async def end(self) -> None:
        """End all, without stalling others; none may be admitted any more. A checkpoint."""
        await trio.lowlevel.checkpoint()
        everything = list(self._table.values())
        for start in range(0, len(everything), BATCH):
            batch = everything[start : start + BATCH]
            self._manager._stateless._for_each(batch, lambda listen: listen.end())
            await trio.lowlevel.checkpoint()

    def _enter(self, listen: Listen) -> None:
        self._table[listen.request] = listen
        if listen.gate is not None:
            listen.gate.hold(listen)
        for topic in listen.topics:
            self._listeners.setdefault(topic, {})[listen] = None
        if listen.principal is not None:
            self._held_by[listen.principal] += 1

    def _strike_out(self, listen: Listen) -> None:
        """Forget a subscription: the one place where one leaves the tables."""
        del self._table[listen.request]
        if listen.gate is not None:
            listen.gate.release(listen)
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
