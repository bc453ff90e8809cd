"""Promotion: how and when the call of a tool becomes a task (2026-07-28, tasks extension)."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, final

import attrs
import trio

from ..core.errors import SessionRejected, SessionTerminated
from ..core.ids import SessionKind
from ..protocol.tasks_extension import are_declared
from .detached import DetachedCall, open_session_for
from .task import ServerTask

if TYPE_CHECKING:
    from ..sessions.session import Session
    from .request import InFlightRequest


@final
@attrs.define(eq=False, repr=False)
class Promotion:
    """Makes a task of the handler of one request, when it has run for a while or when it is asked.

    The request belongs to the handler that it was made for, also when its client continues it with
    another message.
    """

    _request: InFlightRequest
    _after: float
    """Seconds after which the call becomes a task; infinite if only the handler decides."""
    _on_change: Callable[[ServerTask], None]
    """Called with every change of the task."""
    task: ServerTask | None = attrs.field(default=None, init=False)
    """The task that the call has become."""
    _turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    """Held while the session of the task is opened: the timer and the handler open one together."""
    _timer: trio.CancelScope | None = attrs.field(default=None, init=False)
    _progress: str | None = attrs.field(default=None, init=False)
    """The last progress of the handler, for the task that it may become."""

    def __repr__(self) -> str:
        return f"<Promotion of {self._request!r} to {self.task!r}>"

    @property
    def is_possible(self) -> bool:
        """Whether the client of the request can be given a task."""
        request = self._request
        return request.is_modern and are_declared(request.client)

    def report_progress(self, text: str) -> None:
        """Set the status message of the task, also of the one that it may become."""
        if self.task is None:
            self._progress = text
        else:
            self.task.report_progress(text)

    def start_timer(self) -> None:
        """Begin to wait until the call becomes a task by itself. Not a checkpoint.

        Called when the handler begins, and when its client continues it after questions.
        """
        if self.task is None and self._after < inf and self.is_possible:
            self.stop_timer()
            self._timer = trio.CancelScope()
            manager = self._request.owner.manager
            manager._start_connection_task(self._wait, self._timer)

    def stop_timer(self) -> None:
        """Stop waiting. Called when the handler is a task or has ended. Not a checkpoint."""
        if self._timer is not None:
            self._timer.cancel(reason="the handler is a task, or has ended")
            self._timer = None

    async def _wait(self, timer: trio.CancelScope) -> None:
        with timer:
            await trio.sleep(self._after)
            try:
                await self.become_task()
            except (SessionRejected, SessionTerminated):
                return  # There is no place for another task: the request is answered as others.

    async def become_task(self) -> ServerTask | None:
        """Make a task of the call, if it is not one yet. A checkpoint.

        Returns:
            The task. None where that is not possible: the client cannot be given a task, or it has
            an answer already, or a question of the handler is open.

        Raises:
            SessionRejected: There is no place for another task.
            SessionTerminated: The task was ended while it was opened.
        """
        async with self._turn:
            if self._may_become_task():
                await self._open()
        return self.task

    async def _open(self) -> None:
        """Open the session of the task, and let it own the handler. A checkpoint."""
        request = self._request
        clocks = request.owner.manager.config.cleanup
        # Work is never idle, and its outcome has a clock of its own.
        clocks = attrs.evolve(
            clocks,
            max_idle_time=inf,
            max_session_time=clocks.task_timeout + clocks.task_retention,
        )
        session = await open_session_for(request, SessionKind.TASK, clocks)
        try:
            # All of this may have changed meanwhile.
            if self._may_become_task():
                self._begin(session)
        finally:
            if self.task is None:
                session.terminate()

    def _begin(self, session: Session) -> None:
        """Make the task. The wall clock, which is the application's, may raise anything."""
        request = self._request
        call = request.detached
        if not isinstance(call, DetachedCall):
            assert request.worker is not None  # Its handler runs.
            call = DetachedCall(request, request.worker)
        name = request.handler_name or request.method
        task = ServerTask(session, name, self._on_change, call, self._progress)
        request.detached, self.task = call, task
        self.stop_timer()
        task.begin()

    def _may_become_task(self) -> bool:
        request = self._request
        return (
            self.task is None
            and self.is_possible
            and not (request.answered or request.handler_has_ended)
            and not request.has_open_questions
        )
