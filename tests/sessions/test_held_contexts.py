"""Held contexts: a task each, entered once, left once, last one first, whatever happens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.helpers import (
    at_every_step,
    cancelled_at_step,
    connect,
    errors_of,
    leftovers,
    manager_of,
    modern,
    serving,
)
from trio_mcp_session import (
    CleanupConfig,
    CleanupFailed,
    Event,
    HeldContextEnded,
    RequestContext,
    Router,
    Session,
    SessionHooks,
    SessionManager,
    SessionState,
    SessionTerminated,
    TerminationReason,
    cleanup_resources,
    open_session_manager,
)


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[tuple[SessionManager, Session]]:
    settings.setdefault("cleanup", CleanupConfig(cleanup_budget=10))
    async with serving(Router("test"), **settings) as manager:
        session = await manager.create_session()
        yield manager, session
        session.terminate()
        await session.wait_terminated()
        assert leftovers(manager, session) == []


@attrs.define(eq=False)
class Resource:
    """A context that takes a second to enter and a second to leave, in one and the same task."""

    trace: list[str]
    name: str = "it"
    entering: float = 1
    leaving: float = 1
    entering_shielded: bool = False
    leaving_shielded: bool = False
    task: trio.lowlevel.Task | None = None
    nursery: Any = None

    async def __aenter__(self) -> str:
        self.task = trio.lowlevel.current_task()
        try:
            with trio.CancelScope(shield=self.entering_shielded):
                await trio.sleep(self.entering)
        except trio.Cancelled:
            self.trace.append(f"{self.name} given up")
            raise
        # Something that only works in the scope stack of one task.
        self.nursery = trio.open_nursery()
        await self.nursery.__aenter__()
        self.trace.append(f"{self.name} entered")
        return f"value of {self.name}"

    async def __aexit__(self, *exc_info: object) -> None:
        assert exc_info == (None, None, None)
        assert trio.lowlevel.current_task() is self.task
        await self.nursery.__aexit__(*exc_info)  # noqa: ASYNC102  # under the session's budget
        try:
            with trio.CancelScope(shield=self.leaving_shielded):
                await trio.sleep(self.leaving)  # noqa: ASYNC102  # the same
        except trio.Cancelled:
            self.trace.append(f"{self.name} cut short")
            raise
        self.trace.append(f"{self.name} left")


@attrs.define(eq=False)
class FailsToEnter(AbstractAsyncContextManager[None]):
    error: BaseException

    async def __aenter__(self) -> None:
        await trio.lowlevel.checkpoint()
        raise self.error

    async def __aexit__(self, *_: object) -> None: ...


@asynccontextmanager
async def failing_to_leave(error: BaseException) -> AsyncIterator[None]:
    yield
    await trio.lowlevel.checkpoint()
    raise error


Enter = Callable[[Session, AbstractAsyncContextManager[Any]], Awaitable[Any]]


async def from_a_foreign_task(session: Session, context: AbstractAsyncContextManager[Any]) -> Any:
    return await session.enter_async_context(context)


async def from_a_task_of_the_session(
    session: Session, context: AbstractAsyncContextManager[Any]
) -> Any:
    """Enter it in a task that is over before the context is."""
    values: list[Any] = []

    async def enter() -> None:
        # In scopes of its own, which the context must not be part of.
        with trio.CancelScope():
            async with trio.open_nursery():
                values.append(await session.enter_async_context(context))

    session.start_soon(enter)
    await trio.sleep(5)
    return values[0]


async def from_another_session(session: Session, context: AbstractAsyncContextManager[Any]) -> Any:
    values: list[Any] = []

    async def enter() -> None:
        values.append(await session.enter_async_context(context))

    async with manager_of(session).open_session() as other:
        other.start_soon(enter)
        await trio.sleep(5)
    return values[0]


async def from_a_held_context(session: Session, context: AbstractAsyncContextManager[Any]) -> Any:
    @asynccontextmanager
    async def nested() -> AsyncIterator[Any]:
        yield await session.enter_async_context(context)

    return await session.enter_async_context(nested())


@pytest.mark.parametrize(
    "enter",
    [from_a_foreign_task, from_a_task_of_the_session, from_another_session, from_a_held_context],
)
async def test_held_until_the_session_ends_and_left_last_one_first(
    enter: Enter, autojump_clock: MockClock
) -> None:
    trace: list[str] = []
    async with opened() as (_, session):
        for name in ("one", "two", "three"):
            assert await enter(session, Resource(trace, name)) == f"value of {name}"
        await trio.sleep(50)
        assert trace == ["one entered", "two entered", "three entered"]
        del trace[:]
        assert not session.busy
        session.terminate()
        await session.wait_terminated()
        assert trace == ["three left", "two left", "one left"]
        assert session.error is None


async def test_entered_in_a_handler(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    router = Router("test")

    @router.request("hold")
    async def hold(ctx: RequestContext) -> dict[str, str]:
        return {"value": await ctx.session.enter_async_context(Resource(trace))}

    async with serving(router) as manager:
        client = await connect(manager)
        await client.establish()
        answer = await client.ask(1, "hold")
        assert answer["result"] == {"value": "value of it"}
        assert trace == ["it entered"]
        await client.channel.aclose()
        await client.session.wait_terminated()
        assert trace == ["it entered", "it left"]
        assert leftovers(manager, client.session) == []


async def test_entering_is_a_checkpoint() -> None:
    trace: list[str] = []
    async with opened() as (_, session):
        with assert_checkpoints():
            await session.enter_async_context(Resource(trace, entering=0, leaving=0))


async def test_held_context_is_still_there_while_the_work_ends(autojump_clock: MockClock) -> None:
    trace: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            trace.append("work ended")

    async with opened() as (_, session):
        session.start_soon(work)
        await session.enter_async_context(Resource(trace))
        session.terminate()
        await session.wait_terminated()
        assert trace == ["it entered", "work ended", "it left"]


async def test_of_an_ended_session() -> None:
    trace: list[str] = []
    async with opened() as (_, session):
        session.terminate()
        for _ in range(2):
            with pytest.raises(SessionTerminated):
                await session.enter_async_context(Resource(trace))
            await session.wait_terminated()
        assert trace == []


# Failing


@pytest.mark.parametrize(
    "error", [ValueError("no"), ExceptionGroup("two", [ValueError(), KeyError()])]
)
async def test_a_context_that_fails_to_enter_raises_in_its_caller_and_keeps_the_session(
    error: Exception,
) -> None:
    """It is the caller's error, as it is; the session continues."""
    async with opened() as (_, session):
        with pytest.raises(type(error)) as caught:
            await session.enter_async_context(FailsToEnter(error))
        assert caught.value is error
        assert session.state is SessionState.ACTIVE
        assert session.error is None
        assert not session._held


