"""The inside of a session: its moves, its task, its work, and its way to the client.

`SessionFields` holds what it works on, `SessionReports` tells of it, `Session` adds the face that
applications see, and `life` is the task that lives it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from ..core import events
from ..core.errors import InvalidTransition, NoChannel, SessionTerminated
from ..core.identity import Principal, principal_of_connection
from ..core.ids import SessionKind
from ..core.reasons import TerminationReason
from ..core.state import SessionState, can_move
from ..protocol.error_codes import INTERNAL_ERROR
from .current import runs_in
from .failures import contained
from .gate import RequestGate
from .guests import Guests
from .questions import Questions
from .reports import SessionReports

if TYPE_CHECKING:
    from .outlet import Outlet

WAITS_FOR_OTHERS: Final = "waiting for tasks outside of the session"
"""Name of the task that does; reports name what it waits for instead."""


@attrs.define(eq=False, repr=False)
class SessionScope(SessionReports):
    """What a session does inside. Not for use from outside of this package."""

    # Checks.

    def _check_live(self) -> None:
        if self._reason is not None:
            raise self._terminated()

    def _terminated(self) -> SessionTerminated:
        """Return the error that says why the session ended, with its own error as the cause."""
        ended = SessionTerminated(self._reason_to_end())
        ended.__cause__ = self._face.error
        return ended

    def _check_not_inside(self) -> None:
        """Refuse to let a task wait for the session that runs it.

        Found by walking up the nurseries: a context variable is copied into tasks that outlive
        their session, and would give false alarms.
        """
        self._check_not_held()
        if self._stateless_gate is not None and runs_in(self._stateless_gate.tasks):
            raise RuntimeError("a request cannot wait for the end of its connection")
        if self._task is not None and runs_in({self._task}):
            raise RuntimeError("a session cannot wait for its own end")
        if self._guests is not None and runs_in(self._guests.tasks):
            raise RuntimeError("who uses a session cannot wait for its end")

    def _check_not_held(self) -> None:
        if self._holders is not None and runs_in(self._holders.tasks):
            raise RuntimeError("a held context cannot wait until it is left")

    def _running_tasks(self) -> tuple[str, ...]:
        """Return the names of the tasks that are still there, the session's own if no other."""
        tasks: set[trio.lowlevel.Task] = set()
        if self._nursery is not None:
            tasks |= self._nursery.child_tasks
        if self._holders is not None:
            tasks |= self._holders.tasks
        if self._guests is not None:
            tasks |= self._guests.tasks
        if self._stateless_gate is not None:
            tasks |= self._stateless_gate.tasks
        names = sorted(task.name for task in tasks if task.name != WAITS_FOR_OTHERS)
        return tuple(names) or ("session",)

    def _reason_to_end(self) -> TerminationReason:
        # Only an interrupt gives no reason until all of it is over.
        return self._reason or self._drain_reason or TerminationReason.CRASHED

    def _end_for_want_of_a_reason(self) -> TerminationReason:
        """Give the session a reason to end where nobody did, and return the one that it has."""
        interrupted = self._manager._house.cancel_scope.cancel_called
        self._face.terminate(
            TerminationReason.CANCELLED if interrupted else TerminationReason.CRASHED
        )
        return self._reason_to_end()

    def _why_it_ends(self) -> str:
        return f"Session has ended: {self._end_for_want_of_a_reason().value}"

    # Moves.

    def _move(self, new: SessionState) -> None:
        """Go to another state: the one place where the state changes."""
        old = self._state
        if not can_move(old, new):
            raise InvalidTransition(old, new)
        self._state = new
        if self._listened_to():
            self._emit(events.StateChanged(**self._stamp(), old=old, new=new, reason=self._reason))
        for hooks in self._hooks:
            if hooks.on_state_changed is not None:
                self._post_hook("on_state_changed", hooks.on_state_changed, old, new)

    def _handshake_done(self) -> None:
        """The client may work now, whatever it says or does not say about that."""
        if self._state is SessionState.INITIALIZING:
            self._activate()

    def _activate(self) -> None:
        self._move(SessionState.ACTIVE)
        self._manager._store._watcher.watch(self._face)

    # Its task, asleep most of the time.

    def _sleep(self) -> Awaitable[object]:
        """Wait to be woken; no ``async def``, for that is a frame less in every idle session."""
        self._asleep = True
        return trio.lowlevel.wait_task_rescheduled(self._abort_sleep)  # noqa: ASYNC105

    def _abort_sleep(self, _: object) -> trio.lowlevel.Abort:
        self._asleep = False
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            assert self._task is not None
            trio.lowlevel.reschedule(self._task)

    def _context(self) -> Context:
        """Return the context variables that everything in the session begins with."""
        assert self._task is not None
        return self._task.context.copy()

    def _spawn(self, async_fn: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        """Start a task in the nursery."""
        # Not in the caller's context: it may be a request's, which is over sooner.
        self._context().run(self._start_child, async_fn, args, name)
        self._children += 1  # Only now: what did not begin does not end.

    def _start_child(
        self, async_fn: Callable[..., Awaitable[object]], args: tuple[object, ...], name: str
    ) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._child, async_fn, args, name, name=name)

    async def _child(
        self, async_fn: Callable[..., Awaitable[object]], args: tuple[object, ...], name: str
    ) -> None:
        """Run a child of the nursery: it is counted, and its failure is the session's."""
        try:
            with contained(partial(self._task_crashed, name)):
                await async_fn(*args)
        finally:
            self._children -= 1
            self._release_next()

    def _once_open(self, spawn: Callable[[], None]) -> None:
        """Note what to start at the moment when there is a nursery to start it in."""
        if self._early is None:
            self._early = []
        self._early.append(spawn)

    def _spawn_holder(self, async_fn: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start the task of a held context: a child that is not counted, and shields itself."""
        nursery = self._nursery or self._early_nursery
        if nursery is not None:
            self._context().run(self._start_task, nursery, async_fn, args)
            return
        # The session's task opens a nursery for it.
        if self._early_holders is None:
            self._early_holders = []
        self._early_holders.append(partial(self._spawn_holder, async_fn, *args))
        self._wake()

    @staticmethod
    def _start_task(
        nursery: trio.Nursery,
        async_fn: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
    ) -> None:
        nursery.start_soon(async_fn, *args, name="held context")

    def _open_early(self, nursery: trio.Nursery) -> None:
        """Let contexts be held in this nursery, until the session has its own."""
        self._early_nursery = nursery
        waiting, self._early_holders = self._early_holders, None
        for spawn in waiting or ():
            spawn()

    # The end of what runs in it.

    def _close_nursery(self) -> None:
        """End all that runs in the session. Synchronous, so that no part of it can be skipped.

        What shields itself ends when the rest has ended: see `_release_next`.
        """
        self._closing = True
        reason = f"Session has ended: {self._reason_to_end().value}"
        try:
            if self._nursery is not None and (self._guests or self._stateless_gate is not None):
                # It counts as a child: held contexts stay open for what runs elsewhere.
                self._spawn(self._wait_for_others, name=WAITS_FOR_OTHERS)
            if self._guests is not None:
                self._guests.send_away(reason)
        finally:
            try:
                if self._stateless_gate is not None:
                    self._stateless_gate.cancel_all()
            finally:
                if self._nursery is not None:
                    self._nursery.cancel_scope.cancel(reason=reason)
                self._release_next()

    async def _wait_for_others(self) -> None:
        """Wait for tasks outside of the nursery that end before the session; all are cancelled.

        Trio cannot move a task. A handler that uses a handle runs in its own request's nursery, and
        a modern request of a pipe may be parked, and then outlives its connection: these begin in
        the manager's nursery.
        """
        with trio.CancelScope(shield=True):  # noqa: ASYNC912  # each is a wait where there is one
            if self._guests is not None:
                await self._guests.wait_gone()
            if self._stateless_gate is not None:
                await self._stateless_gate.wait_empty()

    def _release_next(self) -> None:
        """Have the youngest held context left, once all the rest of the session has ended."""
        if self._closing and not self._children and self._holders:
            self._holders.release_youngest(self._cleanup_deadline())

    # Budgets: each within the one deadline of a shutdown.

    def _flush_budget(self) -> float:
        """Return how many seconds the session may spend on writing what it has to say."""
        return self._manager._shutdown.flush_budget(self._clocks.flush_budget)

    def _cleanup_deadline(self) -> float:
        """Return when held contexts and the lifespan are cancelled; it begins to count now."""
        if self._cleanup_until is None:
            budget = self._clocks.cleanup_budget
            self._cleanup_until = self._manager._shutdown.cleanup_until(budget)
        return self._cleanup_until

    def _hooks_deadlines(self) -> tuple[float, float]:
        """Return when the last hooks are cancelled: those that wait now, and all."""
        now = trio.current_time()
        until = self._manager._shutdown.hooks_until(self._clocks.hook_budget)
        # Those that wait must not use up the time of `on_session_terminated`.
        return now + (until - now) / 2, until

    # Activity.

    def _touch(self) -> None:
        """Record activity: a timestamp, and a place behind all that were quiet for longer."""
        self._last_active = trio.current_time()
        if self._state is SessionState.IDLE:
            self._activate()
        if self._reason is None:
            self._quietest_first.move_to_end(self.session_id)

    def _begin_work(self) -> None:
        self._busy += 1
        if self._state is SessionState.IDLE:
            self._activate()

    def _end_work(self) -> None:
        self._busy -= 1
        self._touch()
        if self._drain_reason is not None and not self._busy:
            self._face.terminate(self._drain_reason)

    def _refuse_requests(self, reason: TerminationReason) -> None:
        """Take no new requests from now on, and end for ``reason`` when nothing runs any more."""
        if self._drain_reason is None:
            self._drain_reason = reason

    def _finish_work(self) -> None:
        """End what nobody waits for, and the session if that is all there is.

        Service tasks serve the work: they end with the session.
        """
        self._end_listens()
        if self._drain_reason is not None and not self._busy:
            self._face.terminate(self._drain_reason)

    # Who works with what it holds.

    @contextmanager
    def _visit(self) -> Iterator[trio.CancelScope]:
        """Keep what the session holds for the length of a block, which is cancelled if it ends."""
        with trio.CancelScope() as scope:
            self._receive_guest(scope, trio.lowlevel.current_task())
            try:
                yield scope
            finally:
                self._let_guest_go(scope)

    def _receive_guest(
        self,
        scope: trio.CancelScope,
        task: trio.lowlevel.Task,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if self._guests is None:
            self._guests = Guests()
        self._guests.enter(scope, task, tell)
        self._begin_work()

    def _let_guest_go(self, scope: trio.CancelScope) -> None:
        assert self._guests is not None
        self._guests.leave(scope)
        self._end_work()

    # Requests, both ways.

    @property
    def _acts_for(self) -> Principal:
        """On whose behalf its client speaks: on its own, where nobody was authenticated."""
        return self.principal or principal_of_connection(self.session_id)

    def _requests(self) -> RequestGate:
        if self._gate is None:
            limits = self._manager.config.limits
            self._gate = RequestGate(
                self._face,
                self._face,
                self._manager._served(),
                limits.max_in_flight,
                limits.max_queued,
                self._clocks.request_timeout,
                shares_ids=self.kind is SessionKind.HEADER,
            )
        return self._gate

    def _gates(self) -> list[RequestGate]:
        """Return what requests are in: those of the session, and those beside it."""
        return [gate for gate in (self._gate, self._stateless_gate) if gate is not None]

    def _stateless_requests(self) -> RequestGate:
        if self._stateless_gate is None:
            limits = self._manager.config.limits
            self._stateless_gate = RequestGate(
                self._face,
                self._manager._stateless,  # They see no session, and need no handshake.
                self._manager._served(),
                limits.max_in_flight,
                limits.max_queued,
                self._clocks.request_timeout,
            )
        return self._stateless_gate

    def _end_listens(self) -> None:
        if self._stateless_gate is not None:
            self._stateless_gate.end_held()

    def _is_opening(self) -> bool:
        """Whether its lifespan is being entered, or its hooks are asked, on somebody's request."""
        return self._may_open and self._nursery is None

    def _is_reachable(self) -> bool:
        """Whether its client may be sent notifications outside of requests."""
        # A client that never shook hands gets nothing that it did not ask for.
        return (
            self._outlet is not None
            and self._revision is not None
            and self._opening is None
            and self._state in (SessionState.ACTIVE, SessionState.IDLE)
        )

    def _channel(self) -> Outlet:
        if self._outlet is None or not self._outlet.reachable:
            raise NoChannel
        return self._outlet

    async def _ask(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        outlet: Outlet,
        timeout: float | None,  # noqa: ASYNC109  # the client is told when it strikes
    ) -> Any:
        if self._questions is None:
            self._questions = Questions(self._face, self._manager.config.limits.max_questions)
        if timeout is None:
            timeout = self._clocks.question_timeout
        return await self._questions.ask(method, params, outlet, timeout)

    def _offer(self, outlet: Outlet, frame: bytes) -> bool:
        """Send a message outside of any request, or count it as dropped."""
        if self._send_message(outlet, frame):
            return True
        self._counters.dropped += 1
        return False

    def _end_what_it_owned(self, reason: TerminationReason) -> None:
        """End what is held for a client that nobody can be any more, now that this is over."""
        if self.principal is None and self._outlet is not None:
            for session in self._manager._store.of_principal(self._acts_for):
                session.terminate(reason)

    def _end_what_came_late(self) -> None:
        if self._state is SessionState.TERMINATED:
            self._end_what_it_owned(self._reason_to_end())

    def _fail_pending(self) -> None:
        """Leave nobody hanging: answer whatever is open, with the reason."""
        message = f"Session has ended: {self._reason_to_end().value}"
        self._end_listens()
        if self._opening is not None:
            self._opening.fail(self._face, INTERNAL_ERROR, message)
            self._opening = None
        if self._gate is not None:
            self._gate.fail_all(INTERNAL_ERROR, message)
        if self._stateless_gate is not None:
            self._stateless_gate.fail_all(INTERNAL_ERROR, message)
        if self._questions is not None:
            self._questions.fail_all()
