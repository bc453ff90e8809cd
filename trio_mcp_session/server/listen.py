"""Subscriptions to changes: ``subscriptions/listen`` (2026-07-28).

A subscription is a request that stays open without a Trio task. It is an entry in the table of its
manager. On a pipe, the connection's queue also knows its id, so that the client can cancel it. It
does not count as work, so sessions can be idle, except as long as a task in it works.

All messages to its client go through `_send`, which keeps their order, acknowledgement first, and
sends none after the end. If there is no room, each change is kept once. So no change is lost, and
memory is bounded.

A drain ends subscriptions at once, except those to tasks that still work: their clients get the
final status of these tasks first.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from ..core.errors import McpError, ShuttingDown
from ..protocol.error_codes import INTERNAL_ERROR
from ..protocol.subscription_messages import (
    ACKNOWLEDGED,
    TASK_CHANGED,
    Notice,
    Topic,
    acknowledgement,
    asks_for_tasks,
    listen_result,
    read_filter,
    read_task_ids,
    tag_of,
)
from ..protocol.tasks_extension import are_declared, are_offered, not_declared
from ..sessions.endings import BATCH
from ..sessions.error_log import write_log
from ..sessions.failures import FAILURES, contain, contained
from .task_methods import find_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.identity import Principal
    from ..protocol.jsonrpc import RequestId
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session
    from .request import InFlightRequest
    from .request_owner import RequestOwner
    from .request_queue import RequestQueue
    from .served_application import ServedApplication
    from .task import ServerTask

TOPIC_SIZE: Final = 512
"""Bytes that a topic of a subscription takes besides its URI, by estimate: in the table of topics.
"""

TOO_MANY: Final = "Server is busy: too many subscriptions are open"


@final
@attrs.define(eq=False, repr=False)
class ListenSubscription:
    """One subscription, from its acknowledgement to its end."""

    request: InFlightRequest
    """Its request, with the sink to its client."""

    principal: Principal | None
    """The principal that it belongs to."""

    topics: tuple[Topic, ...]
    """The changes that its client is notified of."""

    queue: RequestQueue | None
    """The queue that knows its id, on a pipe."""

    id: RequestId
    """The id of its request, which is the subscription's."""

    working: set[str]
    """The ids of the tasks among them that are not over. On a pipe, the session of the connection
    is busy for as long."""

    _all: ListenSubscriptions
    _tag: bytes
    _backlog: dict[Topic, Notice | ServerTask] | None = attrs.field(default=None, init=False)
    """Messages that could not be written yet, in order; each change once.

    A task stands for the message about it, which is made when there is room: it may contain the
    task's result, which is counted once, for the task."""
    _writer: trio.CancelScope | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<ListenSubscription id={self.id!r} to {len(self.topics)} topics>"

    @property
    def connection(self) -> Session | None:
        """The session of its connection, on a pipe."""
        return self.request.owner.session

    def notify(self, notice: Notice, about: ServerTask | None = None) -> None:
        """Send a message to its client as soon as there is room. Not a checkpoint.

        Args:
            notice: The message.
            about: The task that it is about.
        """
        if self._backlog is not None:
            self._backlog[notice.topic] = about or notice
        elif not self._send(notice):
            self._backlog = {notice.topic: about or notice}
            self._writer = trio.CancelScope()
            self._all._manager._start_connection_task(self._write, self._writer)
        elif about is not None:
            about.was_told()

    def task_changed(self, task: ServerTask, notice: Notice) -> None:
        """Notify its client of a task; end after the last one, in a drain. Not a checkpoint."""
        self.notify(notice, task)
        if task.status.is_final and task.task_id in self.working:
            self.working.remove(task.task_id)
            if self._drains:
                self.end_if_done()
            if not self.working and self.connection is not None:
                self.connection._end_work()

    @property
    def _drains(self) -> bool:
        """Whether its manager or its connection drains."""
        connection = self.connection
        drains = connection is not None and connection._drain_reason is not None
        return drains or self._all._manager._draining

    def end_if_done(self) -> None:
        """End it, unless one of its tasks still works. Not a checkpoint."""
        if not self.working:
            self.end()

    def end(self) -> None:
        """End it, if it has not ended: its client gets the result.

        Not a checkpoint. Messages that still wait for room are dropped: a client whose subscription
        ends has to fetch the current state again. One that could not be acknowledged has not begun:
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
        """End it because its client cancelled it or left: nothing is sent. Not a checkpoint."""
        if not self.request.answered:
            try:
                self.request.end_unanswered()
            finally:
                self._finish()

    def _finish(self) -> None:
        """Remove it from the tables, and drop the messages that wait."""
        self._all._remove(self)
        self._backlog = None
        if self._writer is not None:
            self._writer.cancel(reason="subscription is over")

    def _send(self, notice: Notice) -> bool:
        """Send a message, unless it has ended; return whether there was room.

        A transport that fails ends it: its client could not know that it missed a message.
        """
        request = self.request
        if request.answered:
            return True
        taken = request.owner.send_message(request.sink, notice.tagged(self._tag))
        if taken is None:
            self.cancel()
        return taken is not False

    def _flush(self) -> None:
        """Write the messages that wait, as far as there is room."""
        while self._backlog and self._flush_next():
            pass

    def _flush_next(self) -> bool:
        """Write the message that waits for longest; return whether there was room."""
        assert self._backlog
        topic, waiting = next(iter(self._backlog.items()))
        notice = waiting if isinstance(waiting, Notice) else waiting.snapshot().notice()
        taken = self._send(notice)
        # Sending may have ended it: a transport closes the stream of a slow reader.
        if taken and self._backlog is not None:
            del self._backlog[topic]
            if not isinstance(waiting, Notice):
                waiting.was_told()
        return taken

    async def _write(self, scope: trio.CancelScope) -> None:
        """Write the messages that wait until none is left. Runs in the sessions nursery."""
        try:
            # The nursery belongs to all connections: it must not end with one of them.
            with scope, contained(self._give_up):
                while self._backlog:
                    await self.request.sink.wait_writable()
                    # Only one: a transport may end the stream of a client when there is no room.
                    if self._backlog:
                        self._flush_next()
        finally:
            self._backlog = self._writer = None

    def _give_up(self, error: Exception) -> None:
        write_log(logging.ERROR, "writing to a subscription failed; closing it", error=error)
        self.cancel()


@final
@attrs.define(eq=False, repr=False)
class ListenSubscriptions:
    """All subscriptions of a manager, by topic and by principal."""

    _manager: SessionManager
    _owner: RequestOwner
    """The owner that reports failures."""
    _served: ServedApplication
    _table: dict[InFlightRequest, ListenSubscription] = attrs.field(
        factory=dict["InFlightRequest", ListenSubscription], init=False
    )
    _listeners: dict[Topic, dict[ListenSubscription, None]] = attrs.field(
        factory=dict[Topic, dict[ListenSubscription, None]], init=False
    )
    _held_by: dict[Principal, dict[ListenSubscription, None]] = attrs.field(
        factory=dict["Principal", dict[ListenSubscription, None]], init=False
    )

    def __repr__(self) -> str:
        return f"<ListenSubscriptions: {len(self)} open>"

    def __len__(self) -> int:
        return len(self._table)

    def _is_full(self, principal: Principal | None) -> bool:
        """Return whether a limit leaves no room for another subscription of this principal."""
        limits = self._manager.config.limits
        return len(self) >= limits.max_listens or (
            principal is not None
            and len(self._held_by.get(principal, ())) >= limits.max_listens_per_principal
        )

    def admit(self, request: InFlightRequest, queue: RequestQueue | None = None) -> None:
        """Begin a subscription, or answer with an error. Not a checkpoint.

        Args:
            request: The request for it.
            queue: The queue that registers its id for cancellation; None if clients share ids.
        """
        manager = self._manager
        revision, request_id, principal = request.revision, request.id, request.principal
        principal = None if principal is None else principal.identity  # kept for long
        assert revision is not None
        assert isinstance(request_id, int | str)
        if not manager.ready:
            request.fail_no_room(str(ShuttingDown()))
            return
        if self._is_full(principal):
            request.fail_no_room(TOO_MANY)
            return
        request.owner.counters.requests += 1
        try:
            capabilities = self._served.get().capabilities(revision)
        except FAILURES as error:  # the application may say anything of itself
            request.handler_name = "capabilities of the application"
            request.crash(contain(error))
            return
        limit = manager.config.limits.max_subscriptions
        tasks: Mapping[str, ServerTask] = {}
        try:
            honoured = read_filter(request.params, limit).honoured(capabilities)
            if are_offered(capabilities) and asks_for_tasks(request.params):
                if not are_declared(request.client):
                    raise not_declared()
                tasks = self._find_tasks(read_task_ids(request.params, limit), request.principal)
                honoured = attrs.evolve(honoured, task_ids=tuple(tasks))
        except McpError as error:
            request.owner.violation("a subscription with bad parameters")
            request.fail(error.code, error.message, error.data)
            return
        topics = tuple(honoured.topics())
        if not request.hold(request.memory + TOPIC_SIZE * len(topics)):
            request.fail_busy()
            return
        working = {task_id for task_id, task in tasks.items() if not task.status.is_final}
        listen = ListenSubscription(
            request, principal, topics, queue, request_id, working, self, tag_of(request_id)
        )
        self._enter(listen)
        listen.notify(acknowledgement(honoured))
        # What has changed since the client was given the task.
        for task in tasks.values():
            listen.notify(task.snapshot().notice(), task)

    def _find_tasks(
        self, task_ids: tuple[str, ...], principal: Principal | None
    ) -> dict[str, ServerTask]:
        """Return the tasks of these ids that belong to a principal."""
        found = {one: find_task(self._manager, one, principal) for one in task_ids}
        return {task_id: task for task_id, task in found.items() if task is not None}

    def task_changed(self, task: ServerTask) -> None:
        """Notify the subscriptions to a task. Not a checkpoint."""
        listeners = list(self._listeners.get((TASK_CHANGED, task.task_id), ()))
        if listeners:
            notice = task.snapshot().notice()
            self._owner.for_each(listeners, lambda listen: listen.task_changed(task, notice))

    def notify(self, notice: Notice, principal: Principal | None = None) -> int:
        """Notify the subscriptions to a change; return how many. Not a checkpoint.

        Args:
            notice: The change.
            principal: Notify only the subscriptions of this principal.
        """
        listeners = list(self._listeners.get(notice.topic, ()))
        if principal is not None:
            listeners = [one for one in listeners if one.principal == principal]
        self._owner.for_each(listeners, lambda listen: listen.notify(notice))
        return len(listeners)

    def cancel(self, request: InFlightRequest) -> bool:
        """Cancel the subscription of this request; return whether there was one."""
        listen = self._table.get(request)
        if listen is None:
            return False
        listen.cancel()
        return True

    def revoke(self, principal: Principal) -> None:
        """End all subscriptions of a principal. Not a checkpoint."""
        theirs = list(self._held_by.get(principal, ()))
        self._owner.for_each(theirs, lambda listen: listen.end())

    async def end(self) -> None:
        """End all but those with tasks that work; admit no new ones first. A checkpoint.

        Other tasks of the event loop run in between.
        """
        await trio.lowlevel.checkpoint()
        everything = list(self._table.values())
        for start in range(0, len(everything), BATCH):
            batch = everything[start : start + BATCH]
            self._owner.for_each(batch, lambda listen: listen.end_if_done())
            await trio.lowlevel.checkpoint()

    def _enter(self, listen: ListenSubscription) -> None:
        self._table[listen.request] = listen
        if listen.queue is not None:
            listen.queue.hold(listen)
        for topic in listen.topics:
            self._listeners.setdefault(topic, {})[listen] = None
        if listen.principal is not None:
            self._held_by.setdefault(listen.principal, {})[listen] = None
        if listen.working and listen.connection is not None:
            listen.connection._begin_work()

    def _remove(self, listen: ListenSubscription) -> None:
        """Remove a subscription from the tables. Only this method does."""
        del self._table[listen.request]
        listen.request.count_no_longer()
        if listen.queue is not None:
            listen.queue.release(listen)
        for topic in listen.topics:
            listeners = self._listeners[topic]
            del listeners[listen]
            if not listeners:
                del self._listeners[topic]
        if listen.principal is not None:
            held = self._held_by[listen.principal]
            del held[listen]
            if not held:
                del self._held_by[listen.principal]
        if listen.working and listen.connection is not None:
            listen.working.clear()
            listen.connection._end_work()
        self._manager._check_unused()