async def test_contexts_that_fail_to_exit_are_reported_as_failed_cleanups(
    autojump_clock: MockClock,
) -> None:
    trace: list[str] = []
    errors = [ValueError("no"), ExceptionGroup("two", [ValueError(), KeyError()])]
    reported: list[Exception] = []

    async def on_error(session: Session, error: Exception) -> None:
        reported.append(error)

    async with opened(hooks=SessionHooks(on_error=on_error)) as (_, session):
        await session.enter_async_context(Resource(trace, "one"))
        for error in errors:
            await session.enter_async_context(failing_to_leave(error))
        await session.enter_async_context(Resource(trace, "two"))
        with session.subscribe() as events:
            session.terminate()
            assert await session.wait_terminated() is TerminationReason.REQUESTED
            told = errors_of(taken(events))
        assert trace[2:] == ["two left", "one left"]
        assert told == reported
        assert [error.__cause__ for error in reported] == errors[::-1]
        for report in reported:
            assert isinstance(report, CleanupFailed)
            assert report.what.endswith("failing_to_leave")
        assert isinstance(session.error, ExceptionGroup)
        assert list(session.error.exceptions) == reported


def taken(subscription: trio.abc.ReceiveChannel[Any]) -> list[Event]:
    events: list[Event] = []
    while True:
        try:
            events.append(subscription.receive_nowait())  # type: ignore[attr-defined]  # a EventStream
        except (trio.WouldBlock, trio.EndOfChannel):
            return events


async def test_an_interrupt_in_the_exit_of_a_context_still_exits_the_others(
    autojump_clock: MockClock,
) -> None:
    trace: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        async with open_session_manager() as manager:
            session = await manager.create_session()
            await session.enter_async_context(Resource(trace))
            await session.enter_async_context(failing_to_leave(KeyboardInterrupt()))
            session.terminate()
            await trio.sleep_forever()
    assert trace == ["it entered", "it left"]


async def test_context_of_one_session_does_not_disturb_another() -> None:
    async with opened() as (manager, session):
        other = await manager.create_session()
        await other.enter_async_context(failing_to_leave(ValueError()))
        other.terminate()
        await other.wait_terminated()
        assert other.error is not None
        assert session.state is SessionState.ACTIVE
        assert session.error is None


# Taking too long

BUDGETS = CleanupConfig(cleanup_budget=10)


