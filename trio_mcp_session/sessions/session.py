"""The session: its public API, its state, and what the rest of the engine needs of it.

The class is in one file, although that is longer than 600 lines. From top to bottom: fields;
properties; tasks; held contexts and typed state; messages to the client; clocks; ending. Then the
private part for the rest of the engine: moves between states, the task and the nursery, activity,
borrowers, reports. `lifecycle` describes the order of opening and ending.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Set as AbstractSet
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from contextvars import Context
from datetime import timedelta
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, final, overload
from weakref import ref

import attrs
import trio

from ..core import events
from ..core.construction import NoPublicConstructor
from ..core.errors import (
    CleanupFailed,
    HeldContextEnded,
    HookFailed,
    InvalidTransition,
    NoChannel,
    SessionTerminated,
    ShuttingDown,
    TaskCrashed,
)
from ..core.identity import ClientInfo, Principal, Transport, principal_of_connection
from ..core.ids import beginning_of
from ..core.lifecycle_states import SessionState, can_move
from ..core.metrics import SessionCounters, SessionMetrics
from ..core.reasons import EndingReason, TerminationReason
from . import drain
from .borrowers import Borrower, Borrowers
from .error_log import LogSubject, log_error
from .event_stream import EventStream, EventStreams
from .failures import contained
from .handle import Handle
from .held_contexts import HeldContexts
from .hooks import HookQueue
from .interrupts import ProtectedBlock, raise_with, run_user_code, wait_for
from .state_values import MISSING, StateValues
from .tasks import AsyncFn, StartingTask, name_of, runs_in

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget
    from ..core.config import CleanupConfig
    from ..core.handle_kind import HandleKind
    from ..core.ids import SessionId, SessionKind
    from .hooks import SessionHooks
    from .host import SessionHost
    from .server_lifespans import ContextOf
    from .session_client import SessionClient
    from .state_keys import Absent, StateKey

T = TypeVar("T")
D = TypeVar("D")

Lifespan: TypeAlias = Callable[["Session"], AbstractAsyncContextManager[object]]
"""Returns an async context manager that is entered when a session opens, and left at its end."""

MAX_ERRORS: Final = 16
"""How many errors a session keeps: a session that stays open can fail many times."""

WAITS_FOR_OTHERS: Final = "waiting for tasks outside of the session"
"""Name of the task that waits for them; reports name those tasks instead of this one."""


@final
@attrs.define(eq=False, repr=False)
class Session(metaclass=NoPublicConstructor):
    """What a server keeps for one client or one handle: a nursery with an id and timeouts.

    `SessionManager` makes sessions. When a session ends, for whatever reason, its tasks are joined
    first, then its held contexts are left, then its lifespan.
    """

    session_id: SessionId
    """The id, which cannot be guessed. Treat it as a secret if there is no authentication."""

    kind: SessionKind
    """How the session is reached."""

    transport: Transport
    """The transport that connects its client."""

    principal: Principal | None
    """The principal that it was opened for, without claims and scopes; None without
    authentication."""

    client: ClientInfo | None
    """How its client described itself in the handshake; None before that."""

    _manager: SessionHost = attrs.field(alias="manager")
    _clocks: CleanupConfig = attrs.field(alias="clocks")
    _lifespan: Lifespan | None = attrs.field(alias="lifespan")
    _hooks: tuple[SessionHooks, ...] = attrs.field(alias="hooks")
    _may_open: bool = attrs.field(alias="may_open")

    # It has a client, or a handle, or neither.
    _connection: SessionClient | None = attrs.field(default=None, init=False)
    _handle: Handle[Any] | None = attrs.field(default=None, init=False)
    _ended_handle: tuple[ref[Handle[Any]], HandleKind[Any]] | None = attrs.field(
        default=None, init=False
    )
    """The handle when the session has ended: the two do not keep each other alive then."""

    # State, tasks and end.
    _state: SessionState = attrs.field(default=SessionState.INITIALIZING, init=False)
    _reason: TerminationReason | None = attrs.field(default=None, init=False)
    _drain_reason: TerminationReason | None = attrs.field(default=None, init=False)
    _ends_after_work: bool = attrs.field(default=False, init=False)
    _makes_room: bool = attrs.field(default=False, init=False)
    """Whether it is ended when another session of its principal and kind has no place: what it
    keeps has been fetched."""
    _errors: list[Exception] | None = attrs.field(default=None, init=False)
    _created: bool = attrs.field(default=False, init=False)
    _work_cancelled: bool = attrs.field(default=False, init=False)
    _finished: bool = attrs.field(default=False, init=False)
    _ended_version: str | None = attrs.field(default=None, init=False)
    _had_client: bool = attrs.field(default=False, init=False)
    """Whether it had a connection when it ended, which it does not refer to any longer."""
    _disconnected_event: events.Disconnected | None = attrs.field(default=None, init=False)
    _task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)
    _asleep: bool = attrs.field(default=False, init=False)
    _entering: trio.CancelScope | None = attrs.field(default=None, init=False)
    _body: trio.CancelScope | None = attrs.field(default=None, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _early_nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _early_holders: list[Callable[[], None]] | None = attrs.field(default=None, init=False)
    _early_tasks: list[Callable[[], None]] | None = attrs.field(default=None, init=False)
    _children: int = attrs.field(default=0, init=False)
    _closing: bool = attrs.field(default=False, init=False)
    _cleanup_until: float | None = attrs.field(default=None, init=False)
    _settled: trio.Event | None = attrs.field(default=None, init=False)
    _ended: trio.Event | None = attrs.field(default=None, init=False)

    # Its clocks.
    _opened_at: float = attrs.field(factory=trio.current_time, init=False)
    _last_active: float = attrs.field(init=False)
    _expires_at: float = attrs.field(init=False)
    _expiry_announced: bool = attrs.field(default=False, init=False)
    _next_check: float = attrs.field(default=inf, init=False)
    _busy: int = attrs.field(default=0, init=False)
    _quietest_first: OrderedDict[SessionId, Session] = attrs.field(init=False)

    # Made on first use: an idle session is little more than its task.
    _counters: SessionCounters = attrs.field(factory=SessionCounters, init=False)
    _held: HeldContexts | None = attrs.field(default=None, init=False)
    _borrowers: Borrowers | None = attrs.field(default=None, init=False)
    _hook_calls: HookQueue | None = attrs.field(default=None, init=False)
    _event_streams: EventStreams | None = attrs.field(default=None, init=False)
    _values: StateValues | None = attrs.field(default=None, init=False)
    _bytes: ByteBudget | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._last_active = self._opened_at
        self._expires_at = self._opened_at + self._clocks.max_session_time

    def __repr__(self) -> str:
        # Part of the id only: without authentication the id is a secret, and logs are read.
        why = f" ({self._reason.value})" if self._reason is not None else ""
        return (
            f"<Session {beginning_of(self.session_id)}… {self.kind.value} {self._state.value}{why}>"
        )

    # Properties.

    @property
    def handle(self) -> Handle[Any] | None:
        """The handle, if `RequestContext.open_handle` opened this session; None otherwise."""
        if self._ended_handle is not None:
            known, kind = self._ended_handle
            anew: Callable[[Session, HandleKind[Any]], Handle[Any]] = Handle._create
            return known() or anew(self, kind)
        return self._handle

    @property
    def state(self) -> SessionState:
        """The state of the session."""
        return self._state

    @property
    def termination_reason(self) -> TerminationReason | None:
        """Why the session ends or has ended; None while it is live."""
        return self._reason

    @property
    def error(self) -> Exception | None:
        """The error of a task, the lifespan or the clean-up; a group if there are several."""
        if not self._errors:
            return None
        if len(self._errors) == 1:
            return self._errors[0]
        return ExceptionGroup("several errors in a session", self._errors)

    @property
    def protocol_version(self) -> str | None:
        """The protocol version that client and server agreed on; None before the handshake."""
        connection = self._connection
        return self._ended_version if connection is None else connection.protocol_version

    @property
    def subscribed_resources(self) -> AbstractSet[str]:
        """The URIs of the resources that its client subscribed to."""
        return frozenset() if self._connection is None else self._connection.subscribed_resources

    @property
    def busy(self) -> bool:
        """Whether a request, a work task or a lease keeps it from being idle."""
        return self._busy > 0

    @property
    def idle_time(self) -> float:
        """Seconds since the session was last active; 0 while it is busy."""
        return 0.0 if self._busy else trio.current_time() - self._last_active

    @property
    def age(self) -> float:
        """Seconds since the session was opened."""
        return trio.current_time() - self._opened_at

    @property
    def time_left(self) -> float:
        """Seconds until its lifetime is over; infinite if it has no lifetime."""
        return self._expires_at - trio.current_time()

    @property
    def metrics(self) -> SessionMetrics:
        """Counters and timestamps of the session so far. Not a checkpoint."""
        now, wall = trio.current_time(), self._manager.config.wall_clock()
        connection = self._connection
        return SessionMetrics(
            created=wall - timedelta(seconds=now - self._opened_at),
            last_active=wall - timedelta(seconds=self.idle_time),
            in_flight=0 if connection is None else connection.in_flight,
            queued=0 if connection is None else connection.queued,
            bytes_held=0 if self._bytes is None else self._bytes.held,
            **attrs.asdict(self._counters),
        )

    def subscribe(self, max_buffer: int = 64) -> AbstractContextManager[EventStream]:
        """Receive this session's events for the length of a block. Not a checkpoint.

        Args:
            max_buffer: How many events are buffered. A subscriber that is too slow misses events,
                and gets `Lagged` in their place. The last event, `Disconnected`, is never dropped.
        """
        return ProtectedBlock(self._subscribe(max_buffer))

    @contextmanager
    def _subscribe(self, max_buffer: int) -> Iterator[EventStream]:
        if self._event_streams is None:
            self._event_streams = EventStreams()
        with self._event_streams.subscribe(max_buffer) as stream:
            if self._disconnected_event is not None:
                self._event_streams.finish(self._disconnected_event)
            yield stream

    # Tasks and held contexts.

    def start_soon(
        self,
        async_fn: AsyncFn,
        *args: object,
        name: str | None = None,
        service: bool = False,
    ) -> None:
        """Run ``async_fn(*args)`` in the session's nursery. Not a checkpoint.

        The task is cancelled and joined before the session counts as terminated. If it raises,
        the session ends as *crashed*, and nothing else does. If this is called before the session
        is open, for example in its lifespan, the task starts when the session opens.

        Args:
            async_fn: What to run.
            *args: Its arguments.
            name: The name of the task; the function's name by default.
            service: The task serves the session and does not count as work: the session can be idle
                while it runs, and a drain does not wait for it.

        Raises:
            SessionTerminated: The session ends or has ended, or ends after its work.
        """
        self._check_admits_work()
        self._start_soon(async_fn, args, name or name_of(async_fn), service=service)

    async def start(
        self,
        async_fn: AsyncFn,
        *args: object,
        name: str | None = None,
        service: bool = False,
    ) -> Any:
        """Run ``async_fn(*args, task_status=...)`` and wait until it calls ``started()``.

        A checkpoint. When cancelled, the task is cancelled and joined first. An error of the task
        before ``started()`` is raised here and does not end the session. Otherwise as `start_soon`.

        Returns:
            The value given to ``task_status.started(value)``.

        Raises:
            RuntimeError: The task returned without calling ``started()``, or the session is not
                open yet.
            SessionTerminated: The session ends or has ended, or ends after its work.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_admits_work()
        name = name or name_of(async_fn)
        if self._nursery is None:
            raise RuntimeError("the session is not open yet: no task can start before it is")
        starting = StartingTask()
        self._start_soon(starting.run, (async_fn, args), name, service=service)
        try:
            await starting.settled.wait()
        except BaseException as error:  # noqa: BLE001  # or an interrupt; raised again below
            # Also if it has just started: its value reaches no caller.
            starting.scope.cancel(reason="start was cancelled")
            interrupts = await wait_for(starting.ended)
            if starting.error is not None:
                # The caller gets its cancellation instead. The session stays open.
                self._report_crash_of(name, starting.error)
            raise_with(error, interrupts)
        if starting.is_started:
            return starting.value
        if starting.error is not None:
            raise starting.error
        if starting.returned:
            raise RuntimeError(f"{name} returned without calling task_status.started()")
        raise self._terminated()

    async def enter_async_context(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter a context that the session holds until it ends.

        A checkpoint. It may be called from any task. The context is entered and left in a task of
        its own, where `current_session` works; held contexts are left last one first, after the
        session's tasks are joined and before its lifespan is left. When cancelled, what was
        entered is left again before the call raises.

        Returns:
            What the context's ``__aenter__`` returned.

        Raises:
            SessionTerminated: The session ends or has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_live()
        if self._held is None:
            self._held = HeldContexts(self)
        return await self._held.enter(context)

    def lease(self) -> AbstractContextManager[None]:
        """Count as work for the length of a block: the session is not idle, evicted or drained.

        Not a checkpoint.

        Raises:
            SessionTerminated: The session ends or has ended, or ends after its work.
        """
        return ProtectedBlock(self._lease())

    @contextmanager
    def _lease(self) -> Iterator[None]:
        self._check_admits_work()
        self._begin_work()
        try:
            yield
        finally:
            self._end_work()

    # Typed state.

    def set_state(self, key: StateKey[T], value: T, *, ttl: float = inf) -> None:
        """Store a value under a typed key. Not a checkpoint.

        Args:
            key: The key.
            value: The value. It outlives the session: the last hooks still find it.
            ttl: Seconds until the value is dropped.

        Raises:
            ValueError: ``ttl`` is not positive.
        """
        self._state_values().set(key, value, ttl)

    @overload
    def get_state(self, key: StateKey[T]) -> T: ...
    @overload
    def get_state(self, key: StateKey[T], default: D) -> T | D: ...

    def get_state(self, key: StateKey[Any], default: Any = MISSING) -> Any:
        """Return the value under a typed key. Not a checkpoint.

        Raises:
            KeyError: There is no value, and no default was given.
        """
        value = default if self._values is None else self._values.get(key, default)
        if value is MISSING:
            raise KeyError(key)
        return value

    def server_state(self, lifespan: ContextOf[T]) -> T:
        """Return the value of the server's lifespan: see `SessionManager.server_state`."""
        return self._manager.server_state(lifespan)

    def delete_state(self, key: StateKey[Any]) -> bool:
        """Remove the value under a typed key; return whether there was one. Not a checkpoint."""
        return self._values is not None and self._values.delete(key)

    def update_state(
        self,
        key: StateKey[T],
        fn: Callable[[T], T],
        default: T = MISSING,
        *,
        ttl: float | None = None,
    ) -> T:
        """Replace a value by what a function makes of it. Not a checkpoint, so nothing can come in.

        ::

            session.update_state(COUNT, lambda count: count + 1, 0)

        If the function raises, the value stays. A function that changes a list in place and returns
        it wakes the tasks that wait for the value, which a change without this call does not.

        Args:
            key: The key.
            fn: Called with the value. It must not be async, and not change the value by other
                calls.
            default: What it is called with if there is no value.
            ttl: Seconds until the new value is dropped; by default when the old one would have
                been.

        Returns:
            The new value.

        Raises:
            KeyError: There is no value, and no default was given.
            TypeError: The function is async.
            RuntimeError: The function has changed the value by another call.
            ValueError: ``ttl`` is not positive.
        """
        return self._state_values().update(key, fn, default, ttl)

    def compare_and_set(
        self, key: StateKey[T], expected: T | Absent, new: T, *, ttl: float | None = None
    ) -> bool:
        """Replace a value if it is what the caller expects. Not a checkpoint.

        Args:
            key: The key.
            expected: What the value must be, or be equal to; `ABSENT` for no value.
            new: The new value.
            ttl: Seconds until the new value is dropped; by default when the old one would have
                been.

        Returns:
            Whether it was replaced.

        Raises:
            ValueError: ``ttl`` is not positive.
        """
        return self._state_values().compare_and_set(key, expected, new, ttl)

    @overload
    async def wait_state(self, key: StateKey[T], predicate: Callable[[T], object]) -> T: ...
    @overload
    async def wait_state(
        self, key: StateKey[T], predicate: Callable[[T | D], object], default: D
    ) -> T | D: ...

    async def wait_state(
        self, key: StateKey[Any], predicate: Callable[[Any], object], default: Any = MISSING
    ) -> Any:
        """Wait until a predicate holds for the value under a typed key.

        ::

            await session.wait_state(COUNT, lambda count: count >= 10)

        A checkpoint. When cancelled, it stops waiting, and changes nothing. The predicate is called
        at first, and after the value was set, updated or removed, or its time to live is over. A
        value that is replaced before the waiting task runs is not seen.

        Args:
            key: The key.
            predicate: Called with the value. It must not be async.
            default: What it is called with while there is no value; by default it is not called
                then.

        Returns:
            The value, or the default, for which the predicate holds.

        Raises:
            SessionTerminated: The session ends or has ended. Tasks that the session runs are
                cancelled instead.
        """
        return await self._state_values().wait(key, predicate, default, self._check_not_closed)

    def _state_values(self) -> StateValues:
        if self._values is None:
            self._values = StateValues()
        return self._values

    def _check_not_closed(self) -> None:
        """Raise if the session's tasks have been cancelled, or it ended without any."""
        if self._closing or self._state is SessionState.TERMINATED:
            raise self._terminated()

    def _end_state_waits(self) -> None:
        """Wake tasks that wait for a value. Tasks of the session were cancelled before."""
        if self._values is not None:
            self._values.wake_all()

    # Messages to the client, outside of any request.

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification to the client, outside of any request.

        A checkpoint; it waits while the client's buffer is full. When cancelled, nothing was
        sent.

        Args:
            method: The notification's method.
            params: Its parameters.

        Raises:
            NoChannel: The session has no connection to its client.
            SessionTerminated: The session ends or has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_live()
        await self._connected().notify(method, params)

    def notify_nowait(self, method: str, params: Mapping[str, Any] | None = None) -> bool:
        """Send a notification if there is room for it; count it as dropped if not.

        Not a checkpoint.

        Args:
            method: The notification's method.
            params: Its parameters.

        Returns:
            Whether it was sent.

        Raises:
            NoChannel: The session has no connection to its client.
            SessionTerminated: The session ends or has ended.
        """
        self._check_live()
        return self._connected().notify_nowait(method, params)

    async def ask(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # the client is told when it is over
    ) -> Any:
        """Send a request to the client, outside of any request of the client, and await the answer.

        Clients expect only ``ping`` here (all revisions); ask everything else through the
        `RequestContext` of the request that it belongs to. A checkpoint.

        Args:
            method: The request's method.
            params: Its parameters.
            timeout: Seconds; `CleanupConfig.question_timeout` by default.

        Raises:
            NoChannel: The session has no connection to its client.
            QuestionTimeout: No answer in time; the client was sent ``notifications/cancelled``.
            McpError: The client answered with this error.
            SessionTerminated: The session ends or has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_live()
        return await self._connected().ask(method, params, timeout)

    def _connected(self) -> SessionClient:
        if self._connection is None:
            raise NoChannel
        return self._connection

    # Its clocks.

    def touch(self) -> None:
        """Record activity: the time of quiet begins anew. Not a checkpoint."""
        self._touch()

    def renew(self, lifetime: float | None = None) -> None:
        """Start a new lifetime for the session. Not a checkpoint.

        Args:
            lifetime: Seconds; `CleanupConfig.max_session_time` by default.

        Raises:
            SessionTerminated: The session ends or has ended.
            ValueError: ``lifetime`` is not positive.
        """
        self._check_live()
        lifetime = self._clocks.max_session_time if lifetime is None else lifetime
        if not lifetime > 0:
            raise ValueError(f"lifetime must be more than 0 seconds, not {lifetime!r}")
        self._expires_at = trio.current_time() + lifetime
        self._expiry_announced = False
        self._manager._watch(self)

    # Its end.

    def terminate(
        self,
        reason: TerminationReason = TerminationReason.REQUESTED,
        *,
        after_work: bool = False,
    ) -> None:
        """End the session. Not a checkpoint.

        It may be called any number of times, from anywhere, also from the session's own tasks; the
        first reason stays. From now on peers cannot reach the session. It ends in its own task; see
        `wait_terminated`.

        With ``after_work`` it ends when its work is done: the requests that run or wait, also the
        one that calls this, work tasks, leases, and uses of its handle that have begun. No new work
        begins: requests are refused, a use of its handle raises `UnknownHandle`, also one that
        waits for its turn, and `start_soon`, `start` and `lease` raise `SessionTerminated`. A later
        call without ``after_work`` ends it at once.

        Args:
            reason: Why it ends.
            after_work: Whether to let work that has begun finish first. There is no limit of time;
                the session's other clocks still count.
        """
        if after_work and self._busy:
            self._ends_after_work = True
            self._refuse_requests(reason)
            return
        if self._reason is None:
            self._reason = reason
            self._move(SessionState.TERMINATING)
            self._announce_end(EndingReason.SESSION_ENDS)
            if self._asleep:
                self._manager._endings.add(self)
            else:
                self._wake_to_end()

    async def wait_terminated(self) -> TerminationReason:
        """Wait until the session has ended, clean-up included, and return why.

        A checkpoint. When cancelled, it stops waiting, and changes nothing.

        Raises:
            RuntimeError: The session runs the calling task, which would wait for itself.
        """
        self._check_not_inside()
        if self._finished:
            await trio.lowlevel.checkpoint()
        else:
            if self._ended is None:
                self._ended = trio.Event()
            await self._ended.wait()
        return self._reason_to_end()

    async def _wait_finished(self) -> list[KeyboardInterrupt]:
        """Wait as `wait_terminated` does, through cancellations and interrupts; return those."""
        if self._finished:
            return []
        if self._ended is None:
            self._ended = trio.Event()
        return await wait_for(self._ended)

    async def drain(self, *, grace: float | None = None) -> drain.DrainReport:
        """Let the session finish its work, then end it with reason *shutdown*.

        New requests are refused at once; running requests, work tasks and leases have until the
        grace is over, and service tasks until these are done. A checkpoint. When cancelled, it
        stops waiting; the session stays closed to new requests.

        Args:
            grace: Seconds; `CleanupConfig.drain_grace` by default.

        Returns:
            How it ended. It returns within the grace and the budgets of the clean-up, even if user
            code does not end: then the session is listed in ``overran``.

        Raises:
            RuntimeError: The session itself runs the calling task.
        """
        self._check_not_inside()
        grace = self._clocks.drain_grace if grace is None else grace
        self._manager._drains[self] = min(trio.current_time() + grace, self._drain_until)
        return await drain.drain([self], grace, self._clocks)

    # Private to this library from here on.

    # Checks.

    def _check_live(self) -> None:
        if self._reason is not None:
            raise self._terminated()

    def _check_admits_work(self) -> None:
        if self._reason is not None or self._ends_after_work:
            raise self._terminated()

    def _why_it_refuses(self) -> str | None:
        """Return the error for a new request; None if requests are admitted."""
        if self._reason is None and self._drain_reason is None:
            return None
        if self._ends_after_work:
            return f"Session is ending: {self._reason_to_end().value}"
        return str(ShuttingDown())

    def _terminated(self) -> SessionTerminated:
        """Return the error that says why the session ended, with its own error as the cause."""
        ended = SessionTerminated(self._reason_to_end())
        ended.__cause__ = self.error
        return ended

    def _check_not_inside(self) -> None:
        """Raise if the session runs the calling task, which would wait for itself.

        It looks at the parent nurseries of the task. A context variable would not do: it is copied
        into tasks that outlive their session.
        """
        self._check_not_held()
        if self._connection is not None and runs_in(self._connection.outside_tasks):
            raise RuntimeError("a request cannot wait for the end of its connection")
        if self._task is not None and runs_in({self._task}):
            raise RuntimeError("a session cannot wait for its own end")
        if self._borrowers is not None and runs_in(self._borrowers.tasks):
            raise RuntimeError("a task that uses a session cannot wait for the session's end")

    def _check_not_held(self) -> None:
        if self._held is not None and runs_in(self._held.tasks):
            raise RuntimeError("a held context cannot wait until it is left")

    def _running_tasks(self) -> tuple[str, ...]:
        """Return the names of the tasks that still run; the session's own if there is no other."""
        tasks: set[trio.lowlevel.Task] = set()
        if self._nursery is not None:
            tasks |= self._nursery.child_tasks
        if self._held is not None:
            tasks |= self._held.tasks
        if self._borrowers is not None:
            tasks |= self._borrowers.tasks
        if self._connection is not None:
            tasks |= self._connection.outside_tasks
        names = sorted(task.name for task in tasks if task.name != WAITS_FOR_OTHERS)
        return tuple(names) or ("session",)

    def _reason_to_end(self) -> TerminationReason:
        # Without a reason: an interrupt ended the session.
        return self._reason or self._drain_reason or TerminationReason.CRASHED

    def _ensure_reason(self) -> TerminationReason:
        """Set a reason to end if there is none yet, and return the reason."""
        self.terminate(
            TerminationReason.CANCELLED if self._manager._is_left else TerminationReason.CRASHED
        )
        return self._reason_to_end()

    def _why_it_ends(self) -> str:
        return f"Session has ended: {self._ensure_reason().value}"

    @property
    def _default_principal(self) -> Principal:
        """The principal of requests without one: without authentication, the connection's."""
        return self.principal or principal_of_connection(self.session_id)

    @property
    def _handle_kind(self) -> HandleKind[Any] | None:
        return None if self._handle is None else self._handle.kind

    def _is_opening(self) -> bool:
        """Whether a caller waits while the lifespan is entered or ``on_session_created`` runs."""
        return self._may_open and self._nursery is None and not self._finished

    # Moves between states.

    def _move(self, new: SessionState) -> None:
        """Change the state. Only this method does."""
        old = self._state
        if not can_move(old, new):
            raise InvalidTransition(old, new)
        self._state = new
        self._manager._counters.state_changed(self.kind, old, new)
        if self._has_listeners():
            self._emit(events.StateChanged(**self._stamp(), old=old, new=new, reason=self._reason))
        for hooks in self._hooks:
            if hooks.on_state_changed is not None:
                self._post_hook("on_state_changed", hooks.on_state_changed, old, new)

    def _handshake_done(self) -> None:
        """Change the state to *active* if it is *initializing*."""
        if self._state is SessionState.INITIALIZING:
            self._activate()

    def _activate(self) -> None:
        self._move(SessionState.ACTIVE)
        self._manager._watch(self)

    def _allow_opening(self, client: ClientInfo) -> None:
        """Let the session's task open it. Called when the client is known. Not a checkpoint."""
        self.client = client
        self._may_open = True
        self._begin_work()
        self._touch()
        self._manager._watch(self)
        self._wake()

    # The session's task, which sleeps most of the time.

    def _sleep(self) -> Awaitable[object]:
        """Wait to be woken. Not ``async def``: that saves a frame in every idle session."""
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

    def _wake_to_end(self) -> None:
        """Let the session's task, and what ends with the session, see that there is a reason."""
        for scope in (self._entering, self._body):
            if scope is not None:
                scope.cancel(reason=f"session ends: {self._reason_to_end().value}")
        self._wake()

    def _begin_ending(self) -> None:
        """Called by the session's task before its nursery is closed."""
        # A lifespan with a nursery of its own may have cancelled the task: then nothing may begin,
        # or it would find the nursery closed.
        self._ensure_reason()
        self._work_cancelled = self.busy
        self._manager._endings.begun(self)

    def _context(self) -> Context:
        """Return the context variables for a new task of the session."""
        assert self._task is not None
        return self._task.context.copy()

    # Its nursery.

    def _start_soon(
        self, async_fn: AsyncFn, args: tuple[object, ...], name: str, *, service: bool
    ) -> None:
        """Run a task of the application in the nursery, or queue it until the nursery is open."""
        if self._nursery is None:
            # Not counted as work yet: the session may never open.
            if self._early_tasks is None:
                self._early_tasks = []
            self._early_tasks.append(
                partial(self._start_soon, async_fn, args, name, service=service)
            )
            return
        if not service:
            self._begin_work()
        self._spawn(partial(self._run, async_fn, args, name, service=service), name=name)

    async def _run(
        self, async_fn: AsyncFn, args: tuple[object, ...], name: str, *, service: bool
    ) -> None:
        try:
            # Reported while it still counts as work: a drain ends a session without work.
            with contained(partial(self._task_crashed, name)):
                await run_user_code(async_fn, *args)
        finally:
            if not service:
                self._end_work()

    def _start_early_tasks(self) -> None:
        """Start the tasks that were queued before the nursery was open."""
        early, self._early_tasks = self._early_tasks, None
        for start in early or ():
            start()

    def _spawn(self, async_fn: AsyncFn, *args: object, name: str) -> None:
        """Start a task in the nursery."""
        # Not in the caller's context: that may belong to a request, which ends before this task.
        self._context().run(self._start_child, async_fn, args, name)
        self._children += 1  # Only after it was started: if that raises, there is no child.

    def _start_child(self, async_fn: AsyncFn, args: tuple[object, ...], name: str) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._child, async_fn, args, name, name=name)

    async def _child(self, async_fn: AsyncFn, args: tuple[object, ...], name: str) -> None:
        """Run and count a child of the nursery; its failure ends the session."""
        try:
            with contained(partial(self._task_crashed, name)):
                await async_fn(*args)
        finally:
            self._children -= 1
            self._release_next()

    def _spawn_holder(self, async_fn: AsyncFn, *args: object) -> None:
        """Start the task of a held context: a child that is not counted and shields itself."""
        nursery = self._nursery or self._early_nursery
        if nursery is not None:
            self._context().run(self._start_holder, nursery, async_fn, args)
            return
        # The session's task opens a nursery for the held context.
        if self._early_holders is None:
            self._early_holders = []
        self._early_holders.append(partial(self._spawn_holder, async_fn, *args))
        self._wake()

    @staticmethod
    def _start_holder(nursery: trio.Nursery, async_fn: AsyncFn, args: tuple[object, ...]) -> None:
        nursery.start_soon(async_fn, *args, name="held context")

    def _open_early(self, nursery: trio.Nursery) -> None:
        """Hold contexts in this nursery until the session has its own."""
        self._early_nursery = nursery
        waiting, self._early_holders = self._early_holders, None
        for spawn in waiting or ():
            spawn()

    def _attach_body(self, scope: trio.CancelScope) -> None:
        """Cancel this scope when the session begins to end; see `cancelled_with`."""
        self._body = scope
        if self._reason is not None:
            scope.cancel(reason="session has ended")

    def _detach_body(self) -> None:
        self._body = None

    # Ending the tasks.

    def _close_nursery(self) -> None:
        """Cancel all tasks of the session. Synchronous, so that no part of it can be skipped.

        Held contexts shield themselves and are left when the rest has ended: see `_release_next`.
        """
        self._closing = True
        reason = f"Session has ended: {self._reason_to_end().value}"
        connection = self._connection
        outside = connection is not None and connection.has_outside_tasks
        try:
            if self._nursery is not None and (self._borrowers or outside):
                # It counts as a child: held contexts stay open until the tasks outside have ended.
                self._spawn(self._wait_for_others, name=WAITS_FOR_OTHERS)
            if self._borrowers is not None:
                self._borrowers.cancel_all(reason)
        finally:
            try:
                if connection is not None and outside:
                    connection.cancel_outside_tasks()
            finally:
                try:
                    if self._nursery is not None:
                        self._nursery.cancel_scope.cancel(reason=reason)
                    self._release_next()
                finally:
                    self._end_state_waits()

    async def _wait_for_others(self) -> None:
        """Wait until the cancelled tasks outside of the session's nursery have ended.

        Trio cannot move a task. So a handler that uses a handle stays in the nursery of its own
        request. A stateless request on a pipe starts in the manager's nursery, since it may be
        parked and then outlive its connection.
        """
        with trio.CancelScope(shield=True):  # noqa: ASYNC912  # each is a wait where there is one
            if self._borrowers is not None:
                await self._borrowers.wait_gone()
            if self._connection is not None:
                await self._connection.wait_outside_tasks()

    def _release_next(self) -> None:
        """Release the youngest held context if all other tasks of the session have ended."""
        if self._closing and not self._children and self._held:
            self._held.release_youngest(self._cleanup_deadline())

    # Budgets, each limited by the deadline of a shutdown.

    def _flush_budget(self) -> float:
        """Return how many seconds the session may spend on writing its last messages."""
        return self._manager._shutdown.flush_budget(self._clocks.flush_budget)

    def _cleanup_deadline(self) -> float:
        """Return when held contexts and the lifespan are cancelled; the first call sets it."""
        if self._cleanup_until is None:
            budget = self._clocks.cleanup_budget
            self._cleanup_until = self._manager._shutdown.cleanup_until(budget)
        return self._cleanup_until

    def _hooks_deadlines(self) -> tuple[float, float]:
        """Return the deadlines of the hooks that wait now, and of all last hooks."""
        now = trio.current_time()
        until = self._manager._shutdown.hooks_until(self._clocks.hook_budget)
        # The waiting hooks must not use up the time of `on_session_terminated`.
        return now + (until - now) / 2, until

    # Activity.

    def _touch(self) -> None:
        """Record activity: set the timestamp, and move the session to the end of its table."""
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
            self.terminate(self._drain_reason)

    def _refuse_requests(self, reason: TerminationReason) -> None:
        """Refuse new requests from now on, and end with ``reason`` when no work is left."""
        if self._drain_reason is None:
            self._drain_reason = reason
            self._announce_end(EndingReason.DRAIN)

    @property
    def _drain_until(self) -> float:
        """When the grace of its drain is over, on Trio's clock; infinite without one."""
        return self._manager._drains.get(self, inf)

    def _announce_end(self, reason: EndingReason) -> None:
        """Announce their end to the handlers of its client, and to those that it owns."""
        if self._busy and self._connection is not None:
            self._connection.requests_end_soon(reason)
        if self._borrowers is not None:
            self._borrowers.end_soon(reason)

    def _finish_work(self) -> None:
        """End subscriptions, and the session if it drains and has no work.

        Service tasks serve the work: they end with the session.
        """
        if self._connection is not None:
            self._connection.drain_subscriptions()
        if self._drain_reason is not None and not self._busy:
            self.terminate(self._drain_reason)

    # The bytes that its client makes the process hold.

    def _byte_budget(self) -> ByteBudget:
        """Return the budget of the session. Not a checkpoint."""
        if self._bytes is None:
            self._bytes = self._manager._byte_budgets.of_session(self.principal, self.transport)
            if self._state is SessionState.TERMINATED:
                self._bytes.close()
        return self._bytes

    def _share_byte_budget(self, budget: ByteBudget, count: int) -> None:
        """Hold bytes that were counted by another budget, for the same party.

        Called once, before the session has a budget. What is moved needs no room.
        """
        self._bytes = self._manager._byte_budgets.below(budget)
        self._bytes.add(count)

    def _close_byte_budget(self) -> None:
        """Release all bytes that the session still counts. Called when it leaves the table."""
        if self._bytes is not None:
            self._bytes.close()

    # Borrowers: tasks of other requests that use what the session holds.

    @contextmanager
    def _borrow(self) -> Iterator[trio.CancelScope]:
        """Use what the session holds for the length of a block; its end cancels the block."""
        with trio.CancelScope() as scope:
            self._add_borrower(scope, trio.lowlevel.current_task())
            try:
                yield scope
            finally:
                self._remove_borrower(scope)

    def _add_borrower(
        self,
        scope: trio.CancelScope,
        task: trio.lowlevel.Task,
        borrower: Borrower | None = None,
    ) -> None:
        if self._borrowers is None:
            self._borrowers = Borrowers()
        self._borrowers.add(scope, task, borrower)
        self._begin_work()

    def _remove_borrower(self, scope: trio.CancelScope) -> None:
        assert self._borrowers is not None
        self._borrowers.remove(scope)
        self._end_work()

    # Handles and parked handlers of its client, which end with it.

    def _end_owned_sessions(self, reason: TerminationReason) -> None:
        """End the other sessions of an unauthenticated client. Called when this one is over."""
        if self.principal is None and (self._had_client or self._connection is not None):
            self._manager._terminate_all_of(self._default_principal, reason)

    def _end_late_sessions(self) -> None:
        if self._state is SessionState.TERMINATED:
            self._end_owned_sessions(self._reason_to_end())

    # Failures.

    def _report(self, error: Exception, *, log: bool = True) -> None:
        """Log an error, and send it to event streams and hooks."""
        if log:
            log_error(self, error, LogSubject(self.session_id, self.principal))
        if self._has_listeners():
            self._emit(events.Error(**self._stamp(), error=error))
        for hooks in self._hooks:
            if hooks.on_error is not None:
                self._post_hook("on_error", hooks.on_error, error)

    def _crashed(self, error: Exception) -> None:
        """End the session because of an error in it."""
        self._note(error)
        self.terminate(TerminationReason.CRASHED)

    def _task_crashed(self, name: str, error: Exception) -> None:
        # Recorded at once: if only the nursery reported it, a later reason could be set first.
        self._crashed(error)
        self._report_crash_of(name, error)

    def _report_crash_of(self, name: str, error: Exception) -> None:
        report = TaskCrashed(name)
        report.__cause__ = error
        self._report(report)

    def _context_ended(self, name: str, error: Exception | None) -> None:
        """End the session because a held context ended by itself: work may depend on it."""
        report = HeldContextEnded(name)
        report.__cause__ = error
        self._crashed(error or report)
        self._report(report)

    def _cleanup_failed(self, error: CleanupFailed) -> None:
        self._note(error)
        self._report(error)

    def _flush_failed(self, error: Exception) -> None:
        """Report that the last messages could not be written."""
        report = CleanupFailed("writing the last messages")
        report.__cause__ = error
        self._cleanup_failed(report)

    def _session_task_failed(self, error: Exception) -> None:
        """Report an error that left the session's own task."""
        if self._closing:
            report = CleanupFailed("the session's task")
            report.__cause__ = error
            self._cleanup_failed(report)
        else:
            self._task_crashed("session", error)

    def _note(self, error: Exception) -> None:
        self._counters.errors += 1
        if self._errors is None:
            self._errors = []
        if len(self._errors) < MAX_ERRORS:
            self._errors.append(error)

    def _lifespan_name(self) -> str:
        """Return the name of its lifespan for reports."""
        if self._handle is not None:
            return f"opener {name_of(self._handle.kind.opener)}"
        return "session" if self._lifespan is None else f"lifespan {name_of(self._lifespan)}"

    # Events and hooks. These methods never wait: events are buffered, hooks run in the session's
    # task.

    def _finish(self) -> None:
        """Note that nothing of it is left to be done. Called last by its task.

        What refers to the session is dropped, unless something is left in it: then no circle is
        left for the collector. (The task does by its context variables, the nursery by its task.)
        """
        self._finished = True
        self._task = self._nursery = None
        self._held = self._held or None
        self._hook_calls = self._hook_calls or None
        if self._handle is not None and not self._handle._is_open:
            self._ended_handle = ref(self._handle), self._handle.kind
            self._handle = None
        connection = self._connection
        if connection is not None and connection.let_go():
            self._ended_version = connection.protocol_version
            self._had_client = True
            self._connection = None

    def _has_listeners(self) -> bool:
        return bool(self._event_streams) or bool(self._manager._event_streams)

    def _stamp(self) -> dict[str, Any]:
        return {"session_id": self.session_id, "kind": self.kind, "time": trio.current_time()}

    def _emit(self, event: events.Event) -> None:
        self._manager._emit(event)
        if self._event_streams is not None:
            self._event_streams.emit(event)

    def _post_hook(self, name: str, hook: Callable[..., Awaitable[None]], *args: object) -> None:
        if self._hook_calls is None:
            self._hook_calls = HookQueue(
                self, self._manager.config.limits.max_waiting_hooks, self._clocks.hook_budget
            )
        self._hook_calls.post(name, hook, *args)
        if self._reason is None:  # Otherwise it is woken for its end.
            self._wake()

    def _hook_failed(self, error: HookFailed) -> None:
        self._counters.errors += 1
        self._manager._counters.hook_failures += 1
        log_error(self, error, LogSubject(self.session_id, self.principal))
        # No event follows `Disconnected`.
        if self._disconnected_event is None and self._has_listeners():
            self._emit(events.Error(**self._stamp(), error=error))
        if error.hook == "on_error":
            return  # It would be called for its own failures, without an end.
        for hooks in self._hooks:
            if hooks.on_error is not None:
                self._post_hook("on_error", hooks.on_error, error)

    def _hook_dropped(self) -> None:
        self._manager._counters.hook_failures += 1


@final
class cancelled_with:  # noqa: N801  # reads as what it does, in a ``with`` statement
    """Cancel ``scope`` as soon as ``session`` begins to end. Not a checkpoint.

    A session has one such scope at most: that of the body of ``open_session``, or that of its
    connection's reader. (A class, not a generator: every idle connection holds one of these.)
    """

    __slots__ = ("_session",)

    def __init__(self, session: Session, scope: trio.CancelScope) -> None:
        self._session: Final = session
        session._attach_body(scope)

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, *_: object) -> None:
        """Release the scope."""
        self._session._detach_body()
