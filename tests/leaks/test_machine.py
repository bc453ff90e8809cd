"""The leak proof, first half: every way of ending, in any order, with a model beside it.

The model knows which sessions have to live, which may have ended, and for what reason. After
every rule nothing may be left of a session that has ended: no entry, no request, no task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import attrs
import pytest
import trio
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import wait_all_tasks_blocked

from trio_mcp_session import (
    AdmissionPolicy,
    ClientInfo,
    Disconnected,
    Event,
    McpError,
    Principal,
    Session,
    SessionConfig,
    SessionError,
    SessionEvent,
    SessionId,
    SessionKind,
    SessionLimitReached,
    SessionLimits,
    SessionState,
    SessionTerminated,
    TerminationReason as R,
    cleanup_resources,
    open_session_manager,
    validate_sessions,
)
from trio_mcp_session.testing import (
    Client,
    ConnectionEnded,
    FaultyChannel,
    assert_no_leaks,
    connect_client,
    crash,
)

from .guest import Guest
from .machine import (
    CLOCKS,
    ENDED_WITHIN,
    FLAVOURS,
    LIMITS,
    PRINCIPALS,
    Record,
    Server,
    config,
)

PICK = st.integers(0, 11)
"""Which of those that are there: rules take turns, and a bundle would keep the dead."""


Condition = Callable[[Record], bool]


class Boom(Exception):
    pass


def there_is(condition: Condition) -> Callable[[LeakMachine], bool]:
    return lambda machine: bool(machine.live(condition))


def is_live(record: Record) -> bool:
    return True


def is_open(record: Record) -> bool:
    return record.session._nursery is not None


def is_undrained(record: Record) -> bool:
    return is_open(record) and not record.draining


def is_leased(record: Record) -> bool:
    return bool(record.leases)


def is_owned(record: Record) -> bool:
    return record.session.principal is not None


def is_connected(record: Record) -> bool:
    return isinstance(record.client, Client) and not record.deaf


def can_greet(record: Record) -> bool:
    return is_connected(record) and record.session.client is None


def can_call(record: Record) -> bool:
    if record.client is None or record.deaf or not record.established:
        return False
    return record.session.protocol_version is not None


def has_room(record: Record) -> bool:
    return can_call(record) and len(record.requests) < LIMITS.max_in_flight and not record.draining


def releasable(record: Record) -> list[str]:
    """Handlers that run, and tasks: what ends when its gate is opened."""
    running = list(record.requests)[: LIMITS.max_in_flight]
    return sorted(
        name
        for name in record.work
        if name.startswith("task")
        or (name.startswith(("work", "talk", "poll")) and name in running)
    )


def can_release(record: Record) -> bool:
    return bool(releasable(record))


def cancellable(record: Record) -> list[str]:
    ids = Counter(pending.id for pending in record.requests.values())
    return [
        name
        for name, pending in record.requests.items()
        if ids[pending.id] == 1 and not name.startswith("stubborn")
    ]


def can_cancel(record: Record) -> bool:
    return can_call(record) and bool(cancellable(record))


def has_background(record: Record) -> bool:
    return record.background is not None and not record.background.is_set()


CONDITIONS: dict[str, Condition] = {
    "terminate_in_own_task": is_open,
    "terminate_in_handler": has_room,
    "crash_task": is_open,
    "crash_service": is_undrained,
    "crash_lifespan": has_background,
    "revoke": is_owned,
    "end_of_stream": is_connected,
    "drop": is_connected,
    "break_transport": is_connected,
    "stop_reading": is_connected,
}
"""The clients that may end in this way; any, where there is no entry."""

ENDINGS = [*CONDITIONS, "terminate", "terminate_by_id", "drain_session"]


@attrs.define(eq=False)
class Attempt:
    """A client that opens a session, or a connection."""

    kind: SessionKind
    principal: Principal | None
    info: ClientInfo = attrs.field(factory=ClientInfo)
    result: Session | Exception | None = None
    client: Client[FaultyChannel] | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


class LeakMachine(RuleBasedStateMachine):
    exchanges_outlive_sessions: ClassVar = False

    def __init__(self) -> None:
        super().__init__()
        self.guest = Guest()
        self.server = self.new_server()
        self.records: dict[SessionId, Record] = {}
        self.attempts: list[Attempt] = []
        self.heard: list[tuple[Session, list[Event]]] = []
        self.names = 0
        self.newcomer: Attempt | None = None
        self.own_limit = self.others_wait = False
        self.things_change = False
        """Whether places may become free at the time of the next new session."""

    # The run.

    def new_server(self) -> Server:
        return Server()

    @initialize(
        policy=st.sampled_from(AdmissionPolicy),
        ending=st.sampled_from(["leave", "cancel", "raise"]),
    )
    def begin(self, policy: AdmissionPolicy, ending: str) -> None:
        self.policy, self.ending = policy, ending
        self.leave, self.closed = trio.Event(), trio.Event()
        self.scope = trio.CancelScope()
        self.step(self._begin)

    async def _begin(self) -> None:
        opened = trio.Event()
        self.spawn(self._manage, opened)
        await opened.wait()

    async def _manage(self, opened: trio.Event) -> None:
        with self.scope, suppress(Boom):
            async with open_session_manager(
                self.server.router(), config=self.new_config(), hooks=self.server.hooks()
            ) as self.manager:
                self.spawn(self._listen)
                opened.set()
                await self.leave.wait()
                self._raise_if_asked_to()
        self.closed.set()

    def new_config(self) -> SessionConfig:
        return config(self.policy)

    @property
    def limits(self) -> SessionLimits:
        return self.manager.config.limits

    def _raise_if_asked_to(self) -> None:
        if self.ending == "raise":
            raise Boom

    async def _listen(self) -> None:
        with self.manager.subscribe(100_000) as events:
            self.events = [event async for event in events]

    def spawn(self, async_fn: Callable[..., Any], *args: object) -> None:
        assert self.guest.nursery is not None
        self.guest.nursery.start_soon(async_fn, *args)

    @property
    def now(self) -> float:
        return self.guest.clock.current_time()

    def new_name(self) -> str:
        self.names += 1
        return f"name {self.names}"

    def live(self, where: Condition = is_live) -> list[Record]:
        return [record for record in self.records.values() if record.live and where(record)]

    def pick(self, number: int, where: Condition = is_live) -> Record:
        there = self.live(where)
        return there[number % len(there)]

    def step(self, job: Callable[..., Any], *args: object) -> None:
        """Let a rule happen, and see what has happened to each session."""

        async def run() -> None:
            result = job(*args)
            if hasattr(result, "__await__"):
                await result

        self.guest.run(run)
        self.look()

    # The model.

    def look(self) -> None:
        for session in self.manager.sessions():
            if session.session_id not in self.records:
                self.records[session.session_id] = self.adopt(session)
        for record in self.live():
            self.judge(record)
            record.established |= record.session.state in (SessionState.ACTIVE, SessionState.IDLE)
            record.background = self.server.gates.get(f"background {record.session.session_id}")

    def adopt(self, session: Session) -> Record:
        record = self.new_record(session)
        is_handle = session.kind is SessionKind.HANDLE
        # It may come late: one that makes room for it has to end first.
        if is_handle and session.client is not None and session.client.client_id == "created hangs":
            record.may_end[R.REQUESTED] = record.opened + CLOCKS.hook_budget  # pragma: no cover
        for attempt in self.attempts:
            if attempt.client is not None and attempt.client._find_session() is session:
                record.client = attempt.client
        return record

    def new_record(self, session: Session) -> Record:
        return Record(session, session._opened_at, session._last_active)

    def judge(self, record: Record) -> None:
        session, reason, due = record.session, record.session.termination_reason, record.due()
        if reason is None:
            assert record.cause is None, f"{session} lives, not {record.cause}"
            latest = min(due.values()) + CLOCKS.cleanup_interval
            assert self.now <= latest, f"{session} lives at {self.now}, due {due}"
            return
        record.noted = self.now
        for lease in record.leases.values():
            self.guest.run(self._leave, lease)
        record.leases.clear()
        if record.cause is not None:
            assert reason is record.cause, f"{session}, not {record.cause}"
        elif reason in record.excuses(self.now):
            pass
        elif reason in (R.EVICTED, R.REPLACED):
            self.judge_eviction(record, reason)
        else:
            assert reason in due, f"{session} ended without a cause"
            assert due[reason] <= self.now, f"{session} ended at {self.now}, due {due}"

    def judge_eviction(self, record: Record, reason: R) -> None:
        attempt, self.newcomer = self.newcomer, None  # One victim for one new session.
        assert attempt is not None, f"{record.session} made room for nobody"
        mine = attempt.principal is not None and record.session.principal == attempt.principal
        assert (reason is R.REPLACED) == mine
        if self.others_wait:
            # Places are reserved that the table does not show: perhaps it was the other limit.
            assert any(self.could_make_room(record, attempt, own) for own in (False, True))
            return
        assert self.could_make_room(record, attempt, self.own_limit), record
        others = self.live(lambda other: self.could_make_room(other, attempt, self.own_limit))
        assert all(record.quiet_since <= other.quiet_since for other in others)

    def could_make_room(self, record: Record, attempt: Attempt, own_limit: bool) -> bool:
        return record.could_make_room(
            attempt.kind, attempt.principal, self.policy, own_limit=own_limit
        )

    @invariant()
    def books_agree(self) -> None:
        store = self.manager.store
        assert not validate_sessions(store)
        assert {record.session for record in self.live()} == set(self.manager.list_sessions())
        for kind in SessionKind:
            assert store.count(kind) <= self.limits.sessions_of(kind)
        for principal in PRINCIPALS[1:]:
            held = Counter(session.kind for session in store.of_principal(principal))
            assert all(n <= LIMITS.max_sessions_per_principal for n in held.values())
        for record in self.live():
            self.check_work(record)
        for record in self.records.values():
            if record.noted is not None and not record.session._finished:
                assert self.now <= record.noted + ENDED_WITHIN, f"{record.session} does not end"

    def check_work(self, record: Record) -> None:
        metrics, busy = record.session.metrics, len(record.work) + record.opening
        assert record.session._busy == busy, (record.session, record.work)
        assert (metrics.in_flight, metrics.queued) == (record.in_flight, record.queued)

    @invariant()
    def nothing_is_left(self) -> None:
        ending = any(not one.live and not one.session._finished for one in self.records.values())
        if not ending and all(attempt.result is not None for attempt in self.attempts):
            self.guest.run(self._assert_no_leaks)

    async def _assert_no_leaks(self) -> None:
        live = [record.session for record in self.live()]
        known = [record.session for record in self.records.values()]
        assert_no_leaks(self.manager, live=live, among=known)

    # Opening.

    def newcomer_comes(self, attempt: Attempt, async_fn: Callable[..., Any]) -> None:
        store, principal = self.manager.store, attempt.principal
        others_wait = any(other.result is None for other in self.attempts)
        self.others_wait = others_wait or self.things_change
        self.attempts.append(attempt)
        held = [] if principal is None else store.of_principal(principal)
        mine = sum(session.kind is attempt.kind for session in held)
        self.own_limit = mine >= self.limits.per_principal(attempt.kind)
        full = self.own_limit or store.count(attempt.kind) >= self.limits.sessions_of(attempt.kind)
        room = self.live(lambda record: self.could_make_room(record, attempt, self.own_limit))
        self.newcomer = attempt if full or self.others_wait else None
        self.step(self.spawn, async_fn, attempt)
        refused = isinstance(attempt.result, SessionLimitReached)
        if not self.others_wait:
            made_room = full and self.newcomer is None
            assert made_room == (full and bool(room)), (attempt, room)
            assert refused == (full and not room), (attempt, room)
        self.newcomer = None

    @rule(
        principal=st.sampled_from(PRINCIPALS),
        flavour=st.sampled_from(FLAVOURS),
        lifespan=st.booleans(),
    )
    def open_handle(self, principal: Principal | None, flavour: str, *, lifespan: bool) -> None:
        async def open_it(attempt: Attempt) -> None:
            with attempt.scope:
                try:
                    attempt.result = await self.manager.create_session(
                        attempt.info,
                        principal=principal,
                        lifespan=self.server.lifespan if lifespan else None,
                    )
                except (SessionError, ValueError) as error:
                    attempt.result = error
            if attempt.scope.cancelled_caught:
                attempt.result = TimeoutError()

        info = ClientInfo(client_id=flavour)
        self.newcomer_comes(Attempt(SessionKind.HANDLE, principal, info), open_it)

    def waiting_openers(self) -> list[Attempt]:
        return [a for a in self.attempts if a.result is None and a.client is None]

    @precondition(lambda self: bool(self.waiting_openers()))
    @rule(number=PICK)
    def cancel_opener(self, number: int) -> None:
        waiting = self.waiting_openers()
        attempt = waiting[number % len(waiting)]
        for record in self.live(lambda one: one.session.client is attempt.info):
            record.cause = R.CANCELLED
        self.step(attempt.scope.cancel)

    @rule(
        principal=st.sampled_from(PRINCIPALS),
        flavour=st.sampled_from(["plain", "plain", "background", "leave hangs"]),
    )
    def arrive(self, principal: Principal | None, flavour: str) -> None:
        """Connect, with a handshake."""
        self.connect(principal)
        last = self.attempts[-1].client
        for record in self.live(can_greet):
            if record.client is last:
                self.greet(record, flavour, confirm=True)

    @rule(principal=st.sampled_from(PRINCIPALS))
    def connect(self, principal: Principal | None) -> None:
        async def never_answer(_: dict[str, Any]) -> None:
            await trio.sleep_forever()

        async def connect_it(attempt: Attempt) -> None:
            async with connect_client(
                self.manager,
                principal=principal,
                version=None,
                capacity=4,
                elicit=never_answer,
                through=FaultyChannel,
            ) as attempt.client:
                try:
                    await attempt.client.ping()
                    attempt.result = attempt.client.session
                except (McpError, ConnectionEnded):
                    attempt.result = SessionLimitReached(attempt.kind, 0)
                await attempt.client.wait_closed()

        self.newcomer_comes(Attempt(SessionKind.CONNECTION, principal), connect_it)

    @precondition(there_is(can_greet))
    @rule(number=PICK, flavour=st.sampled_from(FLAVOURS), confirm=st.booleans())
    def shake_hands(self, number: int, flavour: str, *, confirm: bool) -> None:
        self.greet(self.pick(number, can_greet), flavour, confirm=confirm)

    def greet(self, record: Record, flavour: str, *, confirm: bool) -> None:
        client = record.connection

        async def shake() -> None:
            with suppress(McpError, ConnectionEnded):
                await client.initialize(name=flavour, confirm=confirm)

        if record.draining:
            pass  # The handshake is refused, so nothing of the flavour happens.
        elif flavour in ("enter crashes", "holds and crashes"):
            record.cause = R.CRASHED
        elif flavour == "veto":
            record.cause = R.REQUESTED
        elif flavour == "created hangs":
            record.may_end[R.REQUESTED] = self.now + CLOCKS.hook_budget
        record.quiet_since = self.now
        self.step(self.spawn, shake)

    # Working.

    @precondition(there_is(can_call))
    @rule(
        number=PICK,
        tool=st.sampled_from(["work", "work", "ask", "stubborn"]),
        times=st.sampled_from([1, 1, 3]),
    )
    def call(self, number: int, tool: str, times: int) -> None:
        record = self.pick(number, can_call)
        for _ in range(times):
            self.call_one(record, f"{tool} {self.new_name()}", tool)

    def call_one(self, record: Record, name: str, tool: str) -> None:
        client = record.client
        assert client is not None

        async def call_it() -> None:
            pending = await client.start_request(
                "tools/call", {"name": tool, "arguments": {"key": name}}
            )
            if name in record.work:
                record.requests[name] = pending

        if not record.draining:
            record.quiet_since = self.now
            if len(record.requests) < LIMITS.max_in_flight + LIMITS.max_queued:
                record.begin(name, self.now)
        self.step(call_it)

    @precondition(there_is(can_release))
    @rule(number=PICK, which=PICK)
    def release(self, number: int, which: int) -> None:
        """Let a handler or a task finish. One that still waits in the queue will, in its turn."""
        record = self.pick(number, can_release)
        names = releasable(record)
        name = names[which % len(names)]
        record.finish(name, self.now)
        self.step(self.server.gate(name).set)

    @precondition(there_is(has_room))
    @rule(number=PICK, tool=st.sampled_from(["fail", "nothing"]))
    def call_at_once(self, number: int, tool: str) -> None:
        record = self.pick(number, has_room)
        assert record.client is not None
        record.quiet_since = self.now
        self.step(record.client.start_request, "tools/call", {"name": tool, "arguments": {}})

    @precondition(there_is(can_cancel))
    @rule(number=PICK, which=PICK)
    def cancel_call(self, number: int, which: int) -> None:
        record = self.pick(number, can_cancel)
        names = cancellable(record)
        name = names[which % len(names)]
        pending = record.requests[name]
        record.finish(name, self.now)
        self.step(pending.cancel)

    @precondition(there_is(is_open))
    @rule(number=PICK, service=st.booleans())
    def start_task(self, number: int, *, service: bool) -> None:
        record = self.pick(number, is_open)
        name = f"task {self.new_name()}"
        if not service:
            record.begin(name, self.now)
        self.step(lambda: record.session.start_soon(self.server.gate(name).wait, service=service))

    @precondition(there_is(is_live))
    @rule(number=PICK)
    def touch(self, number: int) -> None:
        record = self.pick(number)
        record.quiet_since = self.now
        self.step(record.session.touch)

    @precondition(there_is(is_live))
    @rule(number=PICK)
    def lease(self, number: int) -> None:
        record = self.pick(number)
        name = f"lease {self.new_name()}"
        record.begin(name, self.now)
        record.leases[name] = record.session.lease()
        self.step(record.leases[name].__enter__)

    @precondition(there_is(is_leased))
    @rule(number=PICK)
    def end_lease(self, number: int) -> None:
        record = self.pick(number, is_leased)
        name, lease = record.leases.popitem()
        record.finish(name, self.now)
        self.step(self._leave, lease)

    async def _leave(self, lease: Any) -> None:
        lease.__exit__(None, None, None)

    @precondition(there_is(is_live))
    @rule(
        number=PICK,
        flavour=st.sampled_from(
            ["plain", "enter hangs", "enter crashes", "leave hangs", "leave crashes"]
        ),
    )
    def hold_context(self, number: int, flavour: str) -> None:
        session = self.pick(number).session
        context = self.server.context(flavour)

        async def hold() -> None:
            with suppress(ValueError, SessionTerminated):
                await session.enter_async_context(context)

        self.step(self.spawn, hold)

    @precondition(there_is(is_live))
    @rule(number=PICK)
    def leave_contexts(self, number: int) -> None:
        self.step(self.spawn, cleanup_resources, self.pick(number).session)

    @precondition(there_is(is_live))
    @rule(number=PICK)
    def subscribe(self, number: int) -> None:
        session = self.pick(number).session
        heard: list[Event] = []
        self.heard.append((session, heard))

        async def listen() -> None:
            with session.subscribe(1) as events:
                heard.extend([event async for event in events])

        self.step(self.spawn, listen)

    # Ending. One rule for all ways: otherwise no session would live long enough to do anything.

    @precondition(there_is(is_live))
    @rule(number=PICK, how=st.sampled_from(ENDINGS))
    def end(self, number: int, how: str) -> None:
        condition = CONDITIONS.get(how, is_live)
        if self.live(condition):
            getattr(self, how)(self.pick(number, condition))

    def terminate(self, record: Record) -> None:
        record.cause = R.REQUESTED
        self.step(record.session.terminate)

    def terminate_by_id(self, record: Record) -> None:
        record.cause = R.REQUESTED
        self.step(self.manager.terminate_session, record.session.session_id)

    def terminate_in_own_task(self, record: Record) -> None:
        async def in_own_task() -> None:
            record.session.terminate()

        record.cause = R.REQUESTED
        self.step(record.session.start_soon, in_own_task)

    def terminate_in_handler(self, record: Record) -> None:
        assert record.client is not None
        record.cause = R.REQUESTED
        self.step(record.client.start_request, "tools/call", {"name": "end"})

    def crash_task(self, record: Record, *, service: bool = False) -> None:
        record.cause = R.CRASHED
        error = ValueError("task")
        self.step(lambda: record.session.start_soon(crash, error, service=service))

    def crash_service(self, record: Record) -> None:
        self.crash_task(record, service=True)

    def crash_lifespan(self, record: Record) -> None:
        assert record.background is not None
        record.cause = R.CRASHED
        self.step(record.background.set)

    def revoke(self, record: Record) -> None:
        principal = record.session.principal
        assert principal is not None
        for other in self.live(is_owned):
            if other.session.principal == principal:
                other.cause = R.REVOKED
        self.step(self.manager.revoke, principal)

    def end_of_stream(self, record: Record) -> None:
        record.deaf = True
        record.drains(self.now, CLOCKS.eof_grace, R.CLIENT_CLOSED)
        self.step(record.connection.send_eof)

    def drop(self, record: Record) -> None:
        record.deaf = True
        # What finishes meanwhile finds no client to write to.
        reasons = (R.CLIENT_CLOSED, R.TRANSPORT_FAILED) if record.work else (R.CLIENT_CLOSED,)
        record.drains(self.now, CLOCKS.eof_grace, *reasons)
        self.step(record.connection.drop)

    def break_transport(self, record: Record) -> None:
        record.deaf = True
        record.cause = R.TRANSPORT_FAILED
        self.step(record.connection.server_end.fail)

    def stop_reading(self, record: Record) -> None:
        client = record.connection

        async def flood() -> None:
            with suppress(ConnectionEnded):
                while True:
                    await client.start_request("ping")

        record.deaf = True
        record.may_end[R.UNRESPONSIVE] = self.now + CLOCKS.send_timeout
        client.stall()
        self.step(self.spawn, flood)

    def drain_session(self, record: Record) -> None:
        async def drain() -> None:
            await record.session.drain(grace=1)

        record.drains(self.now, 1, R.SHUTDOWN)
        self.step(self.spawn, drain)

    @rule(seconds=st.integers(1, 15))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.step(self.guest.clock.jump, 1)

    # The end of it all.

    def teardown(self) -> None:
        try:
            self.end_manager()
            self.check_the_end()
        finally:
            self.guest.close()

    def end_manager(self) -> None:
        self.guest.run(self._end_manager)
        for _ in range(60):
            if self.closed.is_set():
                return
            self.guest.run(self._jump, 0.5)
        raise AssertionError("the manager is not left")  # pragma: no cover  # when it fails

    async def _end_manager(self) -> None:
        if self.ending == "cancel":
            self.scope.cancel()
        self.leave.set()
        for record in self.records.values():
            for lease in record.leases.values():
                lease.__exit__(None, None, None)

    async def _jump(self, seconds: float) -> None:
        self.guest.clock.jump(seconds)
        await wait_all_tasks_blocked()

    def check_the_end(self) -> None:
        assert not list(self.manager.store)
        assert not self.manager._sessions_nursery.child_tasks
        self.guest.run(self._assert_no_leaks_at_all)
        for record in self.records.values():
            assert record.session._finished
        ends = {e.session_id: e for e in self.events if isinstance(e, Disconnected)}
        last = {e.session_id: e for e in self.events if isinstance(e, SessionEvent)}
        assert ends == last, "the end of a session is its last event"
        for session_id, record in self.records.items():
            assert ends[session_id].reason is record.session.termination_reason
        statistics = self.manager.statistics()
        # Over HTTP, half a body and answers that are not read count until the client is gone.
        assert statistics.bytes_held == 0 or self.exchanges_outlive_sessions
        assert statistics.opened == len(ends)
        assert statistics.ended == Counter(end.reason for end in ends.values())
        assert sorted(self.server.created) == sorted(one for one, _ in self.server.told)
        assert all(reason is ends[one].reason for one, reason in self.server.told)
        for context in self.server.contexts:
            assert context.entered == context.leaving
        for session, heard in self.heard:
            assert heard
            assert heard[-1] == ends[session.session_id]

    async def _assert_no_leaks_at_all(self) -> None:
        assert_no_leaks(self.manager, live=())


TestLeakMachine = LeakMachine.TestCase
TestLeakMachine.settings = settings(max_examples=70, stateful_step_count=50)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_each_flavour_of_session_leaves_nothing(flavour: str) -> None:
    machine = LeakMachine()
    try:
        machine.begin(policy=AdmissionPolicy.REJECT, ending="leave")
        machine.connect(principal=None)
        machine.shake_hands(number=0, flavour=flavour, confirm=True)
        for _ in range(3):
            machine.books_agree()
            machine.nothing_is_left()
            machine.time_passes(seconds=1)
    finally:
        machine.teardown()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_handshake_during_a_drain_is_refused_and_leaves_nothing(flavour: str) -> None:
    machine = LeakMachine()
    try:
        machine.begin(policy=AdmissionPolicy.REJECT, ending="leave")
        machine.connect(principal=None)
        machine.lease(number=0)
        machine.end(number=0, how="drain_session")
        machine.shake_hands(number=0, flavour=flavour, confirm=True)
        for _ in range(3):
            machine.books_agree()
            machine.nothing_is_left()
            machine.time_passes(seconds=1)
        assert machine.live() == []
    finally:
        machine.teardown()


@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("ending", ["leave", "cancel", "raise"])
def test_each_way_to_end_a_session_leaves_nothing(how: str, ending: str) -> None:
    machine = LeakMachine()
    try:
        machine.begin(policy=AdmissionPolicy.REPLACE_OWN, ending=ending)
        for principal in PRINCIPALS[1:]:
            machine.arrive(principal=principal, flavour="background")
        machine.call(number=0, tool="work", times=1)
        machine.subscribe(number=0)
        machine.end(number=0, how=how)
        machine.books_agree()
        for number, _ in enumerate(machine.live(can_call)):
            machine.call(number=number, tool="ask", times=1)
        for number, _ in enumerate(machine.live(can_release)):
            machine.release(number=number, which=0)
        machine.time_passes(seconds=6)
        machine.books_agree()
        machine.nothing_is_left()
        assert len(machine.live()) == 1
    finally:
        machine.teardown()