async def test_leaving_over_the_budget(autojump_clock: MockClock) -> None:
    """All contexts share it; the last ones to be left get no time, but their turn."""
    trace: list[str] = []
    async with opened(cleanup=BUDGETS) as (_, session):
        for name, leaving in (("three", 1), ("two", 7), ("one", 6)):
            await session.enter_async_context(Resource(trace, name, 0, leaving))
        del trace[:]
        session.terminate()
        await session.wait_terminated()
        assert trio.current_time() == 10
        assert trace == ["one left", "two cut short", "three cut short"]
        assert isinstance(session.error, ExceptionGroup)
        assert [str(error) for error in session.error.exceptions] == [
            "clean-up failed: Resource ran over its budget"
        ] * 2


async def test_leaving_that_refuses_to_be_cut_short(autojump_clock: MockClock) -> None:
    """It is waited for, and what was entered before is left after it."""
    trace: list[str] = []
    async with opened(cleanup=BUDGETS) as (manager, session):
        await session.enter_async_context(Resource(trace, "one", 0, 0))
        await session.enter_async_context(Resource(trace, "two", 0, 50, leaving_shielded=True))
        session.terminate()
        await trio.sleep(49)
        assert session.state is SessionState.TERMINATING
        assert manager.sessions() == [session]
        assert session._running_tasks() == ("held context", "held context")
        await session.wait_terminated()
        assert trio.current_time() == 50
        assert trace[2:] == ["two left", "one cut short"]


# Ending while it is entered


@pytest.mark.parametrize("enter", [from_a_foreign_task, from_a_held_context])
@pytest.mark.parametrize("shielded", [False, True])
async def test_session_ends_while_entering(
    enter: Enter, shielded: bool, autojump_clock: MockClock
) -> None:
    trace: list[str] = []
    async with opened(cleanup=BUDGETS) as (_, session):
        await session.enter_async_context(Resource(trace, "before", 0))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def enter_it() -> None:
                with pytest.raises(SessionTerminated) as caught:
                    await enter(session, Resource(trace, "it", 3, entering_shielded=shielded))
                assert caught.value.reason is TerminationReason.REVOKED

            await wait_all_tasks_blocked()
            session.terminate(TerminationReason.REVOKED)
            await session.wait_terminated()
        if shielded:
            assert trace == ["before entered", "it entered", "it left", "before left"]
        else:
            assert trace == ["before entered", "it given up", "before left"]


async def test_session_ends_while_a_task_of_it_enters(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    async with opened() as (_, session):
        session.start_soon(session.enter_async_context, Resource(trace, "it", 3))
        await wait_all_tasks_blocked()
        session.terminate()
        await session.wait_terminated()
        assert trace == ["it given up"]
        assert session.error is None


async def test_an_entry_that_overruns_its_cancellation_is_cut_and_reported(
    autojump_clock: MockClock,
) -> None:
    trace: list[str] = []
    async with opened(cleanup=BUDGETS) as (_, session):
        with trio.move_on_after(1):
            await session.enter_async_context(Resource(trace, "it", 20, entering_shielded=True))
        assert trace == ["it entered", "it cut short"]
        assert trio.current_time() == 20
        assert isinstance(session.error, CleanupFailed)
        assert session.state is SessionState.ACTIVE


async def test_a_caller_cancelled_at_any_step_of_entering_leaves_no_held_context(
    autojump_clock: MockClock,
) -> None:
    """What was entered is left again before the call raises, and not in a cancelled scope."""
    async with opened() as (_, session):

        async def attempt(step: int) -> bool:
            trace: list[str] = []
            values: list[str] = []
            with cancelled_at_step(step):
                values.append(await session.enter_async_context(Resource(trace)))
            if values:
                assert trace == ["it entered"]
            else:
                assert trace in ([], ["it given up"], ["it entered", "it left"])
                assert not session._held
            return bool(values)

        assert await at_every_step(attempt) > 2
        assert session.error is None
        assert session.state is SessionState.ACTIVE


async def test_cancelled_when_it_is_just_entered(autojump_clock: MockClock) -> None:
    """It is left with its budget, not in a cancelled scope."""
    trace: list[str] = []
    go_on = trio.Event()

    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        await go_on.wait()
        trace.append("entered")
        yield
        await trio.sleep(1)
        trace.append("left")

    async def enter(session: Session, scope: trio.CancelScope) -> None:
        with scope:
            await session.enter_async_context(context())

    async with opened() as (_, session):
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter, session, scope)
            await wait_all_tasks_blocked()
            assert session._held is not None
            (holder,) = session._held._holders
            # The context continues, and is told to give up before it comes to it.
            go_on.set()
            holder.entering.cancel()
            scope.cancel()
        assert scope.cancelled_caught
        assert trace == ["entered", "left"]
        assert session.error is None
        assert not session._held


