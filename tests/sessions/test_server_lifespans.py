"""The lifespan of the whole server: open around all sessions and requests of a manager."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

import pytest
import trio
from hypothesis import HealthCheck, given, settings, strategies as st
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints

from tests.helpers import leftovers
from trio_mcp_session import (
    CleanupConfig,
    Router,
    ServerLifespan,
    ServerLifespanFailed,
    Session,
    SessionConfig,
    SessionManager,
    TerminationReason,
    connect_memory,
    open_session_manager,
)

Stage = Callable[[SessionManager], Awaitable[object]]


async def nothing(_: SessionManager) -> None:
    await trio.lowlevel.checkpoint()


async def fail(_: SessionManager) -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("a detail")


def noting(
    notes: list[str], name: str = "pool", *, enter: Stage = nothing, leave: Stage = nothing
) -> ServerLifespan[str]:
    """A server lifespan that notes what happens to it."""

    @asynccontextmanager
    async def lifespan(manager: SessionManager) -> AsyncIterator[str]:
        await enter(manager)
        notes.append(f"{name} is open")
        try:
            yield f"value of {name}"
            notes.append(f"{name} saw no error")
        finally:
            notes.append(f"{name} is left")
            await leave(manager)  # noqa: ASYNC102
            notes.append(f"{name} is closed")

    lifespan.__qualname__ = name
    return lifespan


def sleeping(seconds: float) -> Stage:
    async def sleep(_: SessionManager) -> None:
        await trio.sleep(seconds)

    return sleep


LEFT = ["pool is open", "pool saw no error", "pool is left", "pool is closed"]


class Several:
    """An application with several lifespans."""

    def __init__(self, *lifespans: ServerLifespan[Any]) -> None:
        self.router = Router("several")
        self.server_lifespans = lifespans

    def __getattr__(self, name: str) -> Any:
        return getattr(self.router, name)


def opening(
    *lifespans: ServerLifespan[Any], clocks: CleanupConfig | None = None
) -> AbstractAsyncContextManager[SessionManager]:
    config = SessionConfig(cleanup=clocks or CleanupConfig())
    return open_session_manager(cast("Router", Several(*lifespans)), config=config)


async def test_a_server_lifespan_is_open_around_all_sessions(autojump_clock: MockClock) -> None:
    notes: list[str] = []
    pool = noting(notes)

    @asynccontextmanager
    async def of_session(session: Session) -> AsyncIterator[None]:
        notes.append(f"session has {session.server_state(pool)}")
        try:
            yield
        finally:
            await trio.sleep(1)  # noqa: ASYNC102
            notes.append(f"session had {session.server_state(pool)}")

    async with opening(pool) as manager:
        assert notes == ["pool is open"]
        with assert_no_checkpoints():
            assert manager.server_state(pool) == "value of pool"
        session = await manager.create_session(lifespan=of_session)
    assert notes == [
        "pool is open",
        "session has value of pool",
        "session had value of pool",
        *LEFT[1:],
    ]
    assert leftovers(manager, session) == []


async def test_entering_and_leaving_a_manager_with_server_lifespans_are_checkpoints() -> None:
    block = opening(noting([]))
    with assert_checkpoints():
        await block.__aenter__()
    with assert_checkpoints():
        await block.__aexit__(None, None, None)


@pytest.mark.parametrize("error", [ValueError("of the body"), KeyboardInterrupt()])
async def test_the_error_of_the_body_ends_the_sessions_first(error: BaseException) -> None:
    notes: list[str] = []
    with pytest.raises(type(error)) as raised:
        async with opening(noting(notes)) as manager:
            session = await manager.create_session()
            raise error
    assert raised.value is error
    assert notes == LEFT
    assert leftovers(manager, session) == []


async def test_several_server_lifespans_nest_and_do_not_see_each_others_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes: list[str] = []
    first, second = noting(notes, "first"), noting(notes, "second", leave=fail)
    async with opening(first, second) as manager:
        assert manager.server_state(second) == "value of second"
    assert notes == [
        *("first is open", "second is open"),
        *("second saw no error", "second is left"),
        *("first saw no error", "first is left", "first is closed"),
    ]
    (record,) = caplog.records
    assert "clean-up failed: server lifespan second: ValueError: a detail" in record.getMessage()


@pytest.mark.parametrize("twice", [False, True])
async def test_the_value_of_a_lifespan_that_is_not_open(twice: bool) -> None:
    pool, other = noting([]), noting([], "other")
    async with opening(*[pool] * (1 + twice)) as manager:
        with pytest.raises(LookupError, match="server lifespan other is not open"):
            manager.server_state(other)
    with pytest.raises(LookupError, match="server lifespan pool is not open"):
        manager.server_state(pool)


async def test_sessions_have_the_context_variables_that_a_server_lifespan_sets() -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    found: list[str] = []

    async def enter(_: SessionManager) -> None:
        tenant.set("ada")

    @asynccontextmanager
    async def of_session(_: Session) -> AsyncIterator[None]:
        found.append(tenant.get())
        yield

    async with opening(noting([], enter=enter)) as manager:
        await manager.create_session(lifespan=of_session)
    assert found == ["ada"]


async def test_the_manager_serves_nothing_before_its_lifespans_are_open() -> None:
    refused: list[str] = []

    async def enter(manager: SessionManager) -> None:
        assert not manager.ready
        for use in (manager.create_session, partial(connect_memory, manager)):
            with pytest.raises(RuntimeError) as raised:
                await cast("Any", use)()
            refused.append(str(raised.value))
        assert manager.notify_list_changed("tools").sent == 0

    async with opening(noting([], enter=enter)) as manager:
        assert manager.ready
        await manager.create_session()
    assert len(refused) == 2
    assert all("when the server's lifespan has been entered" in text for text in refused)


# Failures.


async def exits(_: SessionManager) -> None:
    await trio.lowlevel.checkpoint()
    sys.exit("no database")


@pytest.mark.parametrize(
    "enter, cause", [(fail, ValueError), (exits, SystemExit)], ids=["error", "exit"]
)
async def test_a_lifespan_that_does_not_open_keeps_the_block_from_beginning(
    enter: Stage, cause: type[BaseException]
) -> None:
    notes: list[str] = []
    first, second = noting(notes, "first"), noting(notes, "second", enter=enter)
    with pytest.raises(ServerLifespanFailed, match="server lifespan second failed to op") as raised:
        await opening(first, second).__aenter__()
    assert raised.value.opening
    assert raised.value.what == "server lifespan second"
    assert type(raised.value.__cause__) is cause
    assert notes == [line.replace("pool", "first") for line in LEFT]


async def test_a_function_that_returns_something_else_does_not_open() -> None:
    with pytest.raises(ServerLifespanFailed) as raised:
        await opening(cast("Any", lambda _manager: 3)).__aenter__()
    assert "expected an async context manager" in str(raised.value.__cause__)


async def test_a_lifespan_that_cancels_its_own_opening() -> None:
    scope = trio.CancelScope()

    async def enter(_: SessionManager) -> None:
        with scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:  # noqa: ASYNC103
                kept.append(cancelled)
        raise kept[0]

    kept: list[BaseException] = []
    with pytest.raises(ServerLifespanFailed) as raised:
        await opening(noting([], enter=enter)).__aenter__()
    assert "cancelled itself" in str(raised.value.__cause__)


async def test_a_failed_clean_up_is_logged_and_the_block_ends_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opening(noting([], leave=fail)) as manager:
        session = await manager.create_session()
    assert leftovers(manager, session) == []
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "clean-up failed: server lifespan pool: ValueError: a detail" in record.getMessage()
    assert record.exc_info is not None


async def test_all_server_lifespans_together_have_one_clean_up_budget(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    clocks = CleanupConfig(cleanup_budget=3)
    notes: list[str] = []
    first = noting(notes, "first")
    second = noting(notes, "second", leave=sleeping(60))
    began = trio.current_time()
    async with opening(first, second, clocks=clocks):
        pass
    assert trio.current_time() - began == pytest.approx(3)
    assert notes[2:] == [
        *("second saw no error", "second is left"),
        *("first saw no error", "first is left"),
    ]
    texts = [record.getMessage().partition(">: ")[2] for record in caplog.records]
    assert texts == [
        f"clean-up failed: server lifespan {name} ran over its budget"
        for name in ("second", "first")
    ]


async def test_a_shutdown_leaves_time_for_server_lifespans(autojump_clock: MockClock) -> None:
    clocks = CleanupConfig(shutdown_timeout=10, drain_grace=100, flush_budget=1)
    moments: list[float] = []
    began = trio.current_time()

    async def leave(_: SessionManager) -> None:
        moments.append(trio.current_time() - began)
        try:
            await trio.sleep(60)
        finally:
            moments.append(trio.current_time() - began)

    @asynccontextmanager
    async def of_session(_: Session) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await trio.sleep(60)  # noqa: ASYNC102

    async with opening(noting([], leave=leave), clocks=clocks) as manager:
        session = await manager.create_session(lifespan=of_session)
        session.start_soon(trio.sleep_forever)
    assert moments == pytest.approx([10 - 2 * (0.25 + 0.3), 10 - 2 * 0.05])


# While clients are served.


def crashing(notes: list[str], how: Callable[[trio.Nursery], None]) -> ServerLifespan[None]:
    """A server lifespan whose nursery is cancelled after a second."""

    async def crash(nursery: trio.Nursery) -> None:
        await trio.sleep(1)
        how(nursery)

    @asynccontextmanager
    async def pool(_: SessionManager) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash, nursery)
            yield
        notes.append("closed")

    pool.__qualname__ = "pool"
    return pool


def raises(error: BaseException) -> Callable[[trio.Nursery], None]:
    def how(_: trio.Nursery) -> None:
        raise error

    return how


async def serve(manager: SessionManager, ended: list[TerminationReason]) -> None:
    session = await manager.create_session()

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            assert session.termination_reason is not None
            ended.append(session.termination_reason)

    session.start_soon(work)
    await trio.sleep_forever()


async def test_if_a_server_lifespan_crashes_all_sessions_end_in_order(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[TerminationReason] = []
    error = ValueError("a detail")
    with pytest.raises(ServerLifespanFailed, match="failed while clients were served") as raised:
        async with opening(crashing([], raises(error))) as manager:
            await serve(manager, ended)
    assert not raised.value.opening
    assert isinstance(raised.value.__cause__, ExceptionGroup)
    assert raised.value.__cause__.exceptions == (error,)
    assert ended == [TerminationReason.CANCELLED]
    assert manager.sessions() == []
    (record,) = caplog.records
    assert record.getMessage() == "server lifespan pool cancelled its block; ending all sessions"


async def test_a_lifespan_that_cancels_its_block_ends_the_manager(
    autojump_clock: MockClock,
) -> None:
    notes: list[str] = []
    ended: list[TerminationReason] = []
    async with opening(crashing(notes, lambda it: it.cancel_scope.cancel())) as manager:
        await serve(manager, ended)
    assert ended == [TerminationReason.CANCELLED]
    assert notes == ["closed"]


async def test_an_interrupt_in_a_server_lifespan_ends_the_manager(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        async with opening(crashing([], raises(KeyboardInterrupt()))) as manager:
            await serve(manager, [])


# Cancellations and interrupts of the opening.


async def test_a_cancellation_ends_the_opening(autojump_clock: MockClock) -> None:
    notes: list[str] = []
    slow = noting(notes, "slow", enter=sleeping(60))
    began = trio.current_time()
    with trio.move_on_after(2) as scope:
        await opening(noting(notes, leave=sleeping(1)), slow).__aenter__()
    assert scope.cancelled_caught
    assert trio.current_time() - began == pytest.approx(3)
    assert notes == ["pool is open", "pool is left", "pool is closed"]


async def test_a_failure_after_a_cancelled_opening_is_raised(autojump_clock: MockClock) -> None:
    async def enter(manager: SessionManager) -> None:
        try:
            await trio.sleep(60)
        finally:
            await fail(manager)  # noqa: ASYNC102

    with trio.move_on_after(2), trio.CancelScope(shield=False):
        with pytest.raises(ServerLifespanFailed):
            await opening(noting([], enter=enter)).__aenter__()


async def test_a_cancellation_does_not_reach_into_an_open_lifespan(
    autojump_clock: MockClock,
) -> None:
    notes: list[str] = []
    with trio.move_on_after(2):
        async with opening(noting(notes, leave=sleeping(1))) as manager:
            session = await manager.create_session()
            await trio.sleep_forever()
    assert notes == LEFT
    assert session.termination_reason is TerminationReason.CANCELLED


def test_an_interrupt_ends_the_opening() -> None:
    notes: list[str] = []

    async def enter(_: SessionManager) -> None:
        trio.lowlevel.spawn_system_task(interrupt)
        try:
            await trio.sleep_forever()
        finally:
            notes.append("cancelled")

    async def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        await opening(noting(notes, enter=enter)).__aenter__()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert notes == ["cancelled"]


def test_an_interrupt_in_the_code_that_opens_a_server_lifespan() -> None:
    async def enter(_: SessionManager) -> None:
        await trio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        await opening(noting([], enter=enter)).__aenter__()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


# Values that are refused.


def test_what_cannot_be_a_server_lifespan_is_refused() -> None:
    async def function(_: SessionManager) -> None: ...

    async def generator(_: SessionManager) -> AsyncIterator[None]:  # noqa: ASYNC900
        yield  # pragma: no cover  # never called

    def plain(_: SessionManager) -> Iterator[None]:
        yield  # pragma: no cover  # never called

    for wrong in (function, generator, plain):
        with pytest.raises(TypeError, match="@asynccontextmanager"):
            Router("x", server_lifespan=cast("Any", wrong))
    with pytest.raises(TypeError, match="must be a function"):
        Router("x", server_lifespan=cast("Any", 3))


# Any of them may fail at any stage.

STAGES = st.lists(st.sampled_from(["good", "enter", "leave"]), min_size=1, max_size=4)


@given(stages=STAGES, body_fails=st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_server_lifespans_that_were_entered_are_left_once_the_last_one_first(
    stages: list[str], body_fails: bool, autojump_clock: MockClock
) -> None:
    notes: list[str] = []
    lifespans = [
        noting(
            notes,
            str(number),
            enter=fail if stage == "enter" else nothing,
            leave=fail if stage == "leave" else nothing,
        )
        for number, stage in enumerate(stages)
    ]
    opens = "enter" not in stages
    raised = ServerLifespanFailed if not opens else ValueError if body_fails else None
    began = False
    with nullcontext() if raised is None else pytest.raises(raised):
        async with opening(*lifespans):
            began = True
            if body_fails:
                await fail(cast("Any", None))
    assert began is opens
    entered = stages.index("enter") if not opens else len(stages)
    assert [note for note in notes if "open" in note] == [f"{n} is open" for n in range(entered)]
    assert [note for note in notes if "left" in note] == [
        f"{n} is left" for n in reversed(range(entered))
    ]
