"""Draining: what may finish finishes, what may not is ended, and all of it is told."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from math import inf
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.helpers import (
    Peer,
    brief,
    cancelled,
    connect,
    error,
    initialize,
    modern,
    modern_result,
    request,
    result,
    serving,
    told,
)
from trio_mcp_session import (
    CleanupConfig,
    DrainReport,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionManager,
    SessionState,
    SessionTerminated,
    ShuttingDown,
    TerminationReason,
    open_session_manager,
)
from trio_mcp_session.sessions import drain as drain_module
from trio_mcp_session.sessions.drain import end, ending_budget
from trio_mcp_session.sessions.endings import BATCH

SHUTDOWN = TerminationReason.SHUTDOWN
BUDGET = ending_budget(CleanupConfig(cleanup_budget=10, hook_budget=5))
"""What the clean-up of a session may take: flush, clean-up and two hooks."""


@asynccontextmanager
async def manager_of(**clocks: Any) -> AsyncIterator[SessionManager]:
    settings = {
        "drain_grace": 10,
        "cleanup_budget": 10,
        "hook_budget": 5,
        "max_idle_time": inf,
        **clocks,
    }
    with trio.fail_after(10_000):
        async with open_session_manager(
            config=SessionConfig(cleanup=CleanupConfig(**settings))
        ) as manager:
            yield manager


async def shielded(seconds: float) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


async def fail_after(seconds: float) -> None:
    await trio.sleep(seconds)
    raise OSError("it broke")


@asynccontextmanager
async def broken_at_the_end(_: Session) -> AsyncIterator[None]:
    yield
    raise OSError("not closed")


# One session.


async def test_an_idle_session_ends_at_the_start_of_the_grace(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        with assert_checkpoints():
            report = await session.drain(grace=50)
        assert report == DrainReport(completed=(session.session_id,))
        assert session.termination_reason is SHUTDOWN
        assert trio.current_time() == 0


async def test_a_drain_waits_for_work_within_the_grace(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep, 30)
        session.start_soon(trio.sleep, 40)
        report = await session.drain(grace=50)
        assert report == DrainReport(completed=(session.session_id,))
        assert trio.current_time() == 40


async def test_a_lease_holds_a_drain_up(autojump_clock: MockClock) -> None:
    async with manager_of() as manager, trio.open_nursery() as nursery:
        session = await manager.create_session()

        @nursery.start_soon
        async def use() -> None:
            with session.lease():
                await trio.sleep(7)
            assert session.termination_reason is SHUTDOWN

        await wait_all_tasks_blocked()
        report = await session.drain(grace=50)
        assert report.completed == (session.session_id,)
        assert trio.current_time() == 7


async def test_the_rest_is_cancelled_when_the_grace_is_over(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep, 30)
        session.start_soon(trio.sleep_forever)
        report = await session.drain(grace=50)
        assert report == DrainReport(cancelled=(session.session_id,))
        assert trio.current_time() == 50


async def test_a_drain_uses_the_default_grace_of_the_configuration(
    autojump_clock: MockClock,
) -> None:
    async with manager_of(drain_grace=17) as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever)
        await session.drain()
        assert trio.current_time() == 17


async def test_a_drain_without_grace_cancels_at_once(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep, 1)
        assert await session.drain(grace=0) == DrainReport(cancelled=(session.session_id,))
        assert trio.current_time() == 0


async def test_service_tasks_end_after_the_work_that_they_serve(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        ended: list[float] = []

        async def serve() -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(trio.current_time())

        session.start_soon(serve, service=True)
        session.start_soon(trio.sleep, 5)
        await trio.sleep(1)
        report = await session.drain(grace=50)
        assert report.completed == (session.session_id,)
        assert ended == [5]
        assert trio.current_time() == 5


async def test_service_tasks_end_when_the_grace_is_over(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        ended: list[float] = []

        async def serve() -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(trio.current_time())

        session.start_soon(serve, service=True)
        session.start_soon(trio.sleep_forever)
        report = await session.drain(grace=3)
        assert report.cancelled == (session.session_id,)
        assert ended == [3]


async def test_work_starts_a_service_task_during_the_drain(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        ended: list[float] = []

        async def serve() -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(trio.current_time())

        async def work() -> None:
            await trio.sleep(1)
            session.start_soon(serve, service=True)
            await trio.sleep(5)

        session.start_soon(work)
        assert (await session.drain(grace=50)).completed == (session.session_id,)
        assert ended == [6]
        assert trio.current_time() == 6


async def test_a_drain_waits_for_tasks_started_by_other_tasks(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()

        async def work() -> None:
            await trio.sleep(1)
            session.start_soon(trio.sleep, 5)

        session.start_soon(work)
        assert (await session.drain(grace=50)).completed == (session.session_id,)
        assert trio.current_time() == 6


async def test_a_drain_reports_crashes_and_failed_cleanups(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        crashing = await manager.create_session()
        crashing.start_soon(fail_after, 3)
        dirty = await manager.create_session(lifespan=broken_at_the_end)
        report = await manager.drain(grace=50)
        assert set(report.failed) == {crashing.session_id, dirty.session_id}
        assert report.completed == report.cancelled == ()
        assert crashing.termination_reason is TerminationReason.CRASHED
        assert dirty.termination_reason is SHUTDOWN
        assert trio.current_time() == 3


async def test_what_refuses_to_end_is_told_with_its_tasks(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        session.start_soon(shielded, 200, name="never mind me")
        session.start_soon(trio.sleep_forever)
        report = await session.drain(grace=4)
        assert trio.current_time() == 4 + BUDGET
        assert report == DrainReport(overran={session.session_id: ("never mind me",)})
        assert session.state is SessionState.TERMINATING
        assert manager.sessions() == [session]
        # Asked again, it tells again.
        assert await session.drain(grace=0) == report
        assert caplog.records == []
    # Leaving the block waits all the same, and says for which task.
    assert trio.current_time() == 200
    overran, record = caplog.records
    assert "the drain did not end 1 sessions in time" in overran.getMessage()
    assert "never mind me, at shielded (test_drain.py:" in str(overran.stack_info)
    assert record.levelno == logging.WARNING
    assert "never mind me" in record.getMessage()


async def test_held_contexts_and_lifespans_are_named_too(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        yield
        await shielded(100)

    @asynccontextmanager
    async def lifespan(_: Session) -> AsyncIterator[None]:
        yield
        await shielded(100)

    async with manager_of() as manager:
        holding = await manager.create_session()
        await holding.enter_async_context(slow())
        living = await manager.create_session(lifespan=lifespan)
        report = await manager.drain(grace=0)
        assert report.overran == {
            holding.session_id: ("held context",),
            living.session_id: ("session",),
        }


async def test_a_session_that_is_stuck_in_its_opening_is_named_too(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def stuck(_: Session) -> AsyncIterator[None]:
        await shielded(100)
        yield

    async with manager_of() as manager, trio.open_nursery() as nursery:

        async def open_in_vain() -> None:
            with pytest.raises(SessionTerminated):
                await manager.create_session(lifespan=stuck)

        nursery.start_soon(open_in_vain)
        await wait_all_tasks_blocked()
        (session,) = manager.sessions()
        report = await manager.drain(grace=0)
        assert report.overran == {session.session_id: ("session",)}


async def test_a_session_cannot_drain_itself() -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        done = trio.Event()

        async def inside() -> None:
            with pytest.raises(RuntimeError, match="cannot wait for its own end"):
                await session.drain()
            with pytest.raises(RuntimeError, match="cannot wait for its own end"):
                await manager.drain()
            done.set()

        session.start_soon(inside)
        await done.wait()
        # Nothing was changed by it: neither drains.
        assert session.state is SessionState.ACTIVE
        assert not manager.statistics().draining
        await manager.create_session()


async def test_draining_what_has_ended() -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        session.terminate(TerminationReason.REVOKED)
        await session.wait_terminated()
        with assert_checkpoints():
            report = await session.drain()
        assert report == DrainReport(completed=(session.session_id,))
        assert session.termination_reason is TerminationReason.REVOKED


async def test_draining_what_is_being_opened(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def slow(_: Session) -> AsyncIterator[None]:
        await trio.sleep(100)
        yield  # pragma: no cover  # the point is that it never gets there

    async with manager_of() as manager, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def create() -> None:
            with pytest.raises(SessionTerminated) as refusal:
                await manager.create_session(lifespan=slow)
            assert refusal.value.reason is SHUTDOWN

        await trio.sleep(1)
        await manager.drain()
        assert trio.current_time() == 1


async def test_concurrent_drains_use_the_shortest_grace_and_report_the_same(
    autojump_clock: MockClock,
) -> None:
    """The shorter grace wins; both report how it ended."""
    async with manager_of() as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever)
        reports = []

        async def drain(grace: float) -> None:
            reports.append((await session.drain(grace=grace), trio.current_time()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, 30)
            nursery.start_soon(drain, 20)
            nursery.start_soon(drain, 40)
        assert reports == [(DrainReport(cancelled=(session.session_id,)), 20)] * 3


async def test_a_cancelled_drain_still_ends_when_the_work_is_done(
    autojump_clock: MockClock,
) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep, 100)
        with trio.move_on_after(5) as scope:
            await session.drain(grace=50)
        assert scope.cancelled_caught
        assert session.state is SessionState.ACTIVE
        # The grace ended with the drain that granted it.
        assert await session.wait_terminated() is SHUTDOWN
        assert trio.current_time() == 100
        assert not session._work_cancelled


async def test_a_drain_that_is_cancelled_at_once_does_nothing() -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        with trio.CancelScope() as scope:
            scope.cancel()
            await session.drain()
        assert scope.cancelled_caught
        assert session.state is SessionState.ACTIVE
        assert session._drain_reason is None


async def test_a_drain_cancelled_between_batches_closes_every_session_to_requests() -> None:
    async with manager_of() as manager:
        sessions = [await manager.create_session() for _ in range(3 * BATCH)]

        with ExitStack() as leases:
            for session in sessions:
                leases.enter_context(session.lease())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(manager.drain, grace=1000))
                # It begins at the second step, and would be through with the batches at the fourth.
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert {session._drain_reason for session in sessions} == {SHUTDOWN}
            assert {session.state for session in sessions} == {SessionState.ACTIVE}


async def test_a_drain_cancelled_during_the_clean_up(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        session.start_soon(shielded, 15)
        with trio.move_on_after(10) as scope:
            await session.drain(grace=5)
        assert scope.cancelled_caught
        assert await session.wait_terminated() is SHUTDOWN
        assert trio.current_time() == 15


# What passes, and what does not.


@asynccontextmanager
async def draining_client() -> AsyncIterator[tuple[Peer, list[str]]]:
    """A client with two requests in flight, in a server that drains."""
    router = Router("r")
    log: list[str] = []

    @router.request("ask")
    async def ask(ctx: RequestContext) -> dict[str, Any]:
        return {"roots": await ctx.list_roots()}

    @router.request("wait")
    async def wait(_: RequestContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append("cancelled")

    async with serving(router, cleanup=CleanupConfig(drain_grace=100)) as manager:
        peer = await connect(manager)
        await peer.establish(capabilities={"roots": {}})
        await peer.send(request(1, "ask"), request(2, "wait"))
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.drain)
            await wait_all_tasks_blocked()
            assert peer.session.state is SessionState.ACTIVE
            yield peer, log


async def test_replies_cancellations_and_pings_still_pass(autojump_clock: MockClock) -> None:
    async with draining_client() as (peer, log):
        question = await peer.receive()
        assert question["method"] == "roots/list"
        await trio.sleep(1)
        assert await peer.ask(3, "ping") == result(3)
        await peer.send(cancelled(2))
        assert await peer.waiting() == []
        assert log == ["cancelled"]
        await peer.send(result(question["id"], {"roots": [{"uri": "file:///x"}]}))
        assert await peer.receive() == result(1, {"roots": [{"uri": "file:///x"}]})
        # That was the last of the work: the session ends long before the grace does.
        assert await peer.session.wait_terminated() is SHUTDOWN
        assert peer.session.error is None
        assert trio.current_time() == 1


async def test_new_requests_are_refused(autojump_clock: MockClock) -> None:
    async with draining_client() as (peer, _):
        await peer.receive()
        refusal = await peer.ask(3, "ask")
        assert refusal == error(3, -32603, "server is shutting down")
        assert brief(await peer.ask(4, "unheard/of")) == error(4, -32603)
        # What is in flight then gets an answer that says why.
        await peer.session.wait_terminated()
        assert trio.current_time() == 100
        answers = [m for m in await peer.waiting() if "id" in m and "method" not in m]
        why = "Session has ended: shutdown"
        assert sorted(answers, key=lambda one: one["id"]) == [
            error(1, -32603, why),
            error(2, -32603, why),
        ]


async def test_a_drain_ends_a_connection_before_its_handshake_at_once(
    autojump_clock: MockClock,
) -> None:
    """One that is connected but has not said hello yet is not worth waiting for."""
    async with serving(Router("r")) as manager:
        peer = await connect(manager)
        await manager.drain(grace=100)
        assert peer.session.termination_reason is SHUTDOWN
        assert trio.current_time() == 0


async def test_initialize_is_refused_while_a_session_drains(autojump_clock: MockClock) -> None:
    async with serving(Router("r")) as manager:
        peer = await connect(manager)
        with peer.session.lease():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.session.drain)
                await wait_all_tasks_blocked()
                await peer.send(initialize(1))
                assert await peer.receive() == error(1, -32603, "server is shutting down")
                nursery.cancel_scope.cancel()


# The manager.


async def test_the_drain_report_of_the_manager_names_each_session_and_its_end(
    autojump_clock: MockClock,
) -> None:
    async with manager_of() as manager:
        idle = await manager.create_session()
        working = await manager.create_session()
        working.start_soon(trio.sleep, 5)
        endless = await manager.create_session()
        endless.start_soon(trio.sleep_forever)
        crashing = await manager.create_session()
        crashing.start_soon(fail_after, 1)
        stubborn = await manager.create_session()
        stubborn.start_soon(shielded, 1000, name="stubborn")
        with assert_checkpoints():
            report = await manager.drain(grace=20)
        assert report == DrainReport(
            completed=(idle.session_id, working.session_id),
            cancelled=(endless.session_id,),
            failed=(crashing.session_id,),
            overran={stubborn.session_id: ("stubborn",)},
        )
        assert trio.current_time() == 20 + BUDGET
        assert manager.statistics().draining
        assert manager.sessions() == [stubborn]


async def test_a_drain_refuses_new_sessions_from_its_beginning(autojump_clock: MockClock) -> None:
    async with manager_of() as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep, 5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.drain)
            await wait_all_tasks_blocked()
            with pytest.raises(ShuttingDown):
                await manager.create_session()
            nursery.cancel_scope.cancel()
        # Cancelling the drain does not take it back.
        with pytest.raises(ShuttingDown):
            await manager.create_session()
        assert manager.statistics().refused == {"ShuttingDown": 2}


@pytest.mark.parametrize("handshake", [False, True])
async def test_modern_requests_are_work_too(handshake: bool, autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.request("work")
    async def work(ctx: RequestContext) -> None:
        await trio.sleep(ctx.params["seconds"])

    @router.request("stubborn")
    async def stubborn(ctx: RequestContext) -> None:
        await shielded(60)

    budgets = CleanupConfig(cleanup_budget=10, hook_budget=5)
    async with serving(router, cleanup=budgets) as manager:
        peers = [await connect(manager) for _ in range(4)]
        quick, slow, hard, silent = peers
        for peer in peers:
            if handshake:
                await peer.establish()
        await quick.send(modern(1, "work", {"seconds": 5}))
        await slow.send(modern(1, "work", {"seconds": 50}))
        await hard.send(modern(1, "stubborn"))
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                report = await manager.drain(grace=10)
                assert report == DrainReport(
                    completed=(silent.session.session_id, quick.session.session_id),
                    cancelled=(slow.session.session_id,),
                    overran={hard.session.session_id: ("stubborn",)},
                )

            await trio.sleep(1)
            await quick.send(modern(2, "work", {"seconds": 0}))
            (refused,) = await quick.waiting()
            assert refused["error"] == {"code": -32603, "message": "server is shutting down"}
        assert trio.current_time() == 10 + BUDGET
        assert [told(one) for one in await quick.waiting()] == [modern_result(1)]
        for peer in (slow, hard):
            assert [told(one) for one in await peer.waiting()] == [error(1, -32603)]


async def test_draining_an_empty_manager() -> None:
    async with manager_of() as manager:
        with assert_checkpoints():
            assert await manager.drain() == DrainReport()


async def test_leaving_the_block_drains(autojump_clock: MockClock) -> None:
    async with manager_of(drain_grace=30) as manager:
        finishing = await manager.create_session()
        finishing.start_soon(trio.sleep, 20)
        endless = await manager.create_session()
        endless.start_soon(trio.sleep_forever)
    assert trio.current_time() == 30
    assert not finishing._work_cancelled
    assert endless._work_cancelled


class Steps(trio.abc.Instrument):
    """Counts how many sessions one step of one task ends."""

    def __init__(self, sessions: list[Session]) -> None:
        self.sessions = sessions
        self.ended = 0
        self.sizes: list[int] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        ended = sum(one.termination_reason is not None for one in self.sessions)
        if ended > self.ended:
            self.sizes.append(ended - self.ended)
        self.ended = ended


@pytest.mark.parametrize("busy", [False, True])
async def test_many_sessions_are_ended_in_batches(autojump_clock: MockClock, *, busy: bool) -> None:
    async with manager_of() as manager:
        sessions = [await manager.create_session() for _ in range(3 * BATCH + 7)]
        if busy:
            for session in sessions:
                session._begin_work()
        steps = Steps(sessions)
        trio.lowlevel.add_instrument(steps)
        report = await manager.drain(grace=2)
        trio.lowlevel.remove_instrument(steps)
        assert steps.sizes == [BATCH] * 3 + [7]
        ids = tuple(session.session_id for session in sessions)
        assert report == (DrainReport(cancelled=ids) if busy else DrainReport(completed=ids))
        assert trio.current_time() == (2 if busy else 0)


async def test_ending_many_sessions_yields_to_other_tasks() -> None:
    async with manager_of() as manager:
        sessions = [await manager.create_session() for _ in range(BATCH)]
        with assert_checkpoints():
            await end(sessions, TerminationReason.CANCELLED)
        assert {session.termination_reason for session in sessions} == {TerminationReason.CANCELLED}


async def test_a_cancelled_drain_of_many_sessions_leaves_none_open_to_requests(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(drain_module, "REFUSED", 2)
    async with open_session_manager(Router("test")) as manager:
        sessions = [await manager.create_session() for _ in range(5)]
        with trio.CancelScope() as scope:
            scope.cancel()
            await manager.drain()
        assert scope.cancelled_caught
        assert all(session._drain_reason is TerminationReason.SHUTDOWN for session in sessions)