# Leaving early


async def test_a_session_continues_after_an_early_cleanup(autojump_clock: MockClock) -> None:
    trace: list[str] = []
    async with opened() as (_, session):
        await cleanup_resources(session)
        await session.enter_async_context(Resource(trace, "one"))
        await session.enter_async_context(Resource(trace, "two"))
        with assert_checkpoints():
            await cleanup_resources(session)
        assert trace[2:] == ["two left", "one left"]
        assert session.state is SessionState.ACTIVE
        del trace[:]
        await session.enter_async_context(Resource(trace, "three"))
        session.terminate()
        await session.wait_terminated()
        assert trace == ["three entered", "three left"]


async def test_entering_while_the_others_are_left_early(autojump_clock: MockClock) -> None:
    """What is being entered is not held yet, so it stays."""
    trace: list[str] = []
    async with opened() as (_, session):
        await session.enter_async_context(Resource(trace, "one", leaving=5))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.enter_async_context, Resource(trace, "two", entering=50))
            await wait_all_tasks_blocked()
            await cleanup_resources(session)
            assert trace == ["one entered", "one left"]
        assert trace[2:] == ["two entered"]


async def test_contexts_exit_once_when_the_session_ends_during_an_early_cleanup(
    autojump_clock: MockClock,
) -> None:
    """Each is left once, and the session's end waits for it."""
    trace: list[str] = []
    async with opened() as (_, session):
        await session.enter_async_context(Resource(trace, "one"))
        await session.enter_async_context(Resource(trace, "two", leaving=5))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cleanup_resources, session)
            await trio.sleep(1)
            session.terminate()
            await session.wait_terminated()
        assert trace[2:] == ["two left", "one left"]


# Contexts that end before their session.


