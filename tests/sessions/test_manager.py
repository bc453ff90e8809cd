"""The manager: opening, finding, ending, telling."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import (
    at_every_step,
    cancelled_at_step,
    connect,
    initialize,
    leftovers,
    notification,
    request,
    serving,
)
from trio_mcp_session import (
    AdmissionPolicy,
    BroadcastReport,
    CleanupConfig,
    ClientInfo,
    Disconnected,
    Principal,
    RequestContext,
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
    SessionVetoed,
    ShuttingDown,
    TerminationReason,
    Transport,
    cleanup_resources,
    open_session_manager,
    update_session_state,
)
from trio_mcp_session.server.accept import accept
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.sessions.drain import ending_budget

ME, YOU = Principal("me"), Principal("you")


@asynccontextmanager
async def managed(**settings: Any) -> AsyncIterator[SessionManager]:
    async with serving(Router("test"), **settings) as manager:
        yield manager
        sessions = manager.sessions()
        for session in sessions:
            session.terminate()
        for session in sessions:
            await session.wait_terminated()
        assert leftovers(manager, *sessions) == []


def test_the_session_manager_has_no_public_constructor() -> None:
    with pytest.raises(TypeError, match="no public constructor"):
        SessionManager()  # type: ignore[call-arg]  # that's the mistake


@attrs.define
class FailsToEnter(AbstractAsyncContextManager[None]):
    """A lifespan that waits, and then fails."""

    wait: Callable[[], Awaitable[object]]

    async def __aenter__(self) -> None:
        await self.wait()
        raise ValueError("no")

    async def __aexit__(self, *_: object) -> None: ...


# create_session


async def test_create_session_returns_an_active_session_with_defaults() -> None:
    async with managed() as manager:
        with assert_checkpoints():
            session = await manager.create_session()
        assert session.kind is SessionKind.HANDLE
        assert session.client == ClientInfo()
        assert session.principal is None
        assert session.transport.name == "application"
        assert session.state is SessionState.ACTIVE
        assert manager.sessions() == [session]
        assert repr(manager) == "<SessionManager: 1 sessions>"


async def test_create_session_with_clocks_of_its_own(autojump_clock: MockClock) -> None:
    async with managed(cleanup=CleanupConfig(cleanup_interval=0)) as manager:
        session = await manager.create_session(clocks=CleanupConfig(max_idle_time=3))
        assert await session.wait_terminated() is TerminationReason.IDLE
        assert trio.current_time() == 3


async def test_a_session_vetoed_by_a_hook_is_refused_and_counted() -> None:
    error = ValueError("not you")

    async def refuse(session: Session) -> None:
        if session.principal == YOU:
            raise error

    async with managed(hooks=SessionHooks(on_session_created=refuse)) as manager:
        session = await manager.create_session(principal=ME)
        with pytest.raises(SessionVetoed) as caught:
            await manager.create_session(principal=YOU)
        assert caught.value.__cause__ is error
        assert manager.sessions() == [session]
        assert manager.statistics().refused == {"SessionVetoed": 1}


async def test_refused_at_the_limit() -> None:
    async with managed(limits=SessionLimits(max_sessions=1)) as manager:
        session = await manager.create_session()
        with assert_checkpoints(), pytest.raises(SessionLimitReached):
            await cancellable(manager.create_session)
        assert manager.statistics().refused == {"SessionLimitReached": 1}
        session.terminate()
        await session.wait_terminated()
        await manager.create_session()


async def cancellable(async_fn: Callable[[], Any]) -> Any:
    """For calls that refuse before they wait."""
    await trio.lowlevel.checkpoint()
    return await async_fn()


async def test_nothing_is_opened_in_a_cancelled_scope() -> None:
    async with managed() as manager:
        with trio.CancelScope() as scope:
            scope.cancel()
            await manager.create_session()
        assert scope.cancelled_caught
        assert manager.statistics().opened == 0


async def test_a_creator_cancelled_while_it_waits_for_an_eviction_reserves_nothing(
    autojump_clock: MockClock,
) -> None:
    """Nothing stays reserved, wherever it is cancelled."""

    @asynccontextmanager
    async def slow_to_leave(session: Session) -> AsyncIterator[None]:
        yield
        await trio.sleep(3)

    limits = SessionLimits(max_sessions=1, admission=AdmissionPolicy.EVICT_IDLE)
    async with managed(limits=limits) as manager:

        async def attempt(step: int) -> bool:
            victim = await manager.create_session(principal=ME, lifespan=slow_to_leave)
            done = False
            with cancelled_at_step(step):
                await manager.create_session(principal=YOU)
                assert victim.termination_reason is TerminationReason.EVICTED
                done = True
            assert manager.statistics().reserved == 0
            for session in manager.sessions():
                session.terminate()
                await session.wait_terminated()
            assert leftovers(manager, victim) == []
            return done

        assert await at_every_step(attempt) > 3


async def test_a_drain_refuses_a_session_that_waits_for_a_victim(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def slow_to_leave(session: Session) -> AsyncIterator[None]:
        yield
        await trio.sleep(3)

    limits = SessionLimits(max_sessions=1, admission=AdmissionPolicy.EVICT_IDLE)
    async with managed(limits=limits) as manager:
        await manager.create_session(lifespan=slow_to_leave)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def newcomer() -> None:
                with pytest.raises(ShuttingDown):
                    await manager.create_session()

            await wait_all_tasks_blocked()
            await manager.drain()
        assert manager.statistics().refused == {"ShuttingDown": 1}
        assert manager.statistics().reserved == 0


async def test_manager_drains_while_a_session_is_being_opened(autojump_clock: MockClock) -> None:
    async with managed() as manager:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def create() -> None:
                with pytest.raises(SessionTerminated) as caught:
                    await manager.create_session(
                        lifespan=lambda _: FailsToEnter(trio.sleep_forever)
                    )
                assert caught.value.reason is TerminationReason.SHUTDOWN

            await wait_all_tasks_blocked()
            report = await manager.drain()
        assert len(report.completed) == 1
        assert trio.current_time() == 0


async def test_session_that_crashes_as_soon_as_it_is_open() -> None:
    """It was opened, so its creator gets it."""

    async def crash() -> None:
        raise ValueError

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        session.start_soon(crash)
        yield

    async with managed() as manager:
        session = await manager.create_session(lifespan=lifespan)
        assert await session.wait_terminated() is TerminationReason.CRASHED


# open_session


async def test_open_session_ends_its_session_with_the_block(autojump_clock: MockClock) -> None:
    trace: list[str] = []

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        trace.append("entered")
        yield
        await trio.sleep(2)
        trace.append("left")

    async with managed() as manager:
        opening = manager.open_session(
            ClientInfo(client_id="me"), kind=SessionKind.TASK, principal=ME, lifespan=lifespan
        )
        with assert_checkpoints():
            session = await opening.__aenter__()
        assert (session.kind, session.principal) == (SessionKind.TASK, ME)
        assert not session.busy
        assert trace == ["entered"]
        with assert_checkpoints():
            await opening.__aexit__(None, None, None)
        assert trace == ["entered", "left"]
        assert session.state is SessionState.TERMINATED
        assert session.termination_reason is TerminationReason.REQUESTED
        assert leftovers(manager, session) == []


async def test_body_is_cancelled_when_the_session_ends_first(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    async with managed(cleanup=CleanupConfig(max_idle_time=5, cleanup_interval=0)) as manager:
        with pytest.raises(SessionTerminated) as caught:
            async with manager.open_session() as session:
                try:
                    await trio.sleep_forever()
                finally:
                    trace.append("cancelled")
        assert caught.value.reason is TerminationReason.IDLE
        assert trace == ["cancelled"]
        assert trio.current_time() == 5
        assert session.state is SessionState.TERMINATED


async def test_body_ends_the_session() -> None:
    async with managed() as manager:
        async with manager.open_session() as session:
            session.terminate(TerminationReason.REVOKED)
        assert session.termination_reason is TerminationReason.REVOKED
        with pytest.raises(SessionTerminated):
            async with manager.open_session() as session:
                session.terminate()
                await trio.sleep_forever()


async def test_crash_of_the_session_cancels_the_body() -> None:
    async def crash() -> None:
        raise ValueError

    async with managed() as manager:
        with pytest.raises(SessionTerminated) as caught:
            async with manager.open_session() as session:
                session.start_soon(crash)
                await trio.sleep_forever()
        assert caught.value.reason is TerminationReason.CRASHED
        assert isinstance(session.error, ValueError)


@pytest.mark.parametrize("ended_first", [False, True])
async def test_error_of_the_body_comes_out_bare(ended_first: bool) -> None:
    error = ValueError("mine")
    async with managed() as manager:
        with pytest.raises(ValueError, match="mine") as caught:
            async with manager.open_session() as session:
                try:
                    if ended_first:
                        session.terminate(TerminationReason.EVICTED)
                        await trio.sleep_forever()
                finally:
                    raise error
        assert caught.value is error
        assert session.state is SessionState.TERMINATED
        reason = TerminationReason.EVICTED if ended_first else TerminationReason.REQUESTED
        assert session.termination_reason is reason


async def test_error_of_the_opening_comes_out_bare() -> None:
    async with managed() as manager:
        opening = manager.open_session(lifespan=lambda _: FailsToEnter(trio.lowlevel.checkpoint))
        with pytest.raises(ValueError, match="no"):
            await opening.__aenter__()


async def test_body_cancelled_from_outside_anywhere(autojump_clock: MockClock) -> None:
    sessions: list[Session] = []

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        await trio.sleep(1)
        sessions.append(session)
        yield
        await trio.sleep(1)
        left.append(session)

    left: list[Session] = []
    async with managed() as manager:

        async def attempt(step: int) -> bool:
            with cancelled_at_step(step) as scope:
                async with manager.open_session(lifespan=lifespan):
                    await trio.sleep(1)
                    await trio.sleep(1)
            assert leftovers(manager, *sessions) == []
            assert left == sessions
            return not scope.cancel_called

        assert await at_every_step(attempt) > 5
        assert {session.termination_reason for session in sessions} == {
            TerminationReason.CANCELLED,
            TerminationReason.REQUESTED,
        }


async def test_a_cancellation_beside_the_end_of_an_open_session_stays_a_cancellation() -> None:
    """The cancellation is raised: no task is left to be told that the session ended."""
    async with managed() as manager:
        with trio.CancelScope() as scope:
            async with manager.open_session() as session:
                session.terminate(TerminationReason.EVICTED)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert session.termination_reason is TerminationReason.EVICTED


async def test_blocks_nest_and_sessions_end_in_any_order(autojump_clock: MockClock) -> None:
    """The outer session's end cancels the inner body too; the inner session ends with it."""
    async with managed() as manager:
        with pytest.raises(SessionTerminated) as caught:
            async with manager.open_session() as outer, manager.open_session() as inner:
                outer.terminate(TerminationReason.EVICTED)
                await trio.sleep_forever()
        assert caught.value.reason is TerminationReason.EVICTED
        assert inner.termination_reason is TerminationReason.CANCELLED
        async with manager.open_session() as outer:
            with pytest.raises(SessionTerminated):
                async with manager.open_session() as inner:
                    inner.terminate()
                    await trio.sleep_forever()
            await trio.sleep(1)
            assert outer.state is SessionState.ACTIVE


