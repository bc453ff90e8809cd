"""Tasks of a session: joined before it is over, counted, contained, started."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

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
    errors_of,
    events_so_far,
    leftovers,
    serving,
)
from trio_mcp_session import (
    CleanupConfig,
    Disconnected,
    Error,
    ExitRequested,
    Router,
    Session,
    SessionHooks,
    SessionManager,
    SessionState,
    SessionTerminated,
    TaskCrashed,
    TerminationReason,
    open_session_manager,
)


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[tuple[SessionManager, Session]]:
    async with serving(Router("test"), **settings) as manager:
        session = await manager.create_session()
        yield manager, session
        for one in manager.sessions():
            one.terminate()
            await one.wait_terminated()
        assert leftovers(manager, session) == []


# start_soon


async def test_start_soon_runs_work_in_the_session() -> None:
    ran: list[tuple[tuple[object, ...], str]] = []

    async def work(*args: object) -> None:
        ran.append((args, trio.lowlevel.current_task().name))

    async with opened() as (_, session):
        with assert_no_checkpoints():
            session.start_soon(work, 1, "two")
            session.start_soon(work, name="special")
            session.start_soon(partial(work, 3))
        assert ran == []
        assert session._busy == 3
        await wait_all_tasks_blocked()
        assert session._busy == 0
    check_what_ran(ran)


def check_what_ran(ran: list[tuple[tuple[object, ...], str]]) -> None:
    assert sorted((args for args, _ in ran), key=len) == [(), (3,), (1, "two")]
    names = [name for _, name in ran]
    assert sum(name.startswith("functools.partial(") for name in names) == 1
    assert {name for name in names if "partial" not in name} == {
        "test_start_soon_runs_work_in_the_session.<locals>.work",
        "special",
    }


async def test_work_is_cancelled_and_joined_first(autojump_clock: MockClock) -> None:
    trace: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)  # It outlives every budget, and is waited for all the same.
            trace.append("work ended")

    async with opened() as (manager, session):
        session.start_soon(work)
        session.start_soon(work, service=True)
        await wait_all_tasks_blocked()
        session.terminate()
        await trio.sleep(99)
        assert session.state is SessionState.TERMINATING
        assert manager.sessions() == [session]
        await session.wait_terminated()
        assert trio.current_time() == 100
        assert trace == ["work ended"] * 2


async def test_a_service_task_does_not_keep_its_session_from_being_idle(
    autojump_clock: MockClock,
) -> None:
    cleanup = CleanupConfig(idle_after=5, max_idle_time=20, cleanup_interval=0)
    async with opened(cleanup=cleanup) as (_, session):
        session.start_soon(trio.sleep_forever, service=True)
        assert not session.busy
        await session.wait_terminated()
        assert session.termination_reason is TerminationReason.IDLE
        assert trio.current_time() == 20


async def test_service_does_not_hold_up_a_drain_but_work_does(autojump_clock: MockClock) -> None:
    trace: list[tuple[str, float]] = []

    async def work(name: str, seconds: float) -> None:
        try:
            await trio.sleep(seconds)
        finally:
            trace.append((name, trio.current_time()))

    async with opened() as (_, session):
        session.start_soon(work, "service", 1000, service=True)
        session.start_soon(work, "work", 3)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(session.drain, grace=10))
            await wait_all_tasks_blocked()
            session.start_soon(work, "late service", 1000, service=True)
        assert [name for name, _ in trace[:1]] == ["work"]
        assert sorted(trace) == [("late service", 3), ("service", 3), ("work", 3)]


async def test_start_soon_of_an_ended_session() -> None:
    async with opened() as (_, session):
        session.terminate(TerminationReason.EVICTED)
        for _ in range(2):
            with pytest.raises(SessionTerminated) as caught:
                session.start_soon(trio.sleep_forever)
            assert caught.value.reason is TerminationReason.EVICTED
            with pytest.raises(SessionTerminated):
                await session.start(trio.sleep_forever)
            await session.wait_terminated()


async def test_start_soon_in_the_lifespan() -> None:
    """There is no nursery yet: it begins when there is one."""
    trace: list[str] = []

    async def work(name: str) -> None:
        trace.append(name)
        await trio.sleep_forever()

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        with assert_no_checkpoints():
            session.start_soon(work, "work")
            session.start_soon(work, "service", service=True)
        with pytest.raises(RuntimeError, match="not open yet"):
            await session.start(work, "none")
        await wait_all_tasks_blocked()
        trace.append("entered")
        yield

    async with opened() as (manager, _):
        session = await manager.create_session(lifespan=lifespan)
        assert session.busy
        await wait_all_tasks_blocked()
        assert trace[0] == "entered"
        assert sorted(trace[1:]) == ["service", "work"]


# Crashes


@pytest.mark.parametrize("service", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("bare"),
        ExceptionGroup("group", [ValueError(), ExceptionGroup("inner", [KeyError(), OSError()])]),
    ],
    ids=["bare", "group"],
)
async def test_crash_ends_the_session_and_no_sibling(error: Exception, service: bool) -> None:
    reported: list[tuple[Session, Exception]] = []

    async def on_error(session: Session, report: Exception) -> None:
        reported.append((session, report))

    async def crash() -> None:
        raise error

    async with opened(hooks=SessionHooks(on_error=on_error)) as (manager, session):
        sibling = await manager.create_session()
        sibling.start_soon(trio.sleep_forever)
        with manager.subscribe() as events:
            session.start_soon(crash, name="failing_task", service=service)
            assert await session.wait_terminated() is TerminationReason.CRASHED
            told = [await events.receive()]
            while not isinstance(told[-1], Disconnected):
                told.append(await events.receive())
        assert session.error is error
        assert session.metrics.errors == 1
        ((crashed, report),) = reported
        assert crashed is session
        assert isinstance(report, TaskCrashed)
        assert report.task == "failing_task"
        assert report.__cause__ is error
        assert [event.error for event in told if isinstance(event, Error)] == [report]
        assert isinstance(told[-1], Disconnected)
        assert told[-1].error is error
        await wait_all_tasks_blocked()
        assert sibling.state is SessionState.ACTIVE
        assert sibling.busy


async def test_several_crashes_are_all_kept() -> None:
    async def crash(error: Exception) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async with opened() as (_, session):
        session.start_soon(crash, ValueError("one"))
        session.start_soon(crash, KeyError("other"))
        await wait_all_tasks_blocked()
        session.terminate()
        assert await session.wait_terminated() is TerminationReason.REQUESTED
        assert isinstance(session.error, ExceptionGroup)
        assert {type(one) for one in session.error.exceptions} == {ValueError, KeyError}


async def test_crash_beside_a_cancellation() -> None:
    """The error of a group reaches every waiter, its cancellations go where they belong."""
    error = ValueError("at the end")
    reported: list[Exception] = []

    async def on_error(session: Session, report: Exception) -> None:
        reported.append(report)

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            nursery.start_soon(trio.sleep_forever)

    trace: list[type[BaseException] | None] = []

    class Lifespan:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
            trace.append(kind)

    async with opened(hooks=SessionHooks(on_error=on_error)) as (manager, _):
        session = await manager.create_session(lifespan=lambda session: Lifespan())
        session.start_soon(work)
        await wait_all_tasks_blocked()
        session.terminate()
        assert await session.wait_terminated() is TerminationReason.REQUESTED
        (report,) = reported
        assert isinstance(report, TaskCrashed)
        with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
            raise report.__cause__ or report
        assert session.error is report.__cause__
        assert trace == [None]


async def test_cancelled_tasks_do_not_crash_the_session() -> None:
    async def group_of_cancellations() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            raise BaseExceptionGroup("only these", [error]) from None  # noqa: ASYNC104  # it is

    async with opened() as (_, session):
        session.start_soon(group_of_cancellations)
        await wait_all_tasks_blocked()
        session.terminate()
        await session.wait_terminated()
        assert session.error is None
        assert session.metrics.errors == 0


@pytest.mark.parametrize("inside", [[], [ValueError("beside")]])
async def test_sys_exit_in_a_task_ends_its_session_only(inside: list[Exception]) -> None:
    async def leave() -> None:
        if inside:
            raise BaseExceptionGroup("both", [SystemExit(3), *inside])
        sys.exit(3)

    async with open_session_manager() as manager:
        neighbour = await manager.create_session()
        session = await manager.create_session()
        session.start_soon(leave)
        assert await session.wait_terminated() is TerminationReason.CRASHED
        assert isinstance(session.error, ExitRequested)
        assert neighbour.state is SessionState.ACTIVE


async def test_an_interrupt_in_a_task_ends_the_manager() -> None:
    sessions: list[Session] = []

    async def interrupt() -> None:
        raise BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError("beside")])

    with pytest.raises(KeyboardInterrupt):
        async with open_session_manager() as manager:
            session = await manager.create_session()
            sessions.append(session)
            session.start_soon(interrupt)
            await trio.sleep_forever()
    (session,) = sessions
    assert session.state is SessionState.TERMINATED
    assert session.termination_reason is TerminationReason.CRASHED
    assert session.error is not None
    with pytest.RaisesGroup(ValueError):
        raise session.error


# start


async def serve(
    value: object = None, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
) -> None:
    await trio.sleep(1)
    task_status.started(value)
    await trio.sleep_forever()


@pytest.mark.parametrize("service", [False, True])
async def test_start_returns_the_value(service: bool, autojump_clock: MockClock) -> None:
    async with opened() as (_, session):
        with assert_checkpoints():
            assert await session.start(serve, "value", name="server", service=service) == "value"
        assert trio.current_time() == 1
        assert session.busy is not service
        assert session._running_tasks() == ("server",)


async def test_start_raises_what_the_task_raises_before_it_is_up() -> None:
    error = ValueError("no")

    async def fail(*, task_status: trio.TaskStatus[None]) -> None:
        raise error

    async with opened() as (_, session):
        with assert_checkpoints():
            with pytest.raises(ValueError, match="no") as caught:
                await session.start(fail)
        assert caught.value is error
        assert session.state is SessionState.ACTIVE
        assert session.error is None
        assert not session.busy


async def test_task_that_fails_when_it_is_up_ends_the_session() -> None:
    error = ValueError("later")

    async def fail(*, task_status: trio.TaskStatus[int]) -> None:
        task_status.started(1)
        raise error

    async with opened() as (_, session):
        assert await session.start(fail) == 1
        assert await session.wait_terminated() is TerminationReason.CRASHED
        assert session.error is error


async def test_task_that_returns_without_being_up() -> None:
    async def silent(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128  # so it is
        await trio.lowlevel.checkpoint()

    async with opened() as (_, session):
        with pytest.raises(RuntimeError, match="silent one returned without calling"):
            await session.start(silent, name="silent one")
        assert session.state is SessionState.ACTIVE


async def test_a_task_that_calls_started_twice_gets_an_error() -> None:
    async def twice(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        with pytest.raises(RuntimeError, match="twice"):
            task_status.started()

    async with opened() as (_, session):
        await session.start(twice)
        await wait_all_tasks_blocked()
        assert session.state is SessionState.ACTIVE


async def start_and_end(session: Session, act: Callable[[], object]) -> BaseException:
    """Start a task that never comes up, do something meanwhile, return what start raised."""
    caught: list[BaseException] = []

    async def never_up(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128  # so it is
        await trio.sleep_forever()

    async def starter() -> None:
        with pytest.raises(SessionTerminated) as raised:
            await session.start(never_up, service=True)
        caught.append(raised.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(starter)
        await wait_all_tasks_blocked()
        act()
    return caught[0]


async def test_session_ends_while_a_task_starts() -> None:
    async with opened() as (_, session):
        error = await start_and_end(session, partial(session.terminate, TerminationReason.REVOKED))
        assert isinstance(error, SessionTerminated)
        assert error.reason is TerminationReason.REVOKED


async def test_session_drains_while_a_service_starts(autojump_clock: MockClock) -> None:
    async with opened() as (_, session):

        def begin_to_drain() -> None:
            session._refuse_requests(TerminationReason.SHUTDOWN)
            session._finish_work()

        error = await start_and_end(session, begin_to_drain)
        assert isinstance(error, SessionTerminated)
        assert error.reason is TerminationReason.SHUTDOWN


async def test_interrupt_while_a_task_starts() -> None:
    async def interrupt(*, task_status: trio.TaskStatus[None]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with open_session_manager() as manager:
            session = await manager.create_session()
            with pytest.raises(SessionTerminated) as caught:
                await session.start(interrupt)
            assert caught.value.reason is TerminationReason.CRASHED
            await trio.sleep_forever()


async def test_cancelled_start_joins_a_shielded_task(autojump_clock: MockClock) -> None:
    """Also one that comes up in spite of it: its value would reach no task."""
    trace: list[tuple[str, float]] = []

    async def stubborn(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
                task_status.started()
                await trio.sleep(2)
            await trio.sleep_forever()
        finally:
            trace.append(("ended", trio.current_time()))

    async with opened() as (_, session):
        with trio.move_on_after(1) as scope:
            await session.start(stubborn)
        assert scope.cancelled_caught
        assert trace == [("ended", 4)]
        assert session.state is SessionState.ACTIVE
        assert session.error is None


async def test_cancelled_when_the_task_is_just_up(autojump_clock: MockClock) -> None:
    """The caller knows nothing of it, so it must not continue."""
    running: list[str] = []

    async def work(up: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        running.append("work")
        try:
            await up.wait()
            task_status.started()
            await trio.sleep_forever()
        finally:
            running.pop()

    async def starter(session: Session, up: trio.Event, scope: trio.CancelScope) -> None:
        with scope:
            await session.start(work, up)

    async with opened() as (_, session):
        async with trio.open_nursery() as nursery:
            up, scope = trio.Event(), trio.CancelScope()
            nursery.start_soon(starter, session, up, scope)
            await wait_all_tasks_blocked()
            # In this order: the caller's cancellation is on its way when the task comes up.
            scope.cancel()
            up.set()
        assert scope.cancelled_caught
        assert running == []
        assert not session.busy


@pytest.mark.parametrize("service", [False, True])
async def test_a_start_cancelled_at_any_step_leaves_no_task(
    service: bool, autojump_clock: MockClock
) -> None:
    running: list[str] = []

    async def work(*, task_status: trio.TaskStatus[str]) -> None:
        running.append("work")
        try:
            await trio.sleep(1)
            await trio.sleep(1)
            task_status.started("up")
            await trio.sleep_forever()
        finally:
            running.pop()

    async with opened() as (_, session):

        async def attempt(step: int) -> bool:
            values: list[str] = []
            with cancelled_at_step(step):
                values.append(await session.start(work, service=service))
            assert running == ["work"] * len(values)
            assert session.busy == bool(values and not service)
            return bool(values)

        assert await at_every_step(attempt) > 2
        assert running == ["work"]
        assert session.state is SessionState.ACTIVE


async def test_what_fails_while_a_cancelled_start_is_undone_is_reported(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("while it was undone")

    async def fails_to_stop(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128  # never up
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async with opened() as (_, session):
        with session.subscribe() as events:
            with trio.move_on_after(1) as scope:
                await session.start(fails_to_stop)
            assert scope.cancelled_caught
            (report,) = errors_of(events_so_far(events))
        assert isinstance(report, TaskCrashed)
        assert report.__cause__ is error
        assert session.state is SessionState.ACTIVE


async def test_sys_exit_before_a_task_has_started_is_the_callers() -> None:
    async def leave(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128  # never up
        await trio.lowlevel.checkpoint()
        sys.exit(2)

    async with opened() as (_, session):
        with pytest.raises(ExitRequested) as caught:
            await session.start(leave)
        assert isinstance(caught.value.__cause__, SystemExit)
        assert session.state is SessionState.ACTIVE


async def test_a_failure_beside_a_cancellation_before_a_task_has_started(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("beside")

    async def fails(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128  # never up
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise error

    async with opened() as (_, session):
        with session.subscribe() as events:
            with trio.move_on_after(1):
                await session.start(fails)
            (report,) = errors_of(events_so_far(events))
        assert isinstance(report, TaskCrashed)
        assert session.state is SessionState.ACTIVE


async def test_the_session_that_a_crash_ended_says_so_to_later_callers() -> None:
    error = ValueError("it broke")

    async def fail() -> None:
        raise error

    async with open_session_manager() as manager:
        session = await manager.create_session()
        session.start_soon(fail)
        await session.wait_terminated()
        with pytest.raises(SessionTerminated) as caught:
            await session.start(serve)
        assert caught.value.__cause__ is error


async def test_a_failure_before_a_task_has_started_when_its_session_ends(
    autojump_clock: MockClock,
) -> None:
    async def fails(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128  # never up
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("on the way out")

    async with serving(Router("test")) as manager:
        session = await manager.create_session()
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                await trio.sleep(1)
                session.terminate()

            nursery.start_soon(end)
            with pytest.RaisesGroup(ValueError):
                await session.start(fails)
        await session.wait_terminated()
        assert leftovers(manager, session) == []