@asynccontextmanager
async def with_a_task(async_fn: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """A context with a nursery of its own, as many clients of services have."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(async_fn)
        yield


async def test_a_held_context_that_fails_ends_its_session(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("the connection is lost")

    async def fail() -> None:
        await trio.sleep(5)
        raise error

    async with serving(Router("test")) as manager:
        neighbour = await manager.create_session()
        session = await manager.create_session()
        with session.subscribe() as events:
            await session.enter_async_context(with_a_task(fail))
            assert await session.wait_terminated() is TerminationReason.CRASHED
            (report,) = errors_of(taken(events))
        assert trio.current_time() == 5
        assert isinstance(report, HeldContextEnded)
        assert report.context == "with_a_task"
        assert "with_a_task ended before its session" in str(report)
        assert session.error is report.__cause__
        with pytest.RaisesGroup(ValueError):
            raise session.error or AssertionError
        assert neighbour.state is SessionState.ACTIVE
        neighbour.terminate()
        await neighbour.wait_terminated()
        assert leftovers(manager, session) == []
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "the connection is lost" in caplog.text


async def test_a_held_context_that_ends_without_an_error_ends_its_session_too(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def gives_up() -> AsyncIterator[None]:
        with trio.move_on_after(5):  # noqa: ASYNC100  # the session waits in it
            yield

    async with serving(Router("test")) as manager:
        session = await manager.create_session()
        await session.enter_async_context(gives_up())
        assert await session.wait_terminated() is TerminationReason.CRASHED
        assert trio.current_time() == 5
        assert isinstance(session.error, HeldContextEnded)
        with pytest.raises(SessionTerminated) as caught:
            session.start_soon(trio.sleep, 1)
        assert caught.value.__cause__ is session.error


async def test_what_fails_while_a_cancelled_entering_is_undone_is_reported(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("while it was undone")

    @asynccontextmanager
    async def fails_to_stop() -> AsyncIterator[None]:
        try:
            await trio.sleep(100)
            yield  # pragma: no cover  # it does not come to that
        finally:
            raise error

    async with opened() as (_, session):
        with session.subscribe() as events:
            with trio.move_on_after(1):
                await session.enter_async_context(fails_to_stop())
            (report,) = errors_of(taken(events))
        assert isinstance(report, CleanupFailed)
        assert report.__cause__ is error
        assert session.state is SessionState.ACTIVE


# Where they run.


async def test_held_contexts_are_children_of_the_sessions_own_nursery() -> None:
    async with opened() as (manager, session):
        before = set(manager._sessions_nursery.child_tasks)
        await session.enter_async_context(Resource([], entering=0, leaving=0))
        assert session._held is not None
        (task,) = session._held.tasks
        assert task.parent_nursery is session._nursery
        assert manager._sessions_nursery.child_tasks == before


@pytest.mark.parametrize("how", ["hook", "lifespan", "other task"])
async def test_contexts_held_before_the_session_is_open(
    how: str, autojump_clock: MockClock
) -> None:
    """They run in a nursery of the session's task, around that of the session."""
    trace: list[str] = []
    parents: list[trio.lowlevel.Task | None] = []

    async def hold(session: Session) -> None:
        await session.enter_async_context(Resource(trace))
        assert session._held is not None
        (task,) = session._held.tasks
        assert task.parent_nursery is not None
        parents.append(task.parent_nursery.parent_task)

    @asynccontextmanager
    async def lifespan(session: Session) -> AsyncIterator[None]:
        if how == "lifespan":
            await hold(session)
        trace.append("lifespan entered")
        yield
        trace.append("lifespan left")

    hooks = SessionHooks(on_session_created=hold if how == "hook" else None)
    async with serving(Router("test", lifespan=lifespan), hooks=hooks) as manager:
        if how == "other task":
            await connect(manager)  # It never says hello.
            (session,) = manager.sessions()
            await hold(session)
            expected = ["it entered", "it left"]
        else:
            session = await manager.create_session(lifespan=lifespan)
            expected = ["it entered", "lifespan entered", "it left", "lifespan left"]
            if how == "hook":
                # It was entered first, and is left before the lifespan all the same.
                expected = ["it entered", "lifespan entered", "it left", "lifespan left"]
        task = session._task
        session.terminate()
        await session.wait_terminated()
        assert trace == expected
        assert parents == [task]
        assert leftovers(manager, session) == []


async def test_an_idle_session_whose_hooks_hold_nothing_has_one_nursery() -> None:
    async def created(session: Session) -> None:
        await trio.lowlevel.checkpoint()

    hooks = SessionHooks(on_session_created=created)
    async with serving(Router("test"), hooks=hooks) as manager:
        session = await manager.create_session()
        assert session._task is not None
        assert session._task.child_nurseries == [session._nursery]


async def test_a_hook_before_the_handshake_may_have_its_session_hold_a_context(
    autojump_clock: MockClock,
) -> None:
    """A client of 2026-07-28 on a pipe never opens the session, but is active."""
    trace: list[str] = []

    async def changed(session: Session, old: SessionState, new: SessionState) -> None:
        if new is SessionState.ACTIVE:
            await session.enter_async_context(Resource(trace))

    hooks = SessionHooks(on_state_changed=changed)
    async with serving(Router("test"), hooks=hooks) as manager:
        peer = await connect(manager)
        await peer.send(modern(1, "server/discover"))
        await trio.sleep(2)
        assert trace == ["it entered"]
        peer.session.terminate()
        await peer.session.wait_terminated()
        assert trace == ["it entered", "it left"]
        assert leftovers(manager, peer.session) == []


@pytest.mark.parametrize("leaving", [ValueError("first"), SystemExit(1)])
async def test_a_context_that_fails_to_exit_does_not_stop_the_exit_of_others(
    leaving: BaseException, autojump_clock: MockClock
) -> None:
    trace: list[str] = []
    async with serving(Router("test")) as manager:
        session = await manager.create_session()
        await session.enter_async_context(Resource(trace, "older"))
        await session.enter_async_context(failing_to_leave(leaving))
        await session.enter_async_context(Resource(trace, "younger"))
        trace.clear()
        session.terminate()
        await session.wait_terminated()
        assert trace == ["younger left", "older left"]
        assert isinstance(session.error, CleanupFailed)
        assert leftovers(manager, session) == []


async def test_contexts_that_a_hook_holds_are_left_without_a_lifespan_too(
    autojump_clock: MockClock,
) -> None:
    trace: list[str] = []

    async def hold(session: Session) -> None:
        await session.enter_async_context(Resource(trace))

    hooks = SessionHooks(on_session_created=hold)
    async with serving(Router("test"), hooks=hooks) as manager:
        session = await manager.create_session()
        assert trace == ["it entered"]
        session.terminate()
        await session.wait_terminated()
        assert trace == ["it entered", "it left"]
        assert leftovers(manager, session) == []


async def test_two_contexts_are_held_at_once_before_the_session_is_open(
    autojump_clock: MockClock,
) -> None:
    trace: list[str] = []
    async with serving(Router("test")) as manager:
        await connect(manager)
        (session,) = manager.sessions()
        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(session.enter_async_context, Resource(trace, name))
        session.terminate()
        await session.wait_terminated()
        assert sorted(trace[:2]) == ["one entered", "two entered"]
        assert sorted(trace[2:]) == ["one left", "two left"]