async def test_blocks_of_many_tasks_are_left_in_any_order(autojump_clock: MockClock) -> None:
    async def use(seconds: float) -> None:
        async with manager.open_session():
            await trio.sleep(seconds)

    async with managed() as manager:
        async with trio.open_nursery() as nursery:
            for seconds in (3, 1, 2):
                nursery.start_soon(use, seconds)
            for left in (3, 2, 1):
                await trio.sleep(0.5)
                assert len(manager.sessions()) == left
                await trio.sleep(0.5)


# Finding


async def test_get_session_finds_by_id_kind_and_principal_only() -> None:
    async with managed() as manager:
        session = await manager.create_session(principal=ME)
        orphan = await manager.create_session(kind=SessionKind.TASK)
        known = session.session_id
        with assert_no_checkpoints():
            assert manager.get_session(known) is session
            assert manager.get_session(known, kind=SessionKind.HANDLE) is session
            assert manager.get_session(known, principal=Principal("me")) is session
            assert manager.get_session(orphan.session_id) is orphan
        for kind in set(SessionKind) - {SessionKind.HANDLE}:
            assert manager.get_session(known, kind=kind) is None
        # For another principal it does not exist, and neither does one without a principal.
        assert manager.get_session(known, principal=YOU) is None
        assert manager.get_session(known, principal=Principal("me", "other issuer")) is None
        assert manager.get_session(orphan.session_id, principal=ME) is None
        for unknown in (
            "",
            "x",
            known[:-1],
            known + "x",
            known.swapcase(),
            "\x00",
            "é",
            "x" * 9999,
        ):
            assert manager.get_session(unknown) is None
        session.terminate()
        assert manager.get_session(known) is None
        await session.wait_terminated()
        assert manager.get_session(known) is None


