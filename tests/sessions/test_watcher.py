"""Clocks: never early, late by the clean-up interval at most, and cheap."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import Any, Literal, TypeAlias, cast

import attrs
import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import (
    OpenOutlet,
    Peer,
    connect,
    error,
    initialize,
    modern,
    modern_result,
    notification,
    result,
    serving,
    told,
)
from trio_mcp_session import (
    CleanupConfig,
    CleanupFailed,
    Disconnected,
    Event,
    Lifespan,
    LifetimeExpiring,
    QuestionTimeout,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionEvent,
    SessionKind,
    SessionLimits,
    SessionManager,
    SessionState,
    SessionTerminated,
    StateChanged,
    TerminationReason,
    cleanup_resources,
    cleanup_session,
    open_session_manager,
    run_cleanup,
    validate_sessions,
)
from trio_mcp_session.core.identity import Principal, Transport
from trio_mcp_session.core.ids import SessionId
from trio_mcp_session.core.metrics import ManagerStatistics
from trio_mcp_session.server.accept import accept
from trio_mcp_session.sessions.watcher import BATCH, Watcher

OFF = CleanupConfig(
    handshake_timeout=inf,
    idle_after=inf,
    max_idle_time=inf,
    connection_handshake_timeout=inf,
    connection_idle_time=inf,
    cleanup_interval=0,
    cleanup_budget=10,
    hook_budget=5,
    drain_grace=0,
)
"""No clock at all, and the watcher is never late."""


def clocks(**changes: Any) -> CleanupConfig:
    return attrs.evolve(OFF, **changes)


@asynccontextmanager
async def manager_of(**changes: Any) -> AsyncIterator[SessionManager]:
    with trio.fail_after(100_000):
        async with open_session_manager(config=SessionConfig(cleanup=clocks(**changes))) as manager:
            yield manager


async def end_of(session: Session) -> tuple[TerminationReason, float]:
    reason = await session.wait_terminated()
    return reason, trio.current_time()


# Single clocks, to the second.


async def test_the_idle_timeout_ends_a_session_on_time(autojump_clock: MockClock) -> None:
    async with manager_of(max_idle_time=100) as manager:
        start = trio.current_time()
        session = await manager.create_session()
        await trio.sleep(40)
        with assert_no_checkpoints():
            session.touch()
        assert await end_of(session) == (TerminationReason.IDLE, start + 140)


async def test_idle_state_is_entered_and_left(autojump_clock: MockClock) -> None:
    async with manager_of(idle_after=60, max_idle_time=1000) as manager:
        session = await manager.create_session()
        with session.subscribe() as events:
            states = []
            for seconds in (59, 2, 39):
                await trio.sleep(seconds)
                states.append(session.state)
            session.touch()
            states.append(session.state)
            assert states == [
                SessionState.ACTIVE,
                SessionState.IDLE,
                SessionState.IDLE,
                SessionState.ACTIVE,
            ]
            # Traffic as such is not an event.
            for _ in range(100):
                session.touch()
            await trio.sleep(61)
            moves = [events.receive_nowait() for _ in range(3)]
            assert [(m.time, m.new) for m in moves if isinstance(m, StateChanged)] == [
                (60, SessionState.IDLE),
                (100, SessionState.ACTIVE),
                (160, SessionState.IDLE),
            ]
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()
        assert await end_of(session) == (TerminationReason.IDLE, 1100)


async def test_work_and_leases_are_not_quiet(autojump_clock: MockClock) -> None:
    async with manager_of(idle_after=10, max_idle_time=20) as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep, 200)
        await trio.sleep(190)
        assert session.state is SessionState.ACTIVE
        with session.lease():
            await trio.sleep(110)
            assert session.state is SessionState.ACTIVE
            assert session.idle_time == 0
        assert await end_of(session) == (TerminationReason.IDLE, 320)


async def test_work_makes_an_idle_session_active(autojump_clock: MockClock) -> None:
    async with manager_of(idle_after=10, max_idle_time=200) as manager:
        session = await manager.create_session()
        await trio.sleep(15)
        states = [session.state]
        with session.lease():
            states.append(session.state)
            await trio.sleep(100)
        for seconds in (9, 2):
            await trio.sleep(seconds)
            states.append(session.state)
        idle, active = SessionState.IDLE, SessionState.ACTIVE
        assert states == [idle, active, active, idle]


async def test_service_tasks_are_quiet(autojump_clock: MockClock) -> None:
    async with manager_of(max_idle_time=50) as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever, service=True)
        assert await end_of(session) == (TerminationReason.IDLE, 50)


async def test_the_lifetime_ends_a_busy_session_and_is_announced(autojump_clock: MockClock) -> None:
    async with manager_of(max_session_time=100, lifetime_notice=30) as manager:
        session = await manager.create_session()
        with session.subscribe() as events, trio.fail_after(1000):
            session.start_soon(trio.sleep_forever)
            notice = await events.receive()
            assert isinstance(notice, LifetimeExpiring)
            assert (notice.time, notice.seconds_left) == (70, 30)
            assert session.time_left == 30
            assert await end_of(session) == (TerminationReason.LIFETIME, 100)
            told = [event async for event in events]
            # Once.
            assert not any(isinstance(event, LifetimeExpiring) for event in told)


async def test_renewing_gives_another_lifetime_and_another_notice(
    autojump_clock: MockClock,
) -> None:
    async with manager_of(max_session_time=100, lifetime_notice=30) as manager:
        session = await manager.create_session()
        with manager.subscribe() as events:
            await trio.sleep(80)
            with assert_no_checkpoints():
                session.renew()  # until 180
            await trio.sleep(10)
            session.renew(500)  # longer: until 590
            await trio.sleep(100)
            session.renew(40)  # shorter: until 230
            assert await end_of(session) == (TerminationReason.LIFETIME, 230)
            notices = []
            while not isinstance(event := events.receive_nowait(), Disconnected):
                if isinstance(event, LifetimeExpiring):
                    notices.append((event.time, event.seconds_left))
        assert notices == [(70, 30), (200, 30)]


async def test_renewing_can_bring_a_lifetime_and_take_it_away(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        assert session.time_left == inf
        session.renew(50)
        await trio.sleep(49)
        session.renew(inf)
        await trio.sleep(10_000)
        session.renew(5)
        assert await end_of(session) == (TerminationReason.LIFETIME, 10_054)
        with pytest.raises(SessionTerminated):
            session.renew()


@pytest.mark.parametrize("lifetime", [0, -1.0, float("nan")])
async def test_a_lifetime_must_be_positive(lifetime: float) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        with pytest.raises(ValueError, match="lifetime must be more than 0 seconds"):
            session.renew(lifetime)
        assert session.time_left == inf


async def test_a_notice_longer_than_the_lifetime_comes_at_once(autojump_clock: MockClock) -> None:
    async with manager_of(max_session_time=100, lifetime_notice=300) as manager:
        with manager.subscribe() as events:
            session = await manager.create_session()
            assert await end_of(session) == (TerminationReason.LIFETIME, 100)
            told = [event for event in received(events) if isinstance(event, LifetimeExpiring)]
        assert [(event.time, event.seconds_left) for event in told] == [(0, 100)]


def received(events: trio.abc.ReceiveChannel[Event]) -> list[Event]:
    taken: list[Event] = []
    while True:
        try:
            taken.append(events.receive_nowait())  # type: ignore[attr-defined]  # of EventStream
        except trio.WouldBlock:
            return taken


async def test_sessions_may_have_clocks_of_their_own(autojump_clock: MockClock) -> None:
    async with manager_of(max_idle_time=1000) as manager:
        patient = await manager.create_session()
        hasty = await manager.create_session(clocks=clocks(max_idle_time=30))
        brief = await manager.create_session(clocks=clocks(max_session_time=20))
        assert await end_of(brief) == (TerminationReason.LIFETIME, 20)
        assert await end_of(hasty) == (TerminationReason.IDLE, 30)
        assert await end_of(patient) == (TerminationReason.IDLE, 1000)


async def test_infinity_switches_clocks_off(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        assert len(manager.store._watcher) == 0
        await trio.sleep(80_000)
        assert session.state is SessionState.ACTIVE


async def test_a_session_that_is_long_in_opening_is_not_idle(autojump_clock: MockClock) -> None:
    """Its clocks run, but a state that it cannot have must not keep the watcher spinning."""

    @asynccontextmanager
    async def slow(_: Session) -> AsyncIterator[None]:
        await trio.sleep(100)
        yield

    async with manager_of(idle_after=60, max_idle_time=250) as manager:
        session = await manager.create_session(lifespan=slow)
        assert trio.current_time() == 100
        assert session.state is SessionState.ACTIVE
        assert await end_of(session) == (TerminationReason.IDLE, 250)


@pytest.mark.parametrize("opened_at", [0.1, 0.7, 1 / 3, 1e9 + 0.1])
@pytest.mark.parametrize("seconds", [0.1, 0.7, 1.1, 1e-3])
async def test_rounding_neither_delays_a_clock_nor_spins_the_watcher(
    opened_at: float, seconds: float, mock_clock: MockClock
) -> None:
    """``(a + b) - a`` is often not ``b``: the look and the end have to compare the same."""
    mock_clock.jump(opened_at)
    mock_clock.autojump_threshold = 0
    async with open_session_manager(
        config=SessionConfig(
            cleanup=clocks(idle_after=seconds, max_idle_time=2 * seconds, ping_interval=seconds)
        )
    ) as manager:
        session = await manager.create_session()
        with session.subscribe() as events:
            move = await events.receive()
            assert isinstance(move, StateChanged)
            assert (move.new, move.time) == (SessionState.IDLE, opened_at + seconds)
        assert await end_of(session) == (TerminationReason.IDLE, opened_at + 2 * seconds)


# The handshake.


async def test_a_client_without_a_handshake_ends_at_the_handshake_timeout(
    autojump_clock: MockClock,
) -> None:
    async with serving(Router("r"), cleanup=clocks(connection_handshake_timeout=60)) as manager:
        peer = await connect(manager)
        assert peer.session.state is SessionState.INITIALIZING
        assert await end_of(peer.session) == (TerminationReason.HANDSHAKE_TIMEOUT, 60)


async def test_a_client_that_never_says_initialized(autojump_clock: MockClock) -> None:
    """Neither ``initialize`` nor pings nor complaints put the handshake clock off."""
    async with serving(
        Router("r"),
        cleanup=clocks(connection_handshake_timeout=60, idle_after=5, connection_idle_time=10),
    ) as manager:
        peer = await connect(manager)
        await trio.sleep(20)
        await peer.send(initialize())
        await peer.receive()
        await trio.sleep(20)
        assert await peer.ask(1, "ping") == result(1)
        assert peer.session.state is SessionState.INITIALIZING
        assert await end_of(peer.session) == (TerminationReason.HANDSHAKE_TIMEOUT, 60)


@pytest.mark.parametrize("how", ["initialized", "request"])
async def test_a_finished_handshake_stops_its_clock(how: str, autojump_clock: MockClock) -> None:
    async with serving(
        Router("r"), cleanup=clocks(connection_handshake_timeout=60, connection_idle_time=100)
    ) as manager:
        peer = await connect(manager)
        await peer.send(initialize())
        await peer.receive()
        await trio.sleep(59)
        if how == "initialized":
            await peer.send(notification("notifications/initialized"))
        else:
            await peer.ask(1, "tools/list")
        assert await end_of(peer.session) == (TerminationReason.IDLE, 159)


async def test_lifetime_counts_during_the_handshake_too(autojump_clock: MockClock) -> None:
    async with serving(
        Router("r"), cleanup=clocks(connection_handshake_timeout=60, max_session_time=30)
    ) as manager:
        peer = await connect(manager)
        assert await end_of(peer.session) == (TerminationReason.LIFETIME, 30)


@pytest.mark.parametrize("kind", [SessionKind.HANDLE, SessionKind.PARKED, SessionKind.TASK])
async def test_other_kinds_have_no_handshake(kind: SessionKind, autojump_clock: MockClock) -> None:
    async with manager_of(handshake_timeout=10, max_idle_time=100) as manager:
        session = await manager.create_session(kind=kind)
        assert await end_of(session) == (TerminationReason.IDLE, 100)


# The interval.


async def test_the_watcher_is_late_by_the_interval_at_most(autojump_clock: MockClock) -> None:
    async with manager_of(max_idle_time=100, cleanup_interval=5) as manager:
        first = await manager.create_session()
        await trio.sleep(1)
        second = await manager.create_session()
        await trio.sleep(5)
        third = await manager.create_session()
        assert await end_of(first) == (TerminationReason.IDLE, 100)
        # The next look is not before the interval is over ...
        assert await end_of(second) == (TerminationReason.IDLE, 105)
        # ... and the one after that no later than another one.
        assert await end_of(third) == (TerminationReason.IDLE, 110)


# Against a model: any number of sessions, any schedule.

Op: TypeAlias = Literal["touch", "lease", "renew"]
Schedule: TypeAlias = list[tuple[int, Op, int]]
HORIZON = 200

schedules = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 60), st.sampled_from(("touch", "lease", "renew")), st.integers(1, 50)
        ),
        max_size=8,
    ),
    min_size=1,
    max_size=4,
)
seconds_or_off = st.one_of(st.integers(1, 60), st.just(inf))


@attrs.define
class Model:
    """What one session's clocks have to do, told what the session did; independent of the code."""

    clocks: CleanupConfig
    quiet_since: float = 0.0
    leases: int = 0
    idle: bool = False
    expires: float = attrs.field(default=inf)
    lifetime_set: float = 0.0
    noticed: bool = False
    ended: bool = False

    def nothing_overdue(self, now: float) -> None:
        """By now, each clock that was due an interval ago has expired."""
        if self.ended:
            return
        late = self.clocks.cleanup_interval
        assert now <= self.expires + late
        if self.notice and not self.noticed:
            assert now <= self.notice_due + late or now >= self.expires
        if not self.leases:
            assert now <= self.quiet_since + self.clocks.max_idle_time + late
            assert self.idle or now <= self.quiet_since + self.clocks.idle_after + late

    @property
    def notice(self) -> float:
        return max(self.clocks.lifetime_notice, self.clocks.cleanup_interval)

    @property
    def notice_due(self) -> float:
        return max(self.expires - self.notice, self.lifetime_set)

    def did(self, now: float, what: str, argument: float) -> None:
        self.nothing_overdue(now)
        self.quiet_since = now
        match what:
            case "lease":
                self.leases += 1
            case "release":
                self.leases -= 1
            case "touch":
                pass
            case _:
                self.expires, self.lifetime_set, self.noticed = now + argument, now, False

    def told(self, event: Event) -> None:
        assert not self.ended
        match event:
            case StateChanged(new=SessionState.IDLE):
                assert not self.idle
                self.on_time(event.time, self.quiet_since + self.clocks.idle_after)
                assert not self.leases
                self.idle = True
            case StateChanged(new=SessionState.ACTIVE):
                assert self.idle
                assert event.time == self.quiet_since
                self.idle = False
            case LifetimeExpiring():
                assert not self.noticed
                self.on_time(event.time, self.notice_due)
                assert event.seconds_left == self.expires - event.time
                self.noticed = True
            case StateChanged(reason=TerminationReason.IDLE):
                assert not self.leases
                self.on_time(event.time, self.quiet_since + self.clocks.max_idle_time)
                self.ended = True
            case _:
                assert isinstance(event, StateChanged)
                assert event.reason is TerminationReason.LIFETIME
                self.on_time(event.time, self.expires)
                self.ended = True

    def on_time(self, now: float, due: float) -> None:
        assert due <= now <= due + self.clocks.cleanup_interval


