"""Admission: no limit is ever exceeded, and no session with running work is evicted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Any, cast

import attrs
import pytest
import trio
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.helpers import initialize
from trio_mcp_session import (
    AdmissionPolicy,
    CleanupConfig,
    HandleKind,
    Principal,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionKind,
    SessionLimitReached,
    SessionLimits,
    SessionManager,
    SessionState,
    SessionTerminated,
    ShuttingDown,
    TerminationReason,
    connect_memory,
    open_session_manager,
    validate_sessions,
)
from trio_mcp_session.core.ids import SessionId, new_session_id
from trio_mcp_session.core.lifecycle_states import LIVE_STATES
from trio_mcp_session.sessions.admission import Admission, Reservation
from trio_mcp_session.sessions.store import SessionStore

ALICE, BOB = Principal("alice"), Principal("bob")
REJECT, EVICT, REPLACE = (
    AdmissionPolicy.REJECT,
    AdmissionPolicy.EVICT_IDLE,
    AdmissionPolicy.REPLACE_OWN,
)


@asynccontextmanager
async def manager_of(
    hooks: SessionHooks | None = None, budget: float = 5, **limits: Any
) -> AsyncIterator[SessionManager]:
    config = SessionConfig(
        limits=SessionLimits(**limits),
        cleanup=CleanupConfig(admission_budget=budget, drain_grace=0, cleanup_budget=1000),
    )
    with trio.fail_after(100_000):
        async with open_session_manager(
            Router("r"), config=config, hooks=hooks or SessionHooks()
        ) as manager:
            yield manager
            assert validate_sessions(manager.store) == []
            assert manager.statistics().reserved == 0
            assert not manager._admission._claimed
            assert not manager._admission._reserved
    assert len(manager.store) == 0


def stubborn(seconds: float) -> Callable[[Session], Any]:
    """A lifespan that takes its time to be left."""

    @asynccontextmanager
    async def lifespan(_: Session) -> AsyncIterator[None]:
        yield
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)

    return lifespan


async def fail() -> None:
    raise OSError("it broke")


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    """Open nothing."""
    yield  # pragma: no cover  # handles are counted here, and not opened


# The policies, at their edge.


async def test_reject_refuses_the_one_too_many() -> None:
    async with manager_of(max_sessions=2) as manager:
        first = await manager.create_session()
        await manager.create_session()
        with pytest.raises(SessionLimitReached) as refusal:
            await manager.create_session()
        assert refusal.value.limit == 2
        assert refusal.value.kind is SessionKind.HANDLE
        assert not refusal.value.per_principal
        assert manager.statistics().refused == {"SessionLimitReached": 1}
        first.terminate()
        await first.wait_terminated()
        with assert_checkpoints():
            await manager.create_session()


async def test_a_terminating_session_still_takes_its_place(autojump_clock: MockClock) -> None:
    async with manager_of(max_sessions=1) as manager:
        session = await manager.create_session(lifespan=stubborn(10))
        session.terminate()
        await trio.sleep(9)
        with pytest.raises(SessionLimitReached):
            await manager.create_session()
        await trio.sleep(2)
        await manager.create_session()


async def test_limits_are_per_kind() -> None:
    limits = {SessionKind.TASK: 2}
    async with manager_of(max_sessions=1, max_sessions_of=limits, admission=EVICT) as manager:
        handle = await manager.create_session()
        tasks = [await manager.create_session(kind=SessionKind.TASK) for _ in range(2)]
        # The longest quiet of all is of another kind: it makes no room here.
        await manager.create_session(kind=SessionKind.TASK)
        assert handle.state is SessionState.ACTIVE
        assert [task.termination_reason for task in tasks] == [TerminationReason.EVICTED, None]


async def test_evict_idle_ends_the_longest_quiet() -> None:
    async with manager_of(max_sessions=3, admission=EVICT) as manager:
        first, second, third = [await manager.create_session() for _ in range(3)]
        first.touch()
        with assert_checkpoints():
            fourth = await manager.create_session()
        assert second.termination_reason is TerminationReason.EVICTED
        assert set(manager.sessions()) == {first, third, fourth}


@pytest.mark.parametrize("work", ["task", "lease", "request"])
async def test_a_session_with_running_work_is_not_evicted(work: str) -> None:
    router = Router("r")

    @router.request("wait")
    async def wait(_: object) -> None:
        await trio.sleep_forever()

    config = SessionConfig(
        limits=SessionLimits(max_sessions=1, admission=EVICT), cleanup=CleanupConfig(drain_grace=0)
    )
    async with open_session_manager(router, config=config) as manager:
        kind = SessionKind.CONNECTION
        if work == "request":
            channel = await connect_memory(manager)
            await channel.send(_encoded(initialize()))
            await channel.receive()
            await channel.send(b'{"jsonrpc":"2.0","id":1,"method":"wait"}')
            await wait_all_tasks_blocked()
            (session,) = manager.sessions()
        else:
            session = await manager.create_session(kind=kind)
        if work == "task":
            session.start_soon(trio.sleep_forever)
            with pytest.raises(SessionLimitReached):
                await manager.create_session(kind=kind)
        elif work == "lease":
            with session.lease():
                with pytest.raises(SessionLimitReached):
                    await manager.create_session(kind=kind)
            await manager.create_session(kind=kind)
            assert session.termination_reason is TerminationReason.EVICTED
            return
        else:
            with pytest.raises(SessionLimitReached):
                await manager.create_session(kind=kind)
        assert session.state is SessionState.ACTIVE


def _encoded(message: object) -> bytes:
    import msgspec

    return msgspec.json.encode(message)


async def test_a_session_with_service_tasks_is_evicted() -> None:
    async with manager_of(max_sessions=1, admission=EVICT) as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever, service=True)
        await manager.create_session()
        assert session.termination_reason is TerminationReason.EVICTED


async def test_evict_idle_passes_busy_ones_over() -> None:
    async with manager_of(max_sessions=2, admission=EVICT) as manager:
        first, second = [await manager.create_session() for _ in range(2)]
        with first.lease():
            await manager.create_session()
        assert first.termination_reason is None
        assert second.termination_reason is TerminationReason.EVICTED


async def test_evict_idle_passes_over_what_is_being_opened() -> None:
    entering = trio.Event()

    @asynccontextmanager
    async def slow(_: Session) -> AsyncIterator[None]:
        entering.set()
        await trio.sleep(1000)
        yield  # pragma: no cover - it is cancelled before

    async with manager_of(max_sessions=1, admission=EVICT) as manager:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(manager.create_session, lifespan=slow))
            await entering.wait()
            with pytest.raises(SessionLimitReached):
                await manager.create_session()
            nursery.cancel_scope.cancel()


async def test_replace_own_ends_the_same_principals_longest_quiet() -> None:
    async with manager_of(max_sessions=3, admission=REPLACE) as manager:
        of_bob = await manager.create_session(principal=BOB)
        old, new = [await manager.create_session(principal=ALICE) for _ in range(2)]
        await manager.create_session(principal=ALICE)
        assert old.termination_reason is TerminationReason.REPLACED
        assert new.termination_reason is of_bob.termination_reason is None
        with pytest.raises(SessionLimitReached):
            await manager.create_session(principal=Principal("carol"))


async def test_replace_own_replaces_no_session_without_a_principal() -> None:
    """Two sessions without a principal are not of one principal."""
    async with manager_of(max_sessions=1, admission=REPLACE) as manager:
        session = await manager.create_session()
        with pytest.raises(SessionLimitReached):
            await manager.create_session()
        assert session.state is SessionState.ACTIVE


async def test_an_evicted_session_of_ones_own_was_replaced() -> None:
    async with manager_of(max_sessions=1, admission=EVICT) as manager:
        first = await manager.create_session(principal=ALICE)
        second = await manager.create_session(principal=ALICE)
        await manager.create_session(principal=BOB)
        assert first.termination_reason is TerminationReason.REPLACED
        assert second.termination_reason is TerminationReason.EVICTED


# The limit of one principal.


@pytest.mark.parametrize("policy", AdmissionPolicy)
async def test_at_ones_own_limit_only_ones_own_make_room(policy: AdmissionPolicy) -> None:
    async with manager_of(max_sessions_per_principal=2, admission=policy) as manager:
        await manager.create_session(principal=BOB)
        first = await manager.create_session(principal=ALICE)
        await manager.create_session(principal=ALICE)
        await manager.create_session(principal=ALICE, kind=SessionKind.TASK)  # counted by kind
        await manager.create_session()
        if policy in (REJECT, AdmissionPolicy.FAIR):
            with pytest.raises(SessionLimitReached, match="for this user") as refusal:
                await manager.create_session(principal=ALICE)
            assert refusal.value.per_principal
            assert refusal.value.limit == 2
        else:
            await manager.create_session(principal=ALICE)
            assert first.termination_reason is TerminationReason.REPLACED
        held = [s for s in manager.sessions() if s.principal == ALICE]
        assert len(held) == 3


async def test_at_the_limit_of_one_principal_no_session_of_another_is_evicted() -> None:
    async with manager_of(max_sessions_per_principal=1, admission=EVICT) as manager:
        mine = await manager.create_session(principal=ALICE)
        other = await manager.create_session(principal=BOB)
        with mine.lease():
            with pytest.raises(SessionLimitReached) as refusal:
                await manager.create_session(principal=ALICE)
        assert refusal.value.per_principal
        assert other.state is SessionState.ACTIVE


async def test_a_replaced_session_that_does_not_end_makes_the_new_one_fail(
    autojump_clock: MockClock,
) -> None:
    async with manager_of(max_sessions_per_principal=1, admission=REPLACE) as manager:
        await manager.create_session(principal=ALICE, lifespan=stubborn(100))
        with pytest.raises(SessionLimitReached) as refusal:
            await manager.create_session(principal=ALICE)
        assert refusal.value.per_principal
        assert trio.current_time() == 5


# Reservations.


async def test_many_new_sessions_together_never_exceed_a_limit(autojump_clock: MockClock) -> None:
    """Each claims a victim of its own; the highest count is taken at every single step."""

    class Highest(trio.abc.Instrument):
        count = 0

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count = max(self.count, manager.store.count(SessionKind.HANDLE))

    async with manager_of(max_sessions=10, admission=EVICT) as manager:
        old = [await manager.create_session(lifespan=stubborn(n % 4)) for n in range(10)]
        highest = Highest()
        outcomes: list[object] = []

        async def come() -> None:
            try:
                outcomes.append(await manager.create_session())
            except (SessionLimitReached, SessionTerminated) as error:
                outcomes.append(type(error))

        trio.lowlevel.add_instrument(highest)
        async with trio.open_nursery() as nursery:
            for _ in range(25):
                nursery.start_soon(come)
        trio.lowlevel.remove_instrument(highest)
        assert highest.count == 10
        # All of the old ones were evicted, each for one new session.
        assert {session.termination_reason for session in old} == {TerminationReason.EVICTED}
        assert manager.statistics().ended == {TerminationReason.EVICTED: 10}
        assert sum(isinstance(one, Session) for one in outcomes) == 10
        assert outcomes.count(SessionLimitReached) == 15


async def test_many_new_sessions_for_one_free_place_never_exceed_the_limit() -> None:
    """Places are taken before any task waits."""

    @asynccontextmanager
    async def slow(_: Session) -> AsyncIterator[None]:
        await wait_all_tasks_blocked()
        yield

    async with manager_of(max_sessions=3, max_sessions_per_principal=2) as manager:
        opened: list[Session] = []
        refused: list[SessionLimitReached] = []

        async def come(principal: Principal) -> None:
            try:
                opened.append(await manager.create_session(lifespan=slow, principal=principal))
            except SessionLimitReached as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for principal in (ALICE, BOB) * 4:
                nursery.start_soon(come, principal)
        assert len(opened) == 3
        assert len(refused) == 5


async def test_the_place_of_an_evicted_session_is_reserved_for_the_new_one() -> None:
    """Between the victim's end and the claimant's next turn no other session is admitted."""
    outcomes: list[object] = []

    async def slip_in(session: Session, reason: TerminationReason) -> None:
        if reason is TerminationReason.EVICTED:
            assert manager.statistics().active == {}
            assert manager.statistics().reserved == 1
            with pytest.raises(SessionLimitReached):
                await manager.create_session()
            outcomes.append("refused")

    hooks = SessionHooks(on_session_terminated=slip_in)
    async with manager_of(hooks=hooks, max_sessions=1, admission=EVICT) as manager:
        await manager.create_session()
        newcomer = await manager.create_session()
        assert manager.sessions() == [newcomer]
    assert outcomes == ["refused"]


async def test_a_session_that_resists_eviction_makes_the_new_one_fail(
    autojump_clock: MockClock,
) -> None:
    async with manager_of(max_sessions=1, admission=EVICT, budget=7) as manager:
        victim = await manager.create_session(lifespan=stubborn(100))
        with pytest.raises(SessionLimitReached) as refusal:
            await manager.create_session()
        assert trio.current_time() == 7
        assert not refusal.value.per_principal
        # It is no longer a victim, and still in its place.
        with pytest.raises(SessionLimitReached):
            await manager.create_session()
        assert trio.current_time() == 7
        await victim.wait_terminated()
        await manager.create_session()
        assert trio.current_time() == 100


async def test_a_new_session_waits_for_the_evicted_one_within_the_budget(
    autojump_clock: MockClock,
) -> None:
    async with manager_of(max_sessions=1, admission=EVICT, budget=7) as manager:
        await manager.create_session(lifespan=stubborn(6))
        await manager.create_session()
        assert trio.current_time() == 6


async def test_without_a_budget_a_new_session_does_not_wait_for_a_victim(
    autojump_clock: MockClock,
) -> None:
    async with manager_of(max_sessions=1, admission=EVICT, budget=0) as manager:
        victim = await manager.create_session()
        with pytest.raises(SessionLimitReached):
            await manager.create_session()
        assert trio.current_time() == 0
        assert victim.termination_reason is TerminationReason.EVICTED


async def test_a_cancelled_new_session_gives_its_place_back(autojump_clock: MockClock) -> None:
    async with manager_of(max_sessions=1, admission=EVICT) as manager:
        await manager.create_session(lifespan=stubborn(3))
        with trio.move_on_after(1) as scope:
            await manager.create_session(principal=ALICE)
        assert scope.cancelled_caught
        assert manager.statistics().reserved == 0
        await trio.sleep(3)
        assert manager.statistics().active == {}
        await manager.create_session()


async def test_a_new_session_cancelled_before_it_is_created_takes_no_place() -> None:
    async with manager_of(max_sessions=1, admission=EVICT) as manager:
        session = await manager.create_session()
        with trio.CancelScope() as scope:
            scope.cancel()
            await manager.create_session()
        assert scope.cancelled_caught
        assert session.state is SessionState.ACTIVE


async def test_a_failed_opening_gives_its_place_back() -> None:
    @asynccontextmanager
    async def broken(_: Session) -> AsyncIterator[None]:
        await fail()
        yield  # pragma: no cover  # the point is that it never gets there

    async with manager_of(max_sessions=1, max_sessions_per_principal=1) as manager:
        for _ in range(3):
            with pytest.raises(OSError, match="it broke"):
                await manager.create_session(lifespan=broken, principal=ALICE)
            assert len(manager.store) == 0
        await manager.create_session(principal=ALICE)


async def test_a_drain_refuses_a_new_session_that_waits_for_a_victim(
    autojump_clock: MockClock,
) -> None:
    async with manager_of(max_sessions=1, admission=EVICT) as manager:
        await manager.create_session(lifespan=stubborn(3))

        async def come() -> None:
            with pytest.raises(ShuttingDown):
                await manager.create_session()
            assert trio.current_time() == 3

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            await trio.sleep(1)
            await manager.drain(grace=0)
        assert manager.statistics().refused == {"ShuttingDown": 1}
        assert manager.statistics().opened == 1
        with pytest.raises(ShuttingDown):
            await manager.create_session()


async def test_two_new_sessions_may_wait_for_different_victims(autojump_clock: MockClock) -> None:
    async with manager_of(max_sessions=2, admission=EVICT) as manager:
        slow = await manager.create_session(lifespan=stubborn(4))
        quick = await manager.create_session(lifespan=stubborn(2))
        times = []

        async def come() -> None:
            await manager.create_session()
            times.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            nursery.start_soon(come)
            await wait_all_tasks_blocked()
            assert slow.termination_reason is quick.termination_reason is TerminationReason.EVICTED
        assert times == [2, 4]


# The counting, without a clock and without tasks: any order of events.


@attrs.define(eq=False)
class Stub:
    """As much of a session as is counted."""

    kind: SessionKind
    principal: Principal | None
    _handle_kind: HandleKind[None] | None = attrs.field(alias="_handle_kind")
    session_id: SessionId = attrs.field(factory=new_session_id)
    busy: bool = False
    state: SessionState = SessionState.ACTIVE
    reason: TerminationReason | None = None
    _quietest_first: Any = None
    _makes_room: bool = False

    def _is_opening(self) -> bool:
        return False

    def terminate(self, reason: TerminationReason) -> None:
        self.reason = self.reason or reason
        self.state = SessionState.TERMINATING


@attrs.frozen
class Wanted:
    """What a new session wants to be."""

    kind: SessionKind
    principal: Principal | None
    handle_kind: HandleKind[None] | None


@attrs.define(eq=False)
class Newcomer:
    wanted: Wanted
    reservation: Reservation
    block: AbstractContextManager[Reservation]

    @property
    def victim(self) -> Stub | None:
        return cast("Stub | None", self.reservation.victim)


KINDS = (SessionKind.HEADER, SessionKind.HANDLE)
LIMITS = {SessionKind.HEADER: 3, SessionKind.HANDLE: 5}
OWN_LIMIT = 3
PRINCIPALS = (None, ALICE, BOB)
# One that goes by the manager's policy, and one for each policy of its own.
HANDLE_KINDS = tuple(
    HandleKind[None]("h", nothing, max_handles=most, max_per_principal=own, admission=policy)
    for most, own, policy in [(4, 2, None), (2, 1, REJECT), (2, 2, EVICT), (3, 2, REPLACE)]
)
WANTED = [
    Wanted(kind, principal, handle_kind)
    for principal in PRINCIPALS
    for kind in KINDS
    for handle_kind in (None, *HANDLE_KINDS)
    if handle_kind is None or kind is SessionKind.HANDLE
]


@attrs.frozen
class Limit:
    """One limit, by the book: which sessions count for it, and how many there may be."""

    kind: SessionKind
    most: int
    principal: Principal | None = None
    handle_kind: HandleKind[None] | None = None

    def counts(self, one: Stub | Wanted) -> bool:
        handle_kind = one._handle_kind if isinstance(one, Stub) else one.handle_kind
        return (
            one.kind is self.kind
            and (self.principal is None or one.principal == self.principal)
            and (self.handle_kind is None or handle_kind is self.handle_kind)
        )


# In the order in which they are named where several are reached.
EVERY_LIMIT = [
    *(
        Limit(SessionKind.HANDLE, one.max_per_principal, principal, one)
        for one in HANDLE_KINDS
        for principal in (ALICE, BOB)
    ),
    *(Limit(kind, OWN_LIMIT, principal) for kind in KINDS for principal in (ALICE, BOB)),
    *(Limit(SessionKind.HANDLE, one.max_handles, None, one) for one in HANDLE_KINDS),
    *(Limit(kind, most) for kind, most in LIMITS.items()),
]


class Counting(RuleBasedStateMachine):
    """New sessions, their ends and the activity of all, in any order."""

    policy: AdmissionPolicy

    def __init__(self) -> None:
        super().__init__()
        limits = SessionLimits(
            max_sessions_of=LIMITS, max_sessions_per_principal=OWN_LIMIT, admission=self.policy
        )
        self.store = SessionStore(config=SessionConfig(limits=limits))
        self.admission = Admission(self.store, limits)
        # The longest quiet first, those included that are ending.
        self.present: list[Stub] = []
        self.newcomers: list[Newcomer] = []

    def taken(self, limit: Limit) -> int:
        """Count places: a new session and its victim share one where both count.

        A session that is evicted for another one counts until it has ended.
        """
        waiting = [newcomer for newcomer in self.newcomers if limit.counts(newcomer.wanted)]
        shared = [one for one in waiting if one.victim in self.present and limit.counts(one.victim)]
        return sum(map(limit.counts, self.present)) + len(waiting) - len(shared)

    def victims(self) -> list[Stub]:
        return [one.victim for one in self.newcomers if one.victim is not None]

    def policy_for(self, handle_kind: HandleKind[None] | None) -> AdmissionPolicy:
        own = None if handle_kind is None else handle_kind.admission
        return own or self.policy

    def may_end(self, stub: Stub, wanted: Wanted) -> bool:
        """Return whether the policies let a session end for a new one, quotas aside."""
        policy = self.policy_for(wanted.handle_kind)
        strangers = {stub._handle_kind, wanted.handle_kind}
        if len(strangers) == 2 and any(one is not None and one.admission for one in strangers):
            return False
        if stub.busy or stub.reason is not None or policy is REJECT:
            return False
        return policy is EVICT or (
            wanted.principal is not None and stub.principal == wanted.principal
        )

    @rule(wanted=st.sampled_from(WANTED))
    def come(self, wanted: Wanted) -> None:
        full = [
            limit
            for limit in EVERY_LIMIT
            if limit.counts(wanted) and self.taken(limit) >= limit.most
        ]
        fit = [
            stub
            for stub in self.present
            if self.may_end(stub, wanted) and all(limit.counts(stub) for limit in full)
        ]
        block = self.admission.reserve(wanted.kind, wanted.principal, wanted.handle_kind)
        if full and not fit:
            with pytest.raises(SessionLimitReached) as refusal:
                block.__enter__()
            assert refusal.value.limit == full[0].most
            assert refusal.value.per_principal == (full[0].principal is not None)
            assert (refusal.value.prefix is None) == (full[0].handle_kind is None)
            return
        newcomer = Newcomer(wanted, block.__enter__(), block)
        self.newcomers.append(newcomer)
        assert newcomer.victim is (fit[0] if full else None)
        if newcomer.victim is not None:
            same = wanted.principal is not None and newcomer.victim.principal == wanted.principal
            assert newcomer.victim.reason is (
                TerminationReason.REPLACED if same else TerminationReason.EVICTED
            )

    @precondition(lambda self: any(self.settled(one) for one in self.newcomers))
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        newcomer = data.draw(st.sampled_from([n for n in self.newcomers if self.settled(n)]))
        wanted = newcomer.wanted
        stub = Stub(wanted.kind, wanted.principal, wanted.handle_kind)
        self.store._add(cast("Session", stub))
        self.present.append(stub)
        self.leave(newcomer)

    @precondition(lambda self: self.newcomers)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        self.leave(data.draw(st.sampled_from(self.newcomers)))

    def settled(self, newcomer: Newcomer) -> bool:
        return newcomer.victim not in self.present

    def leave(self, newcomer: Newcomer) -> None:
        newcomer.block.__exit__(None, None, None)
        self.newcomers.remove(newcomer)

    @precondition(lambda self: self.present)
    @rule(data=st.data(), busy=st.booleans())
    def work_or_rest(self, data: st.DataObject, *, busy: bool) -> None:
        stub = data.draw(st.sampled_from(self.present))
        stub.busy = busy
        if stub.reason is None:  # pragma: no branch  # chance decides whether one is ending
            stub._quietest_first.move_to_end(stub.session_id)
            self.present.remove(stub)
            self.present.append(stub)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        stub = data.draw(st.sampled_from(self.present))
        stub.terminate(TerminationReason.REQUESTED)
        stub.state = SessionState.TERMINATED
        self.store._remove(cast("Session", stub))
        self.admission.make_free(cast("Session", stub))
        self.present.remove(stub)

    @invariant()
    def nothing_is_exceeded(self) -> None:
        for limit in EVERY_LIMIT:
            assert sum(map(limit.counts, self.present)) <= limit.most
            # Also when every session that has a place takes it.
            assert self.taken(limit) <= limit.most

    @invariant()
    def the_table_counts_the_same(self) -> None:
        for kind in KINDS:
            assert self.store.count(kind) == sum(one.kind is kind for one in self.present)
        for handle_kind in HANDLE_KINDS:
            there = sum(one._handle_kind is handle_kind for one in self.present)
            assert self.store.count_handles(handle_kind) == there

    @invariant()
    def everybody_has_a_victim_of_its_own(self) -> None:
        victims = self.victims()
        assert len(set(victims)) == len(victims)
        assert self.admission.reserved == len(self.newcomers)
        assert all(victim.state not in LIVE_STATES for victim in victims)

    def teardown(self) -> None:
        for newcomer in list(self.newcomers):
            self.leave(newcomer)
        assert self.admission.reserved == 0
        assert not self.admission._claimed
        assert not self.admission._reserved


class CountingWithReject(Counting):
    policy = REJECT


class CountingWithEviction(Counting):
    policy = EVICT


class CountingWithReplacement(Counting):
    policy = REPLACE


DEEP = settings(max_examples=40, stateful_step_count=30)
TestReject = CountingWithReject.TestCase
TestReject.settings = DEEP
TestEvictIdle = CountingWithEviction.TestCase
TestEvictIdle.settings = DEEP
TestReplaceOwn = CountingWithReplacement.TestCase
TestReplaceOwn.settings = DEEP