async def test_the_session_lists_are_filtered_copies() -> None:
    async with managed() as manager:
        first, second = [await manager.create_session(principal=who) for who in (ME, YOU)]
        first.terminate()
        with assert_no_checkpoints():
            assert manager.sessions() == [first, second]
            assert manager.list_sessions() == [second]
            assert manager.sessions(lambda session: session.principal == ME) == [first]
        manager.sessions().clear()
        assert len(manager.store) == 2


# Ending


async def test_terminate_session_ends_a_known_session_once() -> None:
    async with managed() as manager:
        session = await manager.create_session()
        with assert_no_checkpoints():
            assert not manager.terminate_session("unknown")
            assert manager.terminate_session(session.session_id, TerminationReason.EVICTED)
            assert not manager.terminate_session(session.session_id)
        assert await session.wait_terminated() is TerminationReason.EVICTED


async def test_revoke_ends_only_the_sessions_of_the_principal() -> None:
    async with managed() as manager:
        mine = [await manager.create_session(kind=kind, principal=ME) for kind in SessionKind]
        yours = await manager.create_session(principal=YOU)
        nobodys = await manager.create_session()
        mine[0].terminate()
        with assert_no_checkpoints():
            assert manager.revoke(ME) == len(SessionKind) - 1
            assert manager.revoke(ME) == 0
            assert manager.revoke(Principal("unknown")) == 0
        reasons = {await session.wait_terminated() for session in mine[1:]}
        assert reasons == {TerminationReason.REVOKED}
        assert await mine[0].wait_terminated() is TerminationReason.REQUESTED
        assert manager.list_sessions() == [yours, nobodys]
        await manager.create_session(principal=ME)  # Revoking is not a ban.


