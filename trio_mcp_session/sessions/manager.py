"""The session manager: opens sessions in one nursery, finds them, and ends them.

The class is in one file, although that is longer than 600 lines, as most of it is public. From top
to bottom: opening sessions, finding them, statistics and notifications, ending, and what sessions
and connections need of it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from contextvars import Context, copy_context
from functools import lru_cache, partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, final

import attrs
import trio

from ..core.construction import NoPublicConstructor
from ..core.context_functions import check_context_function
from ..core.errors import SessionRejected, ShuttingDown
from ..core.identity import ClientInfo, Principal, Transport
from ..core.ids import SessionKind, beginning_of, new_session_id
from ..core.instrumentation import SessionDetails, SessionOutcome
from ..core.lifecycle_states import LIVE_STATES, SessionState
from ..core.metrics import ManagerCounters, ManagerStatistics
from ..core.reasons import EndingReason, TerminationReason
from ..protocol.lone_surrogates import on_replaced
from . import drain
from .admission import Admission, Reservation
from .byte_budgets import ByteBudgets
from .ended_handles import EndedHandles
from .endings import Endings
from .error_log import write_log
from .event_stream import EventStream, EventStreams
from .failures import is_cancellation, report_or_raise
from .handle import Handle
from .interrupts import ProtectedAsyncBlock, ProtectedBlock, raise_with
from .lifecycle import run_session
from .session import Session, cancelled_with
from .shutdown_deadline import ShutdownDeadline
from .store import SessionStore
from .task_tree import TaskAges, TaskTree
from .tasks import AsyncFn, name_of
from .watcher import connection_clocks

if TYPE_CHECKING:
    from ..core.config import CleanupConfig, SessionConfig
    from ..core.events import Event
    from ..core.handle_kind import HandleKind
    from ..core.instrumentation import SessionFinished
    from ..core.metrics import BroadcastReport
    from ..core.task_info import TaskInfo
    from .hooks import SessionHooks
    from .instruments import Instruments
    from .manager_server import ManagerServer
    from .server_lifespans import ContextOf, ServerLifespans
    from .session import Lifespan
    from .session_client import SessionClient

T = TypeVar("T")

ServerLifespan: TypeAlias = Callable[["SessionManager"], AbstractAsyncContextManager[T]]
"""Returns an async context manager that is open around all sessions and requests of a manager."""

CHECKED: Final = 200
"""How many sessions are looked at before other tasks may run."""

UNNAMED: Final = ClientInfo()
"""The description of the client of a session that the application opened for none."""

APPLICATION: Final = Transport("application")
"""The transport in reports of a session that the application opened itself."""


@final
@attrs.define(eq=False, repr=False)
class SessionManager(metaclass=NoPublicConstructor):
    """Owns sessions: opens them, finds them, watches their timeouts, ends them.

    `open_session_manager` makes it. Managers share nothing, so several may be open at once.
    """

    config: SessionConfig
    """Limits and timeouts of the manager."""

    _hooks: tuple[SessionHooks, ...] = attrs.field(alias="hooks")
    _instruments: Instruments = attrs.field(alias="instruments")
    _lifespans: ServerLifespans = attrs.field(alias="lifespans")
    _sessions_nursery: trio.Nursery = attrs.field(init=False)
    """Set when the manager is open, which is after the server's lifespans were entered."""
    _server: ManagerServer = attrs.field(init=False)
    """Serves what belongs to no session. Set once, before any session is opened."""
    _context: Context = attrs.field(init=False)
    """The context variables of sessions and handlers; set when the manager is open."""
    _store: SessionStore = attrs.field(init=False)
    _admission: Admission = attrs.field(init=False)
    _event_streams: EventStreams = attrs.field(factory=EventStreams, init=False)
    _counters: ManagerCounters = attrs.field(factory=ManagerCounters, init=False)
    _endings: Endings = attrs.field(factory=Endings, init=False)
    _byte_budgets: ByteBudgets = attrs.field(init=False)
    _connection_clocks: Callable[[float], CleanupConfig] = attrs.field(init=False)
    """The clocks of connections by the handshake timeout of their transport, shared by sessions."""
    _ended_handles: EndedHandles = attrs.field(init=False)
    _replaced_text: bool = attrs.field(default=False, init=False)
    """Whether it was reported that text was sent with U+FFFD in place of lone surrogates."""
    _on_finished: dict[Session, SessionFinished] = attrs.field(
        factory=dict["Session", "SessionFinished"], init=False
    )
    """The functions of instrumentation to call when a session has ended."""
    _retiring: bool = attrs.field(default=False, init=False)
    _unused: trio.Event | None = attrs.field(default=None, init=False)
    """Set when a retiring manager has nothing left to wait for."""
    _draining: bool = attrs.field(default=True, init=False)
    """Whether nothing is admitted: until the manager is open, and from a drain on."""
    _opened: bool = attrs.field(default=False, init=False)
    _task_ages: TaskAges | None = attrs.field(default=None, init=False)
    """When tasks began; None unless a program asked for it."""
    _shutdown: ShutdownDeadline = attrs.field(factory=ShutdownDeadline, init=False)
    _drain_until: float = attrs.field(default=inf, init=False)
    """When the grace of the drain is over; infinite before it."""
    _drains: dict[Session, float] = attrs.field(factory=dict["Session", float], init=False)
    _drained: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._store = SessionStore(config=self.config)
        self._admission = Admission(self._store, self.config.limits)
        self._byte_budgets = ByteBudgets(self.config.limits)
        self._ended_handles = EndedHandles(
            self.config.limits.max_ended_handles, self.config.cleanup.ended_handle_time
        )
        self._connection_clocks = lru_cache(maxsize=8)(
            partial(connection_clocks, self.config.cleanup)
        )

    def __repr__(self) -> str:
        return f"<SessionManager: {len(self._store)} sessions>"

    def _open_in(self, nursery: trio.Nursery) -> None:
        """Admit sessions from now on. Not a checkpoint.

        Args:
            nursery: The nursery that sessions run in.
        """
        self._sessions_nursery = nursery
        # Sessions and handlers run in copies of this context.
        self._context = copy_context()
        self._context.run(on_replaced.set, self._text_replaced)
        self._opened = True
        self._draining = False

    # Opening.

    async def create_session(
        self,
        client: ClientInfo | None = None,
        *,
        kind: SessionKind = SessionKind.HANDLE,
        transport: Transport = APPLICATION,
        principal: Principal | None = None,
        lifespan: Lifespan | None = None,
        clocks: CleanupConfig | None = None,
    ) -> Session:
        """Open a session without a connection; it stays open until it is ended.

        A checkpoint. When cancelled, the session is ended, clean-up included, before the call
        raises.

        Args:
            client: The description of the client that it is for.
            kind: How the session is reached.
            transport: The transport that connects its client, for logs and metrics.
            principal: The principal that it is opened for.
            lifespan: Returns an async context manager, which is entered before this returns and
                left when the session ends.
            clocks: Timeouts of this session; the manager's by default.

        Raises:
            SessionLimitReached: A limit was reached, and the admission policy made no room.
            ShuttingDown: The manager retires, drains or is closed.
            SessionVetoed: An ``on_session_created`` hook refused it.
            SessionTerminated: The session ended while it was being opened.
            TypeError: The lifespan cannot return an async context manager: it is an async generator
                function without ``@asynccontextmanager``, or a coroutine function.
            Exception: The error that the lifespan raised.
        """
        if lifespan is not None:
            check_context_function(lifespan, "lifespan")
        return await self._open(
            client,
            kind=kind,
            transport=transport,
            principal=principal,
            lifespan=lifespan,
            clocks=clocks,
        )

    async def _open(
        self,
        client: ClientInfo | None = None,
        *,
        kind: SessionKind = SessionKind.HANDLE,
        transport: Transport = APPLICATION,
        principal: Principal | None,
        lifespan: Lifespan | None,
        clocks: CleanupConfig | None,
        handle_kind: HandleKind[Any] | None = None,
    ) -> Session:
        """Open a session as `create_session` says, or as a handle."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._reserve(kind, principal, handle_kind, transport.peer) as reservation:
            await reservation.wait(self.config.cleanup.admission_budget)
            session = self._admit(
                client or UNNAMED,
                kind,
                transport,
                principal,
                lifespan,
                clocks,
                handle_kind=handle_kind,
            )
        session._settled = trio.Event()
        try:
            await session._settled.wait()
        except BaseException as error:  # noqa: BLE001  # or an interrupt; raised again below
            session.terminate(TerminationReason.CANCELLED)
            raise_with(error, await session._wait_finished())
        session._settled = None
        if session._finished:
            self._raise_opening_error(session)
        return session

    def open_session(
        self,
        client: ClientInfo | None = None,
        *,
        kind: SessionKind = SessionKind.HANDLE,
        transport: Transport = APPLICATION,
        principal: Principal | None = None,
        lifespan: Lifespan | None = None,
        clocks: CleanupConfig | None = None,
    ) -> AbstractAsyncContextManager[Session]:
        """Open a session for the length of an ``async with`` block.

        The session runs in a task of its own. The blocks of one task have to nest; if sessions must
        end in another order, use `create_session`. Entering and leaving are checkpoints; leaving
        waits until the session has ended, also when cancelled or interrupted. The body does not
        count as work of the session.

        Args and errors as for `create_session`; besides:

        Raises:
            SessionTerminated: The session ended before the body, which was cancelled then.
        """
        opening = partial(
            self.create_session,
            client,
            kind=kind,
            transport=transport,
            principal=principal,
            lifespan=lifespan,
            clocks=clocks,
        )
        return ProtectedAsyncBlock(_while_open(opening))

    async def _accept(
        self,
        connect: Callable[[Session], SessionClient],
        *,
        kind: SessionKind,
        transport: Transport,
        principal: Principal | None,
        lifespan: Lifespan | None,
        handshake_timeout: float,
    ) -> Session:
        """Open a session for a client of a transport. A checkpoint only if it has to wait.

        Args:
            connect: Returns the connection of the new session.
            kind: How the session is reached.
            transport: The transport that connects its client.
            principal: The principal of the client.
            lifespan: Returns an async context manager that is entered when the session opens.
            handshake_timeout: Seconds for the handshake of a connection, if
                `CleanupConfig.connection_handshake_timeout` leaves them to the transport.
        """
        clocks = (
            self._connection_clocks(handshake_timeout) if kind is SessionKind.CONNECTION else None
        )
        with self._reserve(kind, principal, peer=transport.peer, is_client=True) as reservation:
            await reservation.wait(self.config.cleanup.admission_budget)
            return self._admit(None, kind, transport, principal, lifespan, clocks, connect=connect)

    @contextmanager
    def _reserve(
        self,
        kind: SessionKind,
        principal: Principal | None,
        handle_kind: HandleKind[Any] | None = None,
        peer: str = "",
        *,
        is_client: bool = False,
    ) -> Iterator[Reservation]:
        try:
            self._check_admitting(kind)
            if is_client:
                self._admission.check_rate(kind, principal, peer)
            with self._admission.reserve(kind, principal, handle_kind, peer) as reservation:
                yield reservation
        except SessionRejected as error:
            self._counters.refused[type(error).__name__] += 1
            raise
        finally:
            self._check_unused()

    def _check_admitting(self, kind: SessionKind) -> None:
        """Raise `ShuttingDown` if sessions of this kind are no longer admitted."""
        if not self._opened:
            raise RuntimeError(
                "the manager opens sessions when the server's lifespan has been entered, not before"
            )
        # A parked handler or a task belongs to a request that began before.
        if self._draining or (
            self._retiring and kind not in (SessionKind.PARKED, SessionKind.TASK)
        ):
            raise ShuttingDown

    def _admit(
        self,
        client: ClientInfo | None,
        kind: SessionKind,
        transport: Transport,
        principal: Principal | None,
        lifespan: Lifespan | None,
        clocks: CleanupConfig | None,
        *,
        connect: Callable[[Session], SessionClient] | None = None,
        handle_kind: HandleKind[Any] | None = None,
    ) -> Session:
        """Make a session and start its task. Its place has been reserved."""
        self._check_admitting(kind)  # This may have changed while the new session waited.
        session: Session = Session._create(
            new_session_id(handle_kind.prefix if handle_kind is not None else "", self.config.node),
            kind,
            transport,
            principal,
            client,
            manager=self,
            clocks=clocks or self.config.cleanup,
            lifespan=lifespan,
            hooks=self._hooks,
            may_open=connect is None,
        )
        if connect is not None:
            session._connection = connect(session)
        if handle_kind is not None:
            session._handle = Handle._create(session, handle_kind)
        self._store._add(session)
        self._counters.states[session.kind, session.state] += 1
        self._admission.added(session)
        self._store._watcher.watch(session)
        self._counters.opened += 1
        if self._instruments:
            self._observe(session)
        # With the manager's context variables: those of the caller may belong to a request.
        self._context.run(self._start, session)
        return session

    def _start(self, session: Session) -> None:
        name = f"session {beginning_of(session.session_id)}…"
        self._sessions_nursery.start_soon(run_session, session, name=name)

    def _raise_opening_error(self, session: Session) -> None:
        """Raise the error that kept a session from opening, not errors of its clean-up."""
        match session._errors[0] if session._errors else None:
            case None:
                raise session._terminated()
            case error:
                raise error

    # Finding.

    def server_state(self, lifespan: ContextOf[T]) -> T:
        """Return the value of the server's lifespan. Not a checkpoint.

        ::

            @asynccontextmanager
            async def pool(manager: SessionManager) -> AsyncIterator[Pool]:
                async with open_pool() as opened:
                    yield opened


            router = Router("notes", server_lifespan=pool)
            ...
            manager.server_state(pool)  # a Pool, to type checkers too

        Args:
            lifespan: The function that was given to `Router` as ``server_lifespan``.

        Raises:
            LookupError: It is not the server's lifespan, is not entered yet, or was left.
        """
        return self._lifespans.value_of(lifespan)

    @property
    def store(self) -> SessionStore:
        """The table of sessions."""
        return self._store

    def get_session(
        self,
        session_id: str,
        *,
        kind: SessionKind | None = None,
        principal: Principal | None = None,
    ) -> Session | None:
        """Return a live session, or None. Not a checkpoint.

        Args:
            session_id: The id, as a peer sent it; any text will do.
            kind: The kind; None searches all kinds.
            principal: The principal that asks, if known. Sessions of other principals are not
                found.
        """
        session = self._store.get(session_id, kind)
        if session is None or principal not in (None, session.principal):
            return None
        return session

    def sessions(self, where: Callable[[Session], bool] | None = None) -> list[Session]:
        """Return a snapshot of all sessions, including those that are ending. Not a checkpoint."""
        return [session for session in self._store if where is None or where(session)]

    def list_sessions(self) -> list[Session]:
        """Return a snapshot of all live sessions. Not a checkpoint."""
        return self.sessions(lambda session: session.state in LIVE_STATES)

    def list_tasks(self) -> list[TaskInfo]:
        """Return a description of each task, also of those whose outcome is kept (2026-07-28).

        Not a checkpoint. The session of a task has its id, and the kind *task*: ending it
        (`terminate_session`) ends the task as failed, and removes it.
        """
        return self._server.list_tasks()

    def cancel_task(self, task_id: str) -> bool:
        """Cancel a task as its client could; return whether it was not over (2026-07-28).

        Not a checkpoint. Its handler is cancelled. Its status becomes *cancelled* when that has
        ended, and is kept for `CleanupConfig.task_retention`.

        Args:
            task_id: The id; any text will do.
        """
        return self._server.cancel_task(task_id)

    # Events, statistics and notifications.

    def subscribe(self, max_buffer: int = 256) -> AbstractContextManager[EventStream]:
        """Receive the events of all sessions for the length of a block. Not a checkpoint.

        Args:
            max_buffer: How many events are buffered. A subscriber that is too slow misses events,
                gets `Lagged` in their place, and can catch up from `sessions`.
        """
        return ProtectedBlock(self._event_streams.subscribe(max_buffer))

    def statistics(self) -> ManagerStatistics:
        """Return statistics of all sessions. Its cost does not grow with them. Not a checkpoint."""
        server, counters = self._server, self._counters
        states = Counter[SessionState]()
        for (_, state), count in counters.states.items():
            states[state] += count
        return ManagerStatistics(
            active=+Counter({kind: self._store.count(kind) for kind in SessionKind}),
            states=+states,
            active_by_state=+counters.states,
            reserved=self._admission.reserved,
            opened=self._counters.opened,
            refused=Counter(self._counters.refused),
            ended=Counter(self._counters.ended),
            ended_by_kind=Counter(self._counters.ended_by_kind),
            durations=tuple(self._counters.durations),
            in_flight=counters.open_requests - counters.waiting_requests,
            queued=counters.waiting_requests,
            listens=server.open_subscriptions,
            subscribers=len(self._event_streams),
            events_missed=self._counters.events_missed,
            hook_failures=self._counters.hook_failures,
            http_refused=Counter(self._counters.http_refused),
            bytes_held=self._byte_budgets.manager.held,
            bytes_refused=Counter(self._byte_budgets.refused),
            tasks=+counters.tasks,
            draining=self._draining,
        )

    def describe_tasks(self) -> str:
        """Return the tree of all tasks of the event loop as text, to see why a program hangs.

        One line for each task: its name, its request or session, how long that runs, and where it
        waits. Sessions without work are only counted, and long trees are cut. The text may hold
        names that clients chose, with control characters replaced. Not a checkpoint.
        """
        return self._task_tree().describe()

    def broadcast(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        where: Callable[[Session], bool] | None = None,
    ) -> BroadcastReport:
        """Send a notification to every established client that has room for it.

        Not a checkpoint: a client that reads too slowly misses the message, which is counted.
        Changes of lists and resources are also sent to subscriptions of 2026-07-28 that asked for
        them, unless ``where`` selects sessions.

        Args:
            method: The notification's method.
            params: Its parameters.
            where: Returns whether to notify a session; all are notified by default.
        """
        return self._server.broadcast(method, params, where)

    def notify_list_changed(
        self,
        what: Literal["tools", "prompts", "resources"],
        *,
        principal: Principal | None = None,
    ) -> BroadcastReport:
        """Notify clients that a list has changed: its items, or their descriptions.

        Sessions get ``notifications/.../list_changed``; so do subscriptions of 2026-07-28 that
        asked for it. Not a checkpoint: if a client reads too slowly, its session misses the
        notification, and its subscription keeps it for later.

        Args:
            what: Which list.
            principal: Notify only the sessions and subscriptions of this principal; of all clients
                by default. Without authentication each connection has a principal of its own
                (`Session.principal`, `RequestContext.principal`).

        Raises:
            ValueError: The list is unknown.
        """
        return self._server.notify_list_changed(what, principal)

    def notify_resource_updated(self, uri: str) -> BroadcastReport:
        """Notify clients that subscribed to a resource that it has changed.

        Sessions and subscriptions of 2026-07-28 get ``notifications/resources/updated``. Not a
        checkpoint, as `notify_list_changed`.

        Args:
            uri: The URI of the resource.
        """
        return self._server.notify_resource_updated(uri)

    # Ending.

    def terminate_session(
        self,
        session_id: str,
        reason: TerminationReason = TerminationReason.REQUESTED,
        *,
        after_work: bool = False,
    ) -> bool:
        """End a session; return whether a live one had this id. Not a checkpoint.

        Args:
            session_id: The id; any text will do.
            reason: Why it ends.
            after_work: As for `Session.terminate`.
        """
        session = self._store.get(session_id)
        if session is None:
            return False
        session.terminate(reason, after_work=after_work)
        return True

    def revoke(self, principal: Principal) -> int:
        """End everything of a principal: sessions, requests, subscriptions. Not a checkpoint.

        Sessions, handles, tasks and parked handlers end with the reason *revoked*, also those that
        are being opened. New sessions that wait for a place get `AccessRevoked`. Stateless
        requests, also queued ones, are cancelled and answered with an error that says so.
        Subscriptions are notified of the tasks that fail, and get their result. New requests of the
        principal are served: refuse them where clients are authenticated.

        Args:
            principal: The principal whose access ends.

        Returns:
            How many sessions of all kinds it ended. Not counted: sessions that were ending already,
            new sessions that waited for a place, stateless requests, and subscriptions.
        """
        held = [s for s in self._store.of_principal(principal) if s.state in LIVE_STATES]
        for session in held:
            session.terminate(TerminationReason.REVOKED)
        self._admission.revoke(principal)
        self._server.revoke(principal)
        return len(held)

    @property
    def ready(self) -> bool:
        """Whether new sessions are admitted: False from `retire` or `drain` on."""
        return not (self._retiring or self._draining)

    async def retire(self, grace: float | None = None) -> None:
        """Admit nothing new, and keep serving what exists for a while. Call `drain` after it.

        From now on `ready` is False, and new sessions, handles and subscriptions are refused with
        `ShuttingDown`. Still served: requests of sessions, requests of 2026-07-28 over HTTP, uses
        of handles, answers to questions, and retries of clients. This cannot be undone.

        A checkpoint: it waits until all sessions, subscriptions and stateless requests have ended,
        or until the grace is used up. When cancelled, it stops waiting, and the manager stays
        retired. It may be called again, and then waits again.

        Args:
            grace: Seconds; `CleanupConfig.retire_grace` by default. `math.inf` waits without a
                limit.

        Raises:
            RuntimeError: One of the sessions, or a request beside them, runs the calling task.
        """
        await self._check_not_inside()
        self._retiring = True
        with trio.move_on_after(self.config.cleanup.retire_grace if grace is None else grace):
            await self._wait_unused()

    async def _wait_unused(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._is_unused():
            if self._unused is None:
                self._unused = trio.Event()
            await self._unused.wait()

    async def _check_not_inside(self) -> None:
        """Raise if the calling task is one of those that would be waited for.

        A checkpoint only if there are many sessions; it cannot be cancelled, as what comes next has
        to come.
        """
        self._server.check_not_inside()
        for number, session in enumerate(self._store, 1):
            session._check_not_inside()
            if number % CHECKED == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()

    async def drain(self, *, grace: float | None = None) -> drain.DrainReport:
        """Admit no new sessions, let work finish, then end all sessions.

        This cannot be undone. New requests are refused at once, except those about tasks. Sessions
        without work end at once, and so do subscriptions, except those to tasks that still work.
        Running requests and tasks, work tasks and leases may continue until the grace is used up;
        service tasks run until these are done. A checkpoint. When cancelled, it stops waiting;
        still nothing new is admitted.

        Args:
            grace: Seconds; `CleanupConfig.drain_grace` by default.

        Returns:
            How each session ended. It returns within the grace and the budgets of the clean-up,
            even if user code does not end.

        Raises:
            RuntimeError: One of the sessions, or a request beside them, runs the calling task.
        """
        await self._check_not_inside()
        sessions = list(self._store)
        self._draining = True
        self._begin_shutdown()
        clocks = self.config.cleanup
        grace = self._shutdown.grace(
            clocks.drain_grace if grace is None else grace, clocks.flush_budget
        )
        self._drain_until = min(self._drain_until, trio.current_time() + grace)
        self._server.requests_end_soon(EndingReason.DRAIN)
        # Not only in the drain itself: a cancellation may come before that begins.
        await drain.refuse_requests(sessions, TerminationReason.SHUTDOWN)
        await self._server.end_subscriptions()
        report = await drain.drain(sessions, grace, clocks, beside=self._server)
        if report.overran:
            write_log(
                logging.WARNING,
                "%s: the drain did not end %s sessions in time; they continue to end. All tasks:",
                repr(self),
                len(report.overran),
                stack=self.describe_tasks(),
            )
        self._drained.set()
        return report

    async def wait_drained(self) -> None:
        """Wait until `drain` has ended, or the manager's block is left.

        Servers stop then, as all messages on their connections have been sent. A checkpoint. When
        cancelled, it stops waiting, and changes nothing.
        """
        await self._drained.wait()

    # For sessions and for the server, which use these.

    def _forget(self, session: Session) -> None:
        """Remove a session from the table. Only this method does."""
        self._store._remove(session)
        self._counters.states[session.kind, session.state] -= 1
        session._close_byte_budget()
        if session._handle is not None and session._nursery is not None:
            # Otherwise it was never open, and no client has got its id.
            self._ended_handles.add(session, session._reason_to_end())
        self._drains.pop(session, None)
        self._counters.count_end(session._reason_to_end(), session.age, session.kind)
        self._admission.make_free(session)
        self._check_unused()
        finished = self._on_finished.pop(session, None)
        try:
            # The only step that the server takes: it comes when all of the manager's are taken.
            if session.kind is SessionKind.TASK:
                self._server.task_removed(session)
        finally:
            if finished is not None:
                finished(
                    SessionOutcome(
                        reason=session._reason_to_end(),
                        error=session.error,
                        protocol_version=session.protocol_version,
                    )
                )

    def _call_over(self, session: Session) -> None:
        """Let the server drop the handler of a session that has ended."""
        if session.kind in (SessionKind.PARKED, SessionKind.TASK):
            self._server.call_over(session)

    def _observe(self, session: Session) -> None:
        """Report to the instrumentation that a session has begun."""
        finished = self._instruments.session_begun(
            SessionDetails(
                session_id=session.session_id,
                kind=session.kind,
                transport=session.transport,
                principal=session.principal,
            )
        )
        if finished is not None:
            self._on_finished[session] = finished

    def _emit(self, event: Event) -> None:
        """Send an event to the manager's subscribers."""
        if self._event_streams:
            self._counters.events_missed += self._event_streams.emit(event)

    def _watch(self, session: Session) -> None:
        """Tell the watcher that a clock of a session may be due sooner than before."""
        self._store._watcher.watch(session)

    def _text_replaced(self) -> None:
        """Log, once, that text which is not valid Unicode was sent to a client."""
        if not self._replaced_text:
            self._replaced_text = True
            write_log(
                logging.WARNING,
                "%s: text that is not valid Unicode, such as the name of a file, was sent by "
                "%r: each lone surrogate became U+FFFD. This is logged once.",
                repr(self),
                trio.lowlevel.current_task().name,
            )

    def _terminate_all_of(self, principal: Principal, reason: TerminationReason) -> None:
        """End all sessions of a principal."""
        for session in self._store.of_principal(principal):
            session.terminate(reason)

    def _start_connection_task(self, async_fn: AsyncFn, *args: object) -> None:
        """Run a task of the library in the sessions nursery, such as a connection in memory.

        The task has to end by itself when its session or the manager ends.
        """
        if not self._opened:
            raise RuntimeError(
                "the manager serves clients when the server's lifespan has been entered, not before"
            )
        start = partial(self._sessions_nursery.start_soon, name=name_of(async_fn))
        self._context.run(start, self._contain, async_fn, *args)

    async def _contain(self, async_fn: AsyncFn, *args: object) -> None:
        """Run a task that belongs to no session: its failure is logged, and ends only this task."""
        try:
            running = async_fn(*args)
            del args  # Otherwise every idle connection would keep them alive.
            await running
        except BaseException as error:  # noqa: BLE001  # raised again, if it has to propagate
            report_or_raise(error, self._task_failed)

    def _task_failed(self, error: Exception) -> None:
        if isinstance(error, SessionRejected):
            return  # Such as a client in memory, which got the error itself.
        write_log(logging.ERROR, "%s: a task of the manager failed", repr(self), error=error)

    def _use_task_ages(self, ages: TaskAges) -> None:
        """Show the ages of all tasks from now on. Not a checkpoint."""
        self._task_ages = ages

    def _task_tree(self) -> TaskTree:
        """Return what describes all tasks, also in another thread. Called in the event loop."""
        return TaskTree(self.sessions, self._server.running_requests, self._task_ages)

    def _begin_shutdown(self, timeout: float | None = None) -> None:
        """Set the deadline of the shutdown; an earlier one stays. Not a checkpoint.

        Args:
            timeout: Seconds from now; `CleanupConfig.shutdown_timeout` by default.
        """
        if timeout is None:
            timeout = self.config.cleanup.shutdown_timeout
        if timeout is not None:
            self._shutdown.begin(timeout)

    def _is_unused(self) -> bool:
        """Return whether a retiring manager has nothing left to wait for."""
        return not (len(self._store) or self._server.is_busy or self._admission.reserved)

    def _check_unused(self) -> None:
        """Wake tasks that wait in `retire` if nothing is left. Called when something has ended."""
        if self._unused is not None and self._is_unused():
            self._unused.set()
            self._unused = None

    @property
    def _is_left(self) -> bool:
        """Whether the sessions nursery is cancelled, so that no task can start in it."""
        return self._sessions_nursery.cancel_scope.cancel_called


@asynccontextmanager
async def _while_open(opening: Callable[[], Awaitable[Session]]) -> AsyncIterator[Session]:
    """Keep a session open for the length of a block; see `SessionManager.open_session`."""
    session = await opening()
    with trio.CancelScope() as body, cancelled_with(session, body):
        try:
            yield session
        except BaseException as error:  # noqa: BLE001  # raised again below
            cancelled = is_cancellation(error)
            session.terminate(
                TerminationReason.CANCELLED if cancelled else TerminationReason.REQUESTED
            )
            raise_with(error, await session._wait_finished())
        else:
            session.terminate()
            interrupts = await session._wait_finished()
            if interrupts:
                raise interrupts[0]
    if body.cancelled_caught:
        raise session._terminated()