@settings(max_examples=100)
@given(
    plan=schedules,
    idle_after=seconds_or_off,
    max_idle_time=seconds_or_off,
    max_session_time=st.one_of(st.integers(1, 100), st.just(inf)),
    lifetime_notice=st.integers(0, 20),
    cleanup_interval=st.one_of(st.just(0), st.integers(0, 10)),
)
def test_clocks_against_a_model(plan: list[Schedule], **settings_of_clocks: float) -> None:
    config = clocks(**settings_of_clocks)
    # Every action has a fraction of a second to itself, exact in binary, so that no action and no
    # clock ever fall on one moment: which of them would win then is not promised.
    fraction = iter(range(1, 1000))
    histories: dict[SessionId, list[tuple[float, int, Callable[[Model], None]]]] = {}

    async def live(session: Session, schedule: Schedule) -> None:
        history = histories[session.session_id] = []

        def note(what: str, argument: float = 0) -> None:
            now = trio.current_time()
            step = partial(Model.did, now=now, what=what, argument=argument)
            history.append((now, len(history), step))

        async def act(when: float, op: Op, argument: int, until: float) -> None:
            await trio.sleep_until(when)
            if session.termination_reason is not None:
                return
            if op == "touch":
                session.touch()
                note("touch")
            elif op == "renew":
                session.touch()
                session.renew(argument)
                note("renew", argument)
            else:
                with session.lease():
                    note("lease")
                    await trio.sleep_until(until)
                if session.termination_reason is None:
                    note("release")

        async with trio.open_nursery() as nursery:
            for start, op, argument in schedule:
                when = start + next(fraction) / 1024
                until = start + argument + next(fraction) / 1024
                nursery.start_soon(act, when, op, argument, until)

    async def main() -> None:
        async with open_session_manager(config=SessionConfig(cleanup=config)) as manager:
            with manager.subscribe(max_buffer=10_000) as events:
                sessions = [await manager.create_session() for _ in plan]
                async with trio.open_nursery() as nursery:
                    for session, schedule in zip(sessions, plan, strict=True):
                        nursery.start_soon(live, session, schedule)
                await trio.sleep_until(HORIZON)
                told = received(events)
            assert validate_sessions(manager.store) == []
            for session in sessions:
                compare(session, [e for e in told if is_move_of(session, e)])

    def is_move_of(session: Session, event: Event) -> bool:
        match event:
            case StateChanged(old=SessionState.INITIALIZING | SessionState.TERMINATING):
                return False
            case StateChanged() | LifetimeExpiring():
                return event.session_id == session.session_id
            case _:
                return False

    def compare(session: Session, told: list[Event]) -> None:
        model = Model(config, expires=config.max_session_time)
        steps = list(histories[session.session_id])
        for number, event in enumerate(told):
            assert isinstance(event, SessionEvent)
            steps.append((event.time, 1000 + number, partial(Model.told, event=event)))
        for now, _, step in sorted(steps, key=lambda step: step[:2]):
            model.nothing_overdue(now)
            step(model)
        model.nothing_overdue(HORIZON)
        assert model.ended == (session.termination_reason is not None)

    trio.run(main, clock=MockClock(autojump_threshold=0))