async def test_revoke_closes_the_connection_of_the_principal() -> None:
    async with managed() as manager:
        client = await connect(manager, principal=ME)
        await client.establish()
        assert manager.revoke(ME) == 1
        assert await client.session.wait_terminated() is TerminationReason.REVOKED
        with pytest.raises(trio.EndOfChannel):
            await client.channel.receive()


async def test_drain_reports_how_each_session_ended(autojump_clock: MockClock) -> None:
    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1000)

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    async def open_with(*work: Callable[[], Any]) -> Session:
        session = await manager.create_session()
        for one in work:
            session.start_soon(one)
        return session

    clocks = CleanupConfig(flush_budget=1, cleanup_budget=10, hook_budget=5)
    async with managed(cleanup=clocks) as manager:
        idle = await open_with()
        working = await open_with(partial(trio.sleep, 5))
        cut = await open_with(trio.sleep_forever)
        failed = await open_with(fail_at_the_end)
        overran = await open_with(stubborn, trio.sleep_forever)
        served = await open_with()
        served.start_soon(trio.sleep_forever, service=True)
        leased = await open_with()
        with leased.lease():
            await wait_all_tasks_blocked()
            with assert_checkpoints():
                report = await manager.drain(grace=20)
            # Grace, and then the budgets: however stubborn a task is.
            assert trio.current_time() == 20 + ending_budget(manager.config.cleanup)
        assert set(report.completed) == {s.session_id for s in (idle, working, served)}
        assert set(report.cancelled) == {s.session_id for s in (cut, leased)}
        assert report.failed == (failed.session_id,)
        assert dict(report.overran) == {
            overran.session_id: ("test_drain_reports_how_each_session_ended.<locals>.stubborn",)
        }
        assert manager.sessions() == [overran]
        assert manager.statistics().draining
        with pytest.raises(ShuttingDown):
            await manager.create_session()
        assert manager.statistics().refused == {"ShuttingDown": 1}


async def test_requests_during_a_drain(autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.request("work")
    async def work(ctx: RequestContext) -> None:
        await trio.sleep(5)

    async with serving(router) as manager:
        client, idle_client = await connect(manager), await connect(manager)
        for one in (client, idle_client):
            await one.establish()
        await client.send(request(1, "work"))
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(manager.drain, grace=10))
            await wait_all_tasks_blocked()
            assert idle_client.session.state is SessionState.TERMINATED
            refusal = await client.ask(2, "work")
            assert refusal["error"]["message"] == "server is shutting down"
            assert (await client.receive())["id"] == 1
        assert trio.current_time() == 5
        assert manager.statistics().ended == {TerminationReason.SHUTDOWN: 2}


