"""The manager: the nursery that all sessions live in, and the way to each of them.

The class is whole in one file, longer than 600 lines, as applications see most of it. From top to
bottom: opening sessions, finding them, statistics and notifications, ending, and what sessions and
connections need of it.
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
from typing import TYPE_CHECKING, Any, Final, Literal, final

import attrs
import trio

from ..core.construction import NoPublicConstructor
from ..core.errors import SessionRejected, ShuttingDown
from ..core.identity import ClientInfo, Principal, Transport
from ..core.ids import SessionKind, new_session_id
from ..core.instrumentation import SessionDetails, SessionOutcome
from ..core.metrics import ManagerCounters, ManagerStatistics
from ..core.reasons import TerminationReason
from ..core.state import LIVE_STATES
from . import drain
from .admission import Admission, Reservation
from .error_log import write_log
from .event_stream import EventStream, EventStreams
from .failures import is_cancellation, report_or_raise
from .handle import Handle
from .interrupts import ProtectedAsyncBlock, ProtectedBlock, raise_with
from .lifecycle import live
from .session import Session, cancelled_with
from .shutdown_deadline import ShutdownDeadline
from .store import SessionStore
from .tasks import AsyncFn, name_of
from .watcher import connection_clocks

if TYPE_CHECKING:
    from ..core.config import CleanupConfig, SessionConfig
    from ..core.events import Event
    from ..core.handle_kind import HandleKind
    from ..core.instrumentation import SessionFinished
    from ..core.metrics import BroadcastReport
    from .hooks import SessionHooks
    from .instruments import Instruments
    from .manager_server import ManagerServer
    from .session import Lifespan
    from .session_client import SessionClient

APPLICATION: Final = Transport("application")
"""The transport of a session that the application opened itself."""


@final
@attrs.define(eq=False, repr=False)
class SessionManager(metaclass=NoPublicConstructor):
    """Owns sessions: opens them, finds them, watches their clocks, ends them.

    Made by `open_session_manager`. Managers share nothing: any number of them may be open.
    """

    config: SessionConfig
    """Its limits and clocks."""

    _hooks: tuple[SessionHooks, ...] = attrs.field(alias="hooks")
    _sessions_nursery: trio.Nursery = attrs.field(alias="sessions_nursery")
    _instruments: Instruments = attrs.field(alias="instruments")
    _server: ManagerServer = attrs.field(init=False)
    """What it serves beside sessions. Set once, before anything is opened."""
    _context: Context = attrs.field(factory=copy_context, init=False)
    _store: SessionStore = attrs.field(init=False)
    _admission: Admission = attrs.field(init=False)
    _event_streams: EventStreams = attrs.field(factory=EventStreams, init=False)
    _counters: ManagerCounters = attrs.field(factory=ManagerCounters, init=False)
    _connection_clocks: Callable[[float], CleanupConfig] = attrs.field(init=False)
    """The clocks of connections, by what their transport decides: the same object for all."""
    _on_finished: dict[Session, SessionFinished] = attrs.field(
        factory=dict["Session", "SessionFinished"], init=False
    )
    """What instrumentation wants to be called when a session has ended."""
    _retiring: bool = attrs.field(default=False, init=False)
    _unused: trio.Event | None = attrs.field(default=None, init=False)
    """Set when nothing is left that a retiring manager waits for."""
    _draining: bool = attrs.field(default=False, init=False)
    _shutdown: ShutdownDeadline = attrs.field(factory=ShutdownDeadline, init=False)
    _drained: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._store = SessionStore(config=self.config)
        self._admission = Admission(self._store, self.config.limits)
        self._connection_clocks = lru_cache(maxsize=8)(
            partial(connection_clocks, self.config.cleanup)
        )

    def __repr__(self) -> str:
        return f"<SessionManager: {len(self._store)} sessions>"

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
        """Open a session that no connection carries; it lives until something ends it.

        A checkpoint. When cancelled, the opening is undone, clean-up included, before the call
        raises.

        Args:
            client: What is known of the client that it is for.
            kind: How it will be reached.
            transport: By what its client is connected, for people to read.
            principal: On whose behalf it is opened.
            lifespan: The ``async with`` that it lives in; entered before this returns.
            clocks: Clocks of its own; the manager's by default.

        Raises:
            SessionLimitReached: A limit was reached, and the admission policy made no room.
            ShuttingDown: The manager retires, drains or is closed.
            SessionVetoed: An ``on_session_created`` hook refused it.
            SessionTerminated: It ended while it was being opened.
            Exception: What the lifespan raised.
        """
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
        with self._reserve(kind, principal, handle_kind) as reservation:
            await reservation.wait(self.config.cleanup.admission_budget)
            session = self._admit(
                client or ClientInfo(),
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
            self._raise_why(session)
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

        The session has a task of its own all the same, and may end in any order with others; the
        blocks of one task nest, as all that Trio cancels does. Where that is in the way, use
        `create_session`. Entering and leaving are checkpoints; leaving waits until nothing of the
        session is left, also when cancelled or interrupted. The body does not count as work of the
        session.

        Args and errors as for `create_session`; besides:

        Raises:
            SessionTerminated: The session ended first. The body was cancelled then.
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
        """Open a session for a client that a transport has. A checkpoint only where it waits.

        Args:
            connect: Makes the connection of the new session.
            kind: How the session is reached.
            transport: By what its client is connected.
            principal: On whose behalf it speaks.
            lifespan: The ``async with`` that it lives in, once it is open.
            handshake_timeout: Seconds for the handshake of a connection, where
                `CleanupConfig.connection_handshake_timeout` leaves that to the transport.
        """
        clocks = (
            self._connection_clocks(handshake_timeout) if kind is SessionKind.CONNECTION else None
        )
        with self._reserve(kind, principal) as reservation:
            await reservation.wait(self.config.cleanup.admission_budget)
            return self._admit(None, kind, transport, principal, lifespan, clocks, connect=connect)

    @contextmanager
    def _reserve(
        self,
        kind: SessionKind,
        principal: Principal | None,
        handle_kind: HandleKind[Any] | None = None,
    ) -> Iterator[Reservation]:
        try:
            self._check_admitting(kind)
            with self._admission.reserve(kind, principal, handle_kind) as reservation:
                yield reservation
        except SessionRejected as error:
            self._counters.refused[type(error).__name__] += 1
            raise
        finally:
            self._check_unused()

    def _check_admitting(self, kind: SessionKind) -> None:
        """Raise `ShuttingDown` where no session of this kind is admitted any more."""
        # A parked handler continues a request that has begun.
        if self._draining or (self._retiring and kind is not SessionKind.PARKED):
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
        self._check_admitting(kind)  # That may have changed while the newcomer waited.
        session: Session = Session._create(
            new_session_id(handle_kind.prefix if handle_kind is not None else ""),
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
        self._store._watcher.watch(session)
        self._counters.opened += 1
        if self._instruments:
            self._observe(session)
        # In the manager's context variables: the opener's may be a request's.
        self._context.run(self._start, session)
        return session

    def _start(self, session: Session) -> None:
        name = f"session {session.session_id[:6]}…"
        self._sessions_nursery.start_soon(live, session, name=name)

    def _raise_why(self, session: Session) -> None:
        """Raise what kept a session from opening, not what failed while it was undone."""
        match session._errors[0] if session._errors else None:
            case None:
                raise session._terminated()
            case error:
                raise error

    # Finding.

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
            session_id: Its id, as a peer sent it: any text will do.
            kind: Its kind; None looks among all kinds.
            principal: Who asks, where that is known. For anybody but its owner a session does not
                exist.
        """
        session = self._store.get(session_id, kind)
        if session is None or principal not in (None, session.principal):
            return None
        return session

    def sessions(self, where: Callable[[Session], bool] | None = None) -> list[Session]:
        """Return a snapshot of all sessions, those included that are ending. Not a checkpoint."""
        return [session for session in self._store if where is None or where(session)]

    def list_sessions(self) -> list[Session]:
        """Return a snapshot of all live sessions. Not a checkpoint."""
        return self.sessions(lambda session: session.state in LIVE_STATES)

    # Telling what happens.

    def subscribe(self, max_buffer: int = 256) -> AbstractContextManager[EventStream]:
        """Receive the events of all sessions for the length of a block. Not a checkpoint.

        Args:
            max_buffer: Events that may wait. A reader that is slower misses some, gets `Lagged`
                in their place, and can catch up from `sessions`.
        """
        return ProtectedBlock(self._event_streams.subscribe(max_buffer))

    def statistics(self) -> ManagerStatistics:
        """Return the figures of all sessions. Looks at every one. Not a checkpoint."""
        sessions = list(self._store)
        connections = [one._connection for one in sessions if one._connection is not None]
        server = self._server
        return ManagerStatistics(
            active=Counter(session.kind for session in sessions),
            states=Counter(session.state for session in sessions),
            reserved=self._admission.reserved,
            opened=self._counters.opened,
            refused=Counter(self._counters.refused),
            ended=Counter(self._counters.ended),
            durations=tuple(self._counters.durations),
            in_flight=sum(one.in_flight for one in connections) + server.in_flight,
            listens=server.open_subscriptions,
            subscribers=len(self._event_streams),
            events_missed=self._counters.events_missed,
            hook_failures=self._counters.hook_failures,
            http_refused=Counter(self._counters.http_refused),
            draining=self._draining,
        )

    def broadcast(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        where: Callable[[Session], bool] | None = None,
    ) -> BroadcastReport:
        """Send a notification to every established client that has room for it.

        Not a checkpoint: a client that reads slowly is not waited for; it misses the message,
        which is counted. Changes of lists and resources also reach the subscriptions of
        2026-07-28 that asked for them, unless ``where`` selects sessions.

        Args:
            method: The notification's method.
            params: Its parameters.
            where: Which sessions; all by default.
        """
        return self._server.broadcast(method, params, where)

    def notify_list_changed(
        self, what: Literal["tools", "prompts", "resources"]
    ) -> BroadcastReport:
        """Notify all clients that a list has changed: its items, or their descriptions.

        Sessions get ``notifications/.../list_changed``, subscriptions of 2026-07-28 that asked
        for it theirs. Not a checkpoint: a session whose client reads too slowly misses it, for a
        subscription it is kept.

        Args:
            what: Which list.

        Raises:
            ValueError: There is no such list.
        """
        return self._server.notify_list_changed(what)

    def notify_resource_updated(self, uri: str) -> BroadcastReport:
        """Notify those clients that subscribed to a resource that it has changed.

        Sessions and subscriptions of 2026-07-28 alike (``notifications/resources/updated``). Not
        a checkpoint, as `notify_list_changed`.

        Args:
            uri: The resource.
        """
        return self._server.notify_resource_updated(uri)

    # Ending.

    def terminate_session(
        self, session_id: str, reason: TerminationReason = TerminationReason.REQUESTED
    ) -> bool:
        """Let a session end; tell whether there was a live one of that id. Not a checkpoint."""
        session = self._store.get(session_id)
        if session is None:
            return False
        session.terminate(reason)
        return True

    def revoke(self, principal: Principal) -> int:
        """End all that goes on on behalf of a principal. Not a checkpoint.

        Sessions, handles and handlers that wait for their client end with the reason *revoked*,
        also those that are being opened. Newcomers that wait for a place get `AccessRevoked`.
        Requests of 2026-07-28 that belong to no session are cancelled, and answered with an
        error that says so, queued ones too; subscriptions get their result. What the principal
        begins after that is served: refuse it where clients are authenticated.

        Args:
            principal: Whose access ends.

        Returns:
            How many sessions were told to end, of all kinds. Those that end already, newcomers,
            requests without a session and subscriptions are not counted.
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
        """Admit nothing new, and let what exists go on for a while. `drain` comes after it.

        From now on `ready` is False, and new sessions, handles and subscriptions are refused with
        `ShuttingDown`. What exists goes on and is served: requests of sessions, requests of
        2026-07-28 over HTTP, uses of handles, answers to questions, and retries of clients. This
        cannot be undone.

        A checkpoint: it waits until no session, no subscription and no such request is left, or
        until the time is over. When cancelled, it stops waiting, and the manager stays retired.
        It may be called again, which waits again.

        Args:
            grace: Seconds; `CleanupConfig.retire_grace` by default. `math.inf`: until nothing is
                left.

        Raises:
            RuntimeError: One of the sessions, or a request beside them, runs the calling task.
        """
        self._check_not_inside()
        self._retiring = True
        with trio.move_on_after(self.config.cleanup.retire_grace if grace is None else grace):
            await self._wait_unused()

    async def _wait_unused(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._is_unused():
            if self._unused is None:
                self._unused = trio.Event()
            await self._unused.wait()

    def _check_not_inside(self) -> None:
        for session in self._store:
            session._check_not_inside()
        self._server.check_not_inside()

    async def drain(self, *, grace: float | None = None) -> drain.DrainReport:
        """Admit no sessions any more, let work finish, then end all sessions.

        It cannot be taken back. New requests of the sessions are refused at once, sessions
        without work and subscriptions end at once; running requests, work tasks and leases have
        until the grace is over, and service tasks until these are done. A checkpoint. When
        cancelled, it stops waiting; nothing is admitted all the same.

        Args:
            grace: Seconds; `CleanupConfig.drain_grace` by default.

        Returns:
            What became of each session. It comes within the grace and the budgets of the
            clean-up, even where user code refuses to end.

        Raises:
            RuntimeError: One of the sessions, or a request beside them, runs the calling task.
        """
        self._check_not_inside()
        sessions = list(self._store)
        self._draining = True
        self._begin_shutdown()
        clocks = self.config.cleanup
        grace = self._shutdown.grace(
            clocks.drain_grace if grace is None else grace, clocks.flush_budget
        )
        # At once, and all of them: a cancellation may come before the drain itself begins.
        drain.refuse_requests(sessions, TerminationReason.SHUTDOWN)
        await self._server.end_subscriptions()
        report = await drain.drain(sessions, grace, clocks, beside=self._server)
        self._drained.set()
        return report

    async def wait_drained(self) -> None:
        """Wait until `drain` has ended, or the manager's block is left.

        Servers stop then: all that had to be said on their connections has been. A checkpoint.
        When cancelled, it stops waiting, and changes nothing.
        """
        await self._drained.wait()

    # For its sessions, and for what runs beside them.

    def _forget(self, session: Session) -> None:
        """Take a session out of the table: the one place where that happens."""
        self._store._remove(session)
        self._counters.count_end(session._reason_to_end(), session.age)
        self._admission.make_free(session)
        self._check_unused()
        finished = self._on_finished.pop(session, None)
        if finished is not None:
            finished(
                SessionOutcome(
                    reason=session._reason_to_end(),
                    error=session.error,
                    protocol_version=session.protocol_version,
                )
            )

    def _observe(self, session: Session) -> None:
        """Tell instrumentation that a session has begun."""
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
        """Note that a clock of a session may be due sooner than was known."""
        self._store._watcher.watch(session)

    def _terminate_all_of(self, principal: Principal, reason: TerminationReason) -> None:
        """End all sessions of a principal."""
        for session in self._store.of_principal(principal):
            session.terminate(reason)

    def _start_connection_task(self, async_fn: AsyncFn, *args: object) -> None:
        """Run a task of the library beside the sessions, such as a connection in memory.

        The task has to end by itself when its session or the manager ends.
        """
        start = partial(self._sessions_nursery.start_soon, name=name_of(async_fn))
        self._context.run(start, self._contain, async_fn, *args)

    async def _contain(self, async_fn: AsyncFn, *args: object) -> None:
        """Run a task that belongs to no session: what fails in it is logged, and ends only it."""
        try:
            running = async_fn(*args)
            del args  # Every idle connection would keep them.
            await running
        except BaseException as error:  # noqa: BLE001  # raised again, as far as it has to go on
            report_or_raise(error, self._task_failed)

    def _task_failed(self, error: Exception) -> None:
        if isinstance(error, SessionRejected):
            return  # Of a client in memory, which has been told; the manager counts it.
        write_log(logging.ERROR, "%s: a task of the manager failed", repr(self), error=error)

    def _begin_shutdown(self, timeout: float | None = None) -> None:
        """Set the moment by which all must be over, or bring it closer. Not a checkpoint.

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
        """Wake what waits in `retire`, if nothing is left. Called when something has ended."""
        if self._unused is not None and self._is_unused():
            self._unused.set()
            self._unused = None

    @property
    def _is_left(self) -> bool:
        """Whether its nursery of sessions is cancelled, so that nothing can start there."""
        return self._sessions_nursery.cancel_scope.cancel_called


@asynccontextmanager
async def _while_open(opening: Callable[[], Awaitable[Session]]) -> AsyncIterator[Session]:
    """Have a session for the length of a block; see `SessionManager.open_session`."""
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