# The cost.


class Steps(trio.abc.Instrument):
    """Counts the steps of the watcher's task."""

    def __init__(self) -> None:
        self.taken = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.taken += "run_cleanup" in task.name


async def test_a_thousand_sessions_take_few_wake_ups(autojump_clock: MockClock) -> None:
    async with manager_of(idle_after=60, max_idle_time=300, cleanup_interval=5) as manager:
        ends: list[float] = []

        async def follow(session: Session) -> None:
            ends.append((await end_of(session))[1])

        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(follow, await manager.create_session())
                await trio.sleep(2**-8)
        trio.lowlevel.remove_instrument(steps)
        assert len(ends) == 1000
        assert all(300 + n / 256 <= end <= 305 + n / 256 for n, end in enumerate(ends))
        # Two looks for each of the two clocks, each with a step for every batch.
        assert steps.taken <= 4 * (1000 // BATCH + 2)


async def test_activity_leaves_the_heap_alone(autojump_clock: MockClock) -> None:
    async with manager_of(idle_after=60, max_idle_time=300) as manager:
        session = await manager.create_session()
        await trio.sleep(1)
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        entries = list(manager.store._watcher._heap)
        for _ in range(50):
            await trio.sleep(1)
            session.touch()
            with session.lease():
                pass
        assert manager.store._watcher._heap == entries
        trio.lowlevel.remove_instrument(steps)
        assert steps.taken == 0
        assert await end_of(session) == (TerminationReason.IDLE, 351)


async def test_the_heap_is_bounded(autojump_clock: MockClock) -> None:
    """Sooner and sooner moments leave old entries behind; those are dropped in time."""
    async with manager_of(max_idle_time=5000, lifetime_notice=0) as manager:
        others = [await manager.create_session() for _ in range(9)]
        off = await manager.create_session(clocks=clocks())
        session = await manager.create_session()
        sizes = []
        for lifetime in range(4000, 1000, -1):
            session.renew(lifetime)
            sizes.append(len(manager.store._watcher))
            await trio.lowlevel.checkpoint()
        assert max(sizes) <= 2 * 11 + BATCH + 2  # the watcher runs in the next turn
        assert sizes.count(11) > 10  # rebuilt again and again, the one without clocks not in it
        assert await end_of(session) == (TerminationReason.LIFETIME, 1001)
        for other in others:
            assert await end_of(other) == (TerminationReason.IDLE, 5000)
        assert off.state is SessionState.ACTIVE


async def test_the_heap_is_bounded_within_a_turn_of_the_loop(autojump_clock: MockClock) -> None:
    async with manager_of(max_idle_time=5000, lifetime_notice=0) as manager:
        sessions = [await manager.create_session() for _ in range(10)]
        await trio.testing.wait_all_tasks_blocked()
        sizes = []
        for lifetime in range(4000, 1000, -1):
            sessions[0].renew(lifetime)
            sizes.append(len(manager.store._watcher))
        assert max(sizes) == 2 * (2 * 10 + BATCH)
        assert sizes.count(10) > 10
        assert await end_of(sessions[0]) == (TerminationReason.LIFETIME, 1001)
        for other in sessions[1:]:
            assert await end_of(other) == (TerminationReason.IDLE, 5000)


def is_rebuilt(watcher: Watcher) -> bool:
    return watcher._fresh is not None


async def test_rebuilding_the_heap_lets_other_tasks_run(autojump_clock: MockClock) -> None:
    """What changes meanwhile is in the new heap, too."""
    async with manager_of(max_idle_time=5000, lifetime_notice=0) as manager:
        sessions = [await manager.create_session() for _ in range(4 * BATCH)]
        await trio.testing.wait_all_tasks_blocked()
        watcher = manager.store._watcher
        sooner = 4000
        while not watcher._is_stale:
            for session in sessions[:20]:
                session.renew(sooner)
            sooner -= 1
        while not is_rebuilt(watcher):  # noqa: ASYNC110  # until the watcher runs
            await trio.lowlevel.checkpoint()
        turns = 0
        while is_rebuilt(watcher):
            sessions[turns].renew(100)
            sessions[-1 - turns].renew(200)
            turns += 1
            await trio.lowlevel.checkpoint()
        assert turns >= 3  # Trio runs the tasks of one turn in either order
        assert len(watcher) < 2 * len(sessions)
        for number in range(turns):
            assert await end_of(sessions[number]) == (TerminationReason.LIFETIME, 100)
        for number in range(turns):
            assert await end_of(sessions[-1 - number]) == (TerminationReason.LIFETIME, 200)


async def test_a_rebuild_gives_way_to_one_within_a_turn(autojump_clock: MockClock) -> None:
    async with manager_of(max_idle_time=5000, lifetime_notice=0) as manager:
        sessions = [await manager.create_session() for _ in range(4 * BATCH)]
        await trio.testing.wait_all_tasks_blocked()
        watcher = manager.store._watcher
        sooner = 4000
        while not watcher._is_stale:
            sessions[0].renew(sooner)
            sooner -= 1
        while not is_rebuilt(watcher):  # noqa: ASYNC110  # until the watcher runs
            await trio.lowlevel.checkpoint()
        while is_rebuilt(watcher):
            sessions[0].renew(sooner)
            sooner -= 1
        await trio.testing.wait_all_tasks_blocked()
        assert len(watcher) <= len(sessions) + BATCH
        assert await end_of(sessions[0]) == (TerminationReason.LIFETIME, sooner + 1)


class Batches(trio.abc.Instrument):
    """Counts how many sessions each step of the watcher's task ends."""

    def __init__(self, sessions: list[Session]) -> None:
        self.sessions = sessions
        self.ended = 0
        self.sizes: list[int] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if "run_cleanup" in task.name:
            ended = sum(one.termination_reason is not None for one in self.sessions)
            self.sizes.append(ended - self.ended)
            self.ended = ended


async def test_many_that_are_due_at_once_do_not_stall_the_others(
    autojump_clock: MockClock,
) -> None:
    async with manager_of(max_idle_time=100) as manager:
        sessions = [await manager.create_session() for _ in range(4 * BATCH)]
        watch = Batches(sessions)
        trio.lowlevel.add_instrument(watch)
        await trio.sleep(101)
        trio.lowlevel.remove_instrument(watch)
        assert [size for size in watch.sizes if size] == [BATCH] * 4
        assert manager.sessions() == []


# Clients without a handshake, because they need none.


@asynccontextmanager
async def standing_alone(
    lifespan: Lifespan | None = None, **changes: Any
) -> AsyncIterator[tuple[Peer, SessionManager]]:
    router = Router("r", lifespan=lifespan)

    @router.request("work")
    async def work(ctx: RequestContext) -> None:
        await trio.sleep(ctx.params["seconds"])

    async with serving(router, cleanup=clocks(**changes)) as manager:
        yield await connect(manager), manager


@pytest.mark.parametrize("method", ["work", "server/discover"])
async def test_a_stateless_client_needs_no_handshake(
    method: str, autojump_clock: MockClock
) -> None:
    changes: dict[str, Any] = {
        "connection_handshake_timeout": 20,
        "idle_after": 50,
        "connection_idle_time": 200,
    }
    async with standing_alone(**changes) as (peer, _):
        session = peer.session
        await trio.sleep(10)
        await peer.send(modern(1, method, {"seconds": 100}))
        await trio.sleep(99)
        assert session.state is (SessionState.ACTIVE if method == "work" else SessionState.IDLE)
        await trio.sleep(2)
        quiet_since = 110 if method == "work" else 10
        await peer.waiting()
        assert await end_of(session) == (TerminationReason.IDLE, quiet_since + 200)


async def test_refused_requests_do_not_replace_the_handshake(autojump_clock: MockClock) -> None:
    async with standing_alone(connection_handshake_timeout=20) as (peer, _):
        for message in (
            modern(1, "work", version="1999-01-01"),
            modern(1, "unknown"),
            modern(1, "work", capabilities=1),
        ):
            await peer.send(message)
            assert len(await peer.waiting()) == 1
        # To ask for what is not served is not a mistake.
        assert peer.session.metrics.bad_input == 1
        assert await end_of(peer.session) == (TerminationReason.HANDSHAKE_TIMEOUT, 20)


async def test_a_stateless_client_receives_no_unrequested_messages(
    autojump_clock: MockClock,
) -> None:
    pings: dict[str, Any] = {"ping_interval": 10, "ping_timeout": 5, "ping_strikes": 2}
    async with standing_alone(**pings) as (peer, manager):
        await peer.send(modern(1, "server/discover"))
        await peer.receive()
        await trio.sleep(1_000)
        report = manager.broadcast("notifications/tools/list_changed")
        assert (report.sent, report.dropped) == (0, 0)
        assert await peer.waiting() == []
        # Nothing has piled up for a later handshake.
        await peer.establish()
        assert await peer.waiting() == []
        await trio.sleep(14)
        assert [is_ping(one) for one in await peer.waiting()] == [True]
        assert peer.session.metrics.bad_input == 0


async def test_an_opening_has_its_time_also_after_other_requests(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        try:
            await trio.sleep(5_000)
            yield  # pragma: no cover  # it is cancelled before
        finally:
            left.append(trio.current_time())

    left: list[float] = []
    async with standing_alone(lifespan, connection_handshake_timeout=20) as (peer, manager):
        await peer.send(modern(1, "server/discover"))
        await peer.receive()
        await trio.sleep(1_000)
        await peer.send(initialize(2), modern(3, "work", {"seconds": 5}))
        await trio.sleep(10)
        # Nothing goes before the answer to ``initialize``.
        assert manager.broadcast("notifications/tools/list_changed").sent == 0
        assert [told(one) for one in await peer.waiting()] == [modern_result(3)]
        assert await end_of(peer.session) == (TerminationReason.HANDSHAKE_TIMEOUT, 1_020)
        assert left == [1_020]
        assert [told(one) for one in await peer.waiting()] == [error(2, -32603)]


# Keep-alive pings.


@asynccontextmanager
async def pinged(**changes: Any) -> AsyncIterator[tuple[Any, Session]]:
    defaults = {"ping_interval": 10, "ping_timeout": 5, "ping_strikes": 2}
    async with serving(Router("r"), cleanup=clocks(**{**defaults, **changes})) as manager:
        peer = await connect(manager)
        await peer.establish()
        yield peer, peer.session


def is_ping(message: Any) -> bool:
    return bool(message.get("method") == "ping")


async def test_a_client_that_misses_too_many_pings_is_gone(autojump_clock: MockClock) -> None:
    async with pinged() as (peer, session):
        times = []
        for _ in range(2):
            assert is_ping(await peer.receive())
            times.append(trio.current_time())
            forget = await peer.receive()
            assert forget["method"] == "notifications/cancelled"
            times.append(trio.current_time())
        assert times == [10, 15, 20, 25]
        assert await end_of(session) == (TerminationReason.UNRESPONSIVE, 25)
        assert session.error is None


@pytest.mark.parametrize(
    "answer", [{"result": {}}, {"error": {"code": -32601, "message": "no pings here"}}]
)
async def test_any_answer_to_a_ping_will_do(
    answer: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with pinged(idle_after=15) as (peer, session):
        for number in range(1, 8):
            ping = await peer.receive()
            assert is_ping(ping)
            assert trio.current_time() == 10 * number
            await peer.send({"jsonrpc": "2.0", "id": ping["id"], **answer})
            if number > 1:
                assert session.state is SessionState.IDLE  # a ping is not activity
        assert session.idle_time == 70
        assert session.error is None


async def test_only_pings_missed_in_a_row_count(autojump_clock: MockClock) -> None:
    async with pinged() as (peer, session):
        for _ in range(5):
            assert is_ping(await peer.receive())
            await peer.receive()  # the cancellation of the one that was missed
            ping = await peer.receive()
            await peer.send(result(ping["id"]))
        await trio.sleep(1)
        assert session.state is SessionState.ACTIVE


async def test_any_message_of_a_client_counts_as_an_answer_to_a_ping(
    autojump_clock: MockClock,
) -> None:
    async with pinged() as (_, session):
        for _ in range(5):
            await trio.sleep(16)  # a ping, missed
            session.touch()
        assert session.state is SessionState.ACTIVE
        assert (await end_of(session))[0] is TerminationReason.UNRESPONSIVE


async def test_busy_clients_are_not_pinged(autojump_clock: MockClock) -> None:
    async with pinged() as (peer, session):
        with session.lease():
            await trio.sleep(500)
            assert await peer.waiting() == []
        assert is_ping(await peer.receive())
        assert trio.current_time() == 510


async def test_no_client_is_given_up_with_work_in_flight(autojump_clock: MockClock) -> None:
    async with pinged(ping_strikes=1) as (_, session):
        await trio.sleep(12)
        with session.lease():
            await trio.sleep(88)
            assert session.state is SessionState.ACTIVE
        assert await end_of(session) == (TerminationReason.UNRESPONSIVE, 115)


async def test_activity_puts_the_next_ping_off(autojump_clock: MockClock) -> None:
    async with pinged() as (peer, session):
        await trio.sleep(6)
        session.touch()
        assert is_ping(await peer.receive())
        assert trio.current_time() == 16


async def test_without_a_channel_there_are_no_pings(autojump_clock: MockClock) -> None:
    async with manager_of(ping_interval=10, ping_strikes=1, ping_timeout=1) as manager:
        session = await manager.create_session()
        await trio.sleep(1000)
        assert session.state is SessionState.ACTIVE
        assert session.error is None


async def test_a_client_without_a_stream_is_not_pinged(autojump_clock: MockClock) -> None:
    """And no session ends for that: each ping that was missed before still counts."""

    @attrs.define
    class Ear(OpenOutlet):
        heard: list[float] = attrs.field(factory=list)

        def send_message(self, frame: bytes) -> bool:
            if b"ping" in frame:
                self.heard.append(trio.current_time())
            return True

        async def finish(self) -> None: ...

    ear = Ear()
    async with serving(
        Router("r"), cleanup=clocks(ping_interval=10, ping_timeout=2, ping_strikes=2)
    ) as manager:
        session = await accept(manager, cast("Any", ear), transport=Transport("test"))
        session._may_open = True
        session._wake()
        await trio.sleep(15)
        assert ear.heard == [10]
        ear.connected = False
        await trio.sleep(100)
        assert ear.heard == [10]
        assert session.state is SessionState.ACTIVE
        ear.connected = True
        assert await end_of(session) == (TerminationReason.UNRESPONSIVE, 122)
        assert ear.heard == [10, 120]


async def test_a_session_may_end_while_a_ping_is_out(autojump_clock: MockClock) -> None:
    """That is not a crash: only the reason is reported."""
    async with pinged() as (peer, session):
        assert is_ping(await peer.receive())
        session.terminate()
        assert await session.wait_terminated() is TerminationReason.REQUESTED
        assert session.error is None
        assert session.metrics.errors == 0


async def test_a_session_may_end_before_its_ping_gets_out(autojump_clock: MockClock) -> None:
    async with pinged(max_session_time=20, lifetime_notice=10) as (_, session):
        with session.subscribe() as events:
            # The notice and the ping are due at the same moment.
            assert isinstance(await events.receive(), LifetimeExpiring)
            session.terminate()
            assert await session.wait_terminated() is TerminationReason.REQUESTED
        assert session.error is None


async def test_a_ping_that_was_never_sent_is_not_missed(autojump_clock: MockClock) -> None:
    async with serving(
        Router("r"),
        limits=SessionLimits(max_questions=1),
        cleanup=clocks(ping_interval=10, ping_timeout=5, ping_strikes=1),
    ) as manager:
        peer = await connect(manager)
        await peer.establish()
        with pytest.raises(QuestionTimeout):
            await peer.session.ask("ping", timeout=1003)
        # Pings found the one place taken a hundred times; this one finds it free.
        assert await end_of(peer.session) == (TerminationReason.UNRESPONSIVE, 1015)


async def test_idle_sessions_keep_no_workers(autojump_clock: MockClock) -> None:
    """Going idle lets the tasks go that wait for requests."""
    router = Router("r")

    @router.request("work")
    async def work(_: RequestContext) -> None:
        await trio.lowlevel.checkpoint()

    async with serving(router, cleanup=clocks(idle_after=10)) as manager:
        peer = await connect(manager)
        await peer.establish()
        assert await peer.ask(1, "work") == result(1)
        assert peer.session._nursery is not None
        assert len(peer.session._nursery.child_tasks) == 1
        await trio.sleep(11)
        assert peer.session.state is SessionState.IDLE
        assert len(peer.session._nursery.child_tasks) == 0
        assert await peer.ask(2, "work") == result(2)


# run_cleanup.


async def test_the_watcher_is_startable(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async with manager_of(max_idle_time=100, cleanup_interval=1000) as manager:
        first = await manager.create_session()
        await trio.sleep(1)
        await manager.create_session()
        with assert_checkpoints():
            await nursery.start(run_cleanup, manager.store, clocks(cleanup_interval=0))
        assert await end_of(first) == (TerminationReason.IDLE, 100)
        # The manager's own watcher would only look again after a thousand seconds.
        await trio.sleep_until(102)
        assert manager.sessions() == []
        nursery.cancel_scope.cancel()


async def test_a_second_watcher_takes_nothing_from_the_first(autojump_clock: MockClock) -> None:
    async with manager_of(max_idle_time=100) as manager:
        await wait_all_tasks_blocked()  # the manager's own watches already
        async with trio.open_nursery() as nursery:
            await nursery.start(run_cleanup, manager.store)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        session = await manager.create_session()
        assert await end_of(session) == (TerminationReason.IDLE, 100)


# cleanup_session and cleanup_resources.


async def test_cleanup_session_ends_a_session() -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        with assert_checkpoints():
            reason = await cleanup_session(session, TerminationReason.REVOKED)
        assert reason is TerminationReason.REVOKED
        assert manager.sessions() == []
        with assert_checkpoints():
            assert await cleanup_session(session) is TerminationReason.REVOKED


async def test_cleanup_session_from_inside_changes_nothing() -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        refused = trio.Event()

        async def inside() -> None:
            with pytest.raises(RuntimeError, match="cannot wait for its own end"):
                await cleanup_session(session)
            refused.set()

        session.start_soon(inside)
        await refused.wait()
        assert session.state is SessionState.ACTIVE


async def test_a_cancelled_cleanup_session_stops_waiting(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def slow(_: Session) -> AsyncIterator[None]:
        yield
        await trio.sleep(5)

    async with manager_of() as manager:
        session = await manager.create_session(lifespan=slow)
        with trio.move_on_after(1) as scope:
            await cleanup_session(session)
        assert scope.cancelled_caught
        assert await end_of(session) == (TerminationReason.REQUESTED, 5)


@asynccontextmanager
async def held(log: list[str], name: str, seconds: float = 0) -> AsyncIterator[None]:
    log.append(f"enter {name}")
    yield
    await trio.sleep(seconds)
    log.append(f"leave {name}")


async def test_cleanup_resources_leaves_all_that_is_held(autojump_clock: MockClock) -> None:
    log: list[str] = []
    async with manager_of() as manager:
        session = await manager.create_session()
        with assert_checkpoints():
            await cleanup_resources(session)  # nothing yet
        await session.enter_async_context(held(log, "a"))
        await session.enter_async_context(held(log, "b"))
        with assert_checkpoints():
            await cleanup_resources(session)
        assert log == ["enter a", "enter b", "leave b", "leave a"]
        assert session.state is SessionState.ACTIVE
        await session.enter_async_context(held(log, "c"))
        await cleanup_session(session)
        assert log[4:] == ["enter c", "leave c"]
        assert session.error is None


async def test_cleanup_resources_has_the_clean_up_budget(autojump_clock: MockClock) -> None:
    log: list[str] = []
    async with manager_of(cleanup_budget=7) as manager:
        session = await manager.create_session()
        await session.enter_async_context(held(log, "a", seconds=100))
        await cleanup_resources(session)
        assert trio.current_time() == 7
        assert log == ["enter a"]
        assert isinstance(session.error, CleanupFailed)
        assert session.state is SessionState.ACTIVE


async def test_cleanup_resources_leaves_alone_what_is_being_entered(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def slow() -> AsyncIterator[str]:
        await trio.sleep(10)
        yield "entered"

    log: list[str] = []
    async with manager_of() as manager, trio.open_nursery() as nursery:
        session = await manager.create_session()
        await session.enter_async_context(held(log, "a"))

        @nursery.start_soon
        async def enter() -> None:
            assert await session.enter_async_context(slow()) == "entered"
            log.append("entered slow")

        await trio.sleep(1)
        await cleanup_resources(session)
        assert log == ["enter a", "leave a"]
        await trio.sleep(10)
        assert log[-1] == "entered slow"


async def test_a_cancelled_cleanup_resources_leaves_the_rest(autojump_clock: MockClock) -> None:
    log: list[str] = []
    async with manager_of() as manager:
        session = await manager.create_session()
        await session.enter_async_context(held(log, "a"))
        await session.enter_async_context(held(log, "b", seconds=3))
        with trio.move_on_after(1) as scope:
            await cleanup_resources(session)
        assert scope.cancelled_caught
        await trio.sleep(10)
        # What was being left is left to its end; the other one stays.
        assert log[2:] == ["leave b"]
        assert session.error is None


async def test_a_held_context_cannot_wait_until_it_is_left() -> None:
    async with manager_of() as manager:
        session = await manager.create_session()

        @asynccontextmanager
        async def naive() -> AsyncIterator[None]:
            with pytest.raises(RuntimeError, match="cannot wait until it is left"):
                await cleanup_resources(session)
            yield

        await session.enter_async_context(naive())
        assert session.state is SessionState.ACTIVE


# validate_sessions.


@asynccontextmanager
async def one_session() -> AsyncIterator[tuple[SessionManager, Session]]:
    router = Router("r")

    @router.request("wait")
    async def wait(_: RequestContext) -> None:
        await trio.sleep_forever()

    async with serving(router, cleanup=clocks()) as manager:
        peer = await connect(manager, principal=Principal("alice"))
        await peer.establish()
        await peer.send({"jsonrpc": "2.0", "id": 1, "method": "wait"})
        await wait_all_tasks_blocked()
        with assert_no_checkpoints():
            assert validate_sessions(manager.store) == []
        yield manager, peer.session


def findings(manager: SessionManager) -> list[str]:
    return [str(error).split("> ")[1] for error in validate_sessions(manager.store)]


async def test_validate_finds_an_ended_session_in_the_table() -> None:
    async with one_session() as (manager, session):
        session._state = SessionState.TERMINATED
        session._reason = TerminationReason.IDLE
        assert findings(manager) == ["has ended, but is still in the table"]
        session._state, session._reason = SessionState.ACTIVE, None


async def test_validate_finds_a_missing_and_a_surplus_index() -> None:
    async with one_session() as (manager, session):
        index = dict(manager.store._principals)
        manager.store._principals.clear()
        assert findings(manager) == ["is not indexed under its principal"]
        manager.store._principals.update(index)
        table = manager.store._tables[SessionKind.CONNECTION]
        del table[session.session_id]
        surplus, miscounted = validate_sessions(manager.store)
        assert str(surplus).endswith("is indexed, but not in the table")
        assert "sessions of principals are counted as" in str(miscounted)
        table[session.session_id] = session


async def test_validate_finds_uncounted_work() -> None:
    async with one_session() as (manager, session):
        session._busy -= 1
        assert findings(manager) == ["has requests that are not counted as work"]
        session._busy -= 1
        assert findings(manager) == [
            "has requests that are not counted as work",
            "has finished more work than it began",
        ]
        session._busy += 2


@pytest.mark.parametrize("reason", [None, TerminationReason.IDLE])
async def test_validate_finds_state_and_reason_at_odds(reason: TerminationReason | None) -> None:
    async with one_session() as (manager, session):
        session._reason = reason
        if reason is None:
            session._state = SessionState.TERMINATING
        assert findings(manager) == ["has a reason to end and lives, or the other way round"]
        session._state, session._reason = SessionState.ACTIVE, None


async def test_statistics_after_the_clocks_have_done_their_work(autojump_clock: MockClock) -> None:
    async with manager_of(max_idle_time=10) as manager:
        await manager.create_session()
        await trio.sleep(11)
        statistics = manager.statistics()
        assert isinstance(statistics, ManagerStatistics)
        assert statistics.ended == {TerminationReason.IDLE: 1}