async def test_a_cancelled_drain_still_refuses_new_sessions(autojump_clock: MockClock) -> None:
    async with managed() as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep, 5)
        with trio.move_on_after(1):
            await manager.drain()
        with pytest.raises(ShuttingDown):
            await manager.create_session()
        assert await session.wait_terminated() is TerminationReason.SHUTDOWN
        assert trio.current_time() == 5


# Telling


async def test_a_broadcast_reaches_established_clients_and_counts_dropped_ones(
    autojump_clock: MockClock,
) -> None:
    async with managed() as manager:
        clients = [await connect(manager, principal=who) for who in (ME, YOU, ME)]
        for client in clients:
            await client.establish()
        silent = await connect(manager)  # It has done no handshake.
        slow = await connect(manager, capacity=1)
        await slow.send({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        await wait_all_tasks_blocked()
        await manager.create_session()  # It has no client.
        with assert_no_checkpoints():
            report = manager.broadcast("notifications/all", {"a": 1})
        assert report == BroadcastReport(sent=3, dropped=0)
        only_mine = manager.broadcast("notifications/mine", where=lambda s: s.principal == ME)
        assert only_mine == BroadcastReport(sent=2, dropped=0)
        update_session_state(clients[1].session, SessionState.IDLE)
        clients[2].session.terminate()
        assert manager.broadcast("notifications/rest") == BroadcastReport(sent=2, dropped=0)
        everybody = notification("notifications/all", {"a": 1})
        mine, rest = notification("notifications/mine"), notification("notifications/rest")
        assert await clients[0].waiting() == [everybody, mine, rest]
        assert await clients[1].waiting() == [everybody, rest]
        assert await clients[2].waiting() == [everybody, mine]
        assert await silent.waiting() == []


async def test_a_broadcast_does_not_wait_for_slow_clients(autojump_clock: MockClock) -> None:
    async with managed(limits=SessionLimits(max_output=100)) as manager:
        slow, fast = await connect(manager, capacity=3), await connect(manager)
        for client in (slow, fast):
            await client.establish()
        sent = [manager.broadcast("notifications/x", {"text": "x" * 100}).sent for _ in range(6)]
        assert sent == [2, 2, 2, 2, 1, 1]
        assert slow.session.metrics.dropped == 2
        assert fast.session.metrics.dropped == 0
        assert len(await slow.waiting()) == 4


async def test_resource_updates_reach_subscribers() -> None:
    router = Router("test", resource_subscriptions=True)

    @router.request("resources/list")
    async def resources(ctx: RequestContext) -> None: ...

    async with serving(router) as manager:
        clients = [await connect(manager) for _ in range(3)]
        for client in clients:
            await client.establish()
        await clients[0].ask(1, "resources/subscribe", {"uri": "a:b"})
        await clients[1].ask(1, "resources/subscribe", {"uri": "a:c"})
        with assert_no_checkpoints():
            assert manager.notify_resource_updated("a:b") == BroadcastReport(sent=1, dropped=0)
        assert await clients[0].waiting() == [
            notification("notifications/resources/updated", {"uri": "a:b"})
        ]
        assert await clients[1].waiting() == await clients[2].waiting() == []


async def test_events_of_all_sessions() -> None:
    async with managed() as manager:
        with assert_no_checkpoints():
            subscribing = manager.subscribe()
            events = subscribing.__enter__()
        assert manager.statistics().subscribers == 1
        sessions = [await manager.create_session() for _ in range(3)]
        for session in sessions:
            session.terminate()
            await session.wait_terminated()
        ended: list[str] = []
        while len(ended) < 3:
            event = await events.receive()
            if isinstance(event, Disconnected):
                ended.append(event.session_id)
        assert ended == [session.session_id for session in sessions]
        with assert_no_checkpoints():
            subscribing.__exit__(None, None, None)
        assert manager.statistics().subscribers == 0


async def test_missed_events_are_counted() -> None:
    async with managed() as manager:
        with manager.subscribe(max_buffer=1):
            session = await manager.create_session()
            session.terminate()
            await session.wait_terminated()
            assert manager.statistics().events_missed == 4


async def test_statistics_count_sessions_states_requests_and_ends(
    autojump_clock: MockClock,
) -> None:
    router = Router("test")

    @router.request("hang")
    async def hang(ctx: RequestContext) -> None:
        await trio.sleep_forever()

    async with serving(router) as manager:
        client = await connect(manager)
        await client.establish()
        await client.send(request(1, "hang"), request(2, "hang"))
        for seconds in (0.5, 30):
            session = await manager.create_session()
            await trio.sleep(seconds)
            session.terminate(TerminationReason.EVICTED)
            await session.wait_terminated()
        await manager.create_session()
        dying = await manager.create_session(kind=SessionKind.TASK)
        dying.terminate()
        with assert_no_checkpoints():
            picture = manager.statistics()
        assert picture.active == {
            SessionKind.CONNECTION: 1,
            SessionKind.HANDLE: 1,
            SessionKind.TASK: 1,
        }
        assert picture.states == {SessionState.ACTIVE: 2, SessionState.TERMINATING: 1}
        assert (picture.opened, picture.in_flight, picture.reserved) == (5, 2, 0)
        assert picture.ended == {TerminationReason.EVICTED: 2}
        assert picture.durations[:4] == (1, 0, 1, 0)
        assert sum(picture.durations) == 2
        assert picture.refused == {}
        assert (picture.events_missed, picture.hook_failures, picture.draining) == (0, 0, False)


async def test_waiting_until_it_is_drained(autojump_clock: MockClock) -> None:
    times: dict[str, float] = {}

    async def note(name: str) -> None:
        await manager.wait_drained()
        times[name] = trio.current_time()

    async with trio.open_nursery() as nursery:
        async with managed() as manager:
            session = await manager.create_session()
            session.start_soon(trio.sleep, 5)
            nursery.start_soon(note, "before")
            with trio.move_on_after(1) as scope:
                await manager.wait_drained()
            assert scope.cancelled_caught
            with trio.move_on_after(1):
                await manager.drain()  # No drain has to wait for this one; it is not over.
            await trio.sleep(1)
            assert times == {}
            await manager.drain()
            assert times in ({}, {"before": 5})
            await note("after")
    assert times == {"before": 5, "after": 5}


@pytest.mark.parametrize("how", ["normally", "by an error", "cancelled"])
async def test_a_manager_that_is_left_is_drained(how: str, autojump_clock: MockClock) -> None:
    woken: list[bool] = []
    manager: SessionManager

    async def wait() -> None:
        await manager.wait_drained()
        # Not before: servers would leave while sessions still have something to say.
        woken.append(not manager.sessions())

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope, suppress(ValueError):
            async with open_session_manager(Router("test")) as manager:
                await manager.create_session()
                nursery.start_soon(wait)
                await wait_all_tasks_blocked()
                if how == "by an error":
                    raise ValueError
                if how == "cancelled":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
    assert woken == [True]


# Serving


async def test_accept_needs_an_application() -> None:
    async with open_session_manager() as manager:
        with pytest.raises(RuntimeError, match="without an application"):
            await accept(manager, None, transport=None)  # type: ignore[arg-type]  # it doesn't come to that


async def test_accept_at_the_limit_and_when_draining() -> None:
    config = SessionLimits(max_sessions=1)
    async with managed(limits=config) as manager:
        client = await connect(manager)
        await client.establish()
        for error in (SessionLimitReached, ShuttingDown):
            with pytest.raises(error):
                await accept(manager, None, transport=Transport("x"))  # type: ignore[arg-type]  # the same
            await manager.drain()


async def test_settings_are_at_hand() -> None:
    config, router = SessionConfig(), Router("test")
    async with open_session_manager(router, config=config) as manager:
        assert manager.config is config
        assert server_of(manager).application is router
        assert len(manager.store) == 0


@pytest.mark.parametrize("how", ["bare", "in a nursery", "beside an error"])
async def test_a_block_that_is_cancelled_ends_its_session_as_cancelled(
    how: str, autojump_clock: MockClock
) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("beside")

    async def work() -> None:
        if how == "bare":
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            if how == "beside an error":
                nursery.start_soon(fail_when_cancelled)

    async with open_session_manager() as manager:
        sessions: list[Session] = []
        with suppress(BaseExceptionGroup), trio.move_on_after(1):
            async with manager.open_session() as session:
                sessions.append(session)
                await work()
        assert sessions[0].termination_reason is TerminationReason.CANCELLED
        assert leftovers(manager, *sessions) == []


@pytest.mark.parametrize("nursery_in_body", [False, True])
async def test_a_manager_that_is_cancelled_ends_its_sessions_as_cancelled(
    nursery_in_body: bool, autojump_clock: MockClock
) -> None:
    sessions: list[Session] = []
    with trio.move_on_after(1) as scope:
        async with open_session_manager() as manager:
            sessions.append(await manager.create_session())
            if nursery_in_body:
                async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # that makes the group
                    nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert sessions[0].termination_reason is TerminationReason.CANCELLED


async def test_a_veto_is_counted_once_for_every_kind_of_session() -> None:
    async def refuse(session: Session) -> None:
        raise ValueError("not you")

    hooks = SessionHooks(on_session_created=refuse)
    async with serving(Router("r"), hooks=hooks) as manager:
        with pytest.raises(SessionVetoed):
            await manager.create_session()
        assert manager.statistics().refused == {"SessionVetoed": 1}
        peer = await connect(manager)
        await peer.send(initialize())
        assert (await peer.receive())["error"]["code"] == -32603
        await peer.session.wait_terminated()
        assert manager.statistics().refused == {"SessionVetoed": 2}


async def test_errors_of_a_living_session_are_kept_up_to_a_limit(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def fails_to_leave() -> AsyncIterator[None]:
        yield
        raise ValueError

    async with open_session_manager() as manager:
        session = await manager.create_session()
        for _ in range(20):
            await session.enter_async_context(fails_to_leave())
            await cleanup_resources(session)
        assert isinstance(session.error, ExceptionGroup)
        assert len(session.error.exceptions) == 16
        assert session.metrics.errors == 20


# One deadline for a shutdown.


def stubborn_lifespan(trace: list[tuple[str, float]]) -> Any:
    @asynccontextmanager
    async def lifespan(_: Session) -> AsyncIterator[None]:
        try:
            yield
        finally:
            began = trio.current_time()
            trace.append(("clean-up begins", began))
            try:
                await trio.sleep_forever()  # noqa: ASYNC102  # its budget is what this is about
            finally:
                trace.append(("clean-up is cut", trio.current_time()))

    return lifespan


@pytest.mark.parametrize(
    "timeout, grace, expected",
    [
        # Work until 2 + 1 s before the end, held contexts until half a second before it.
        (9, 100, (6, 6, 8.5, 9)),
        # Budgets that are shorter than what the deadline leaves are what counts.
        (60, 3, (3, 3, 6, 7.25)),
        # Half of a short deadline is kept for the clean-up.
        (1, 100, (0, 0, 0.875, 1)),
        (None, 100, (100, 100, 103, 104.25)),
    ],
)
async def test_the_stages_of_a_shutdown_stay_within_its_deadline(
    timeout: float | None,
    grace: float,
    expected: tuple[float, ...],
    autojump_clock: MockClock,
) -> None:
    trace: list[tuple[str, float]] = []

    async def last_hook(_session: Session, _reason: TerminationReason) -> None:
        try:
            await trio.sleep_forever()
        finally:
            trace.append(("hook is cut", trio.current_time()))

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            trace.append(("work is cut", trio.current_time()))

    cleanup = CleanupConfig(drain_grace=grace, shutdown_timeout=timeout)
    hooks = SessionHooks(on_session_terminated=last_hook)
    async with serving(Router("r"), cleanup=cleanup, hooks=hooks) as manager:
        session = await manager.create_session(lifespan=stubborn_lifespan(trace))
        session.start_soon(work)
        report = await manager.drain()
        assert report.failed == (session.session_id,)
    stages = ("work is cut", "clean-up begins", "clean-up is cut", "hook is cut")
    assert trace == list(zip(stages, expected, strict=True))


async def test_a_default_drain_reports_within_ten_seconds(autojump_clock: MockClock) -> None:
    """``docker stop`` kills after that."""

    async def refuse_to_end() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    async with serving(Router("r")) as manager:
        session = await manager.create_session()
        session.start_soon(refuse_to_end)
        await wait_all_tasks_blocked()
        report = await manager.drain()
        assert list(report.overran) == [session.session_id]
        assert trio.current_time() < 10


async def test_a_sooner_deadline_stays(autojump_clock: MockClock) -> None:
    async with serving(Router("r")) as manager:
        told: list[float] = []
        manager._shutdown.on_change = told.append
        manager._begin_shutdown()  # It is off.
        for seconds in (9, 20, 1.5, 2):
            manager._begin_shutdown(seconds)
        assert manager._shutdown.at == 1.5
        assert told == [9, 1.5]
