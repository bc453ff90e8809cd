from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from math import inf

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from trio_mcp_session import (
    CleanupConfig,
    Router,
    ServerLifespanFailed,
    Session,
    SessionConfig,
    SessionHooks,
    SessionManager,
    TerminationReason,
)
from trio_mcp_session.cli.shutdown import Shutdown
from trio_mcp_session.cli.signals import run_until_signal
from trio_mcp_session.cli.task_report import TaskReport
from trio_mcp_session.core.config import with_shutdown_timeout

CONFIG = SessionConfig(cleanup=CleanupConfig(drain_grace=10))
SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def run(
    serve: Callable[[SessionManager], Awaitable[object]],
    *,
    config: SessionConfig = CONFIG,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
) -> int | None:
    """Serve as a program does, on the clock of the test."""
    with Shutdown(config.cleanup) as shutdown:
        return await run_until_signal(
            Router("x"),
            lambda manager, _: serve(manager),
            shutdown=shutdown,
            config=config,
            hooks=hooks,
        )


async def run_opening(
    enter: Callable[[], Awaitable[object]], leave: Callable[[], Awaitable[object]]
) -> int | None:
    """Run a program whose server lifespan may fail or take long."""

    @asynccontextmanager
    async def pool(_: SessionManager) -> AsyncIterator[None]:
        try:
            await enter()
            yield
        finally:
            await leave()  # noqa: ASYNC102

    async def serve(_: SessionManager, shutdown: Shutdown) -> None:
        await trio.lowlevel.checkpoint()

    with Shutdown(CONFIG.cleanup) as shutdown:
        router = Router("x", server_lifespan=pool)
        return await run_until_signal(router, serve, shutdown=shutdown, config=CONFIG)


class Ended:
    """Why sessions ended, as their hooks were told."""

    def __init__(self) -> None:
        self.reasons: list[TerminationReason] = []

    async def note(self, session: Session, reason: TerminationReason) -> None:
        self.reasons.append(reason)

    @property
    def hooks(self) -> SessionHooks:
        return SessionHooks(on_session_terminated=self.note)


async def test_a_signal_cancels_the_opening_of_the_server(autojump_clock: MockClock) -> None:
    began = trio.current_time()

    async def enter() -> None:
        await trio.sleep(1)
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()

    assert await run_opening(enter, trio.lowlevel.checkpoint) is None
    assert trio.current_time() - began == pytest.approx(1)


async def test_a_server_with_a_lifespan_serves() -> None:
    assert await run_opening(trio.lowlevel.checkpoint, trio.lowlevel.checkpoint) is None


async def test_a_server_that_does_not_open_fails_outside_of_a_group() -> None:
    async def enter() -> None:
        raise ValueError("a detail")

    with pytest.raises(ServerLifespanFailed) as raised:
        await run_opening(enter, trio.lowlevel.checkpoint)
    assert isinstance(raised.value.__cause__, ValueError)


async def test_it_ends_with_what_it_serves(autojump_clock: MockClock) -> None:
    ended = Ended()

    async def serve(manager: SessionManager) -> None:
        await manager.create_session()

    with assert_checkpoints():
        assert await run(serve, hooks=ended.hooks) is None
    assert ended.reasons == [TerminationReason.SHUTDOWN]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("work, cut", [(3, False), (30, True)])
async def test_the_first_signal_drains(
    number: signal.Signals, work: float, cut: bool, autojump_clock: MockClock
) -> None:
    ended, began = Ended(), trio.current_time()
    finished = False

    async def busy() -> None:
        nonlocal finished
        await trio.sleep(work)
        finished = True

    async def serve(manager: SessionManager) -> None:
        session = await manager.create_session()
        session.start_soon(busy)
        signal.raise_signal(number)
        await trio.sleep_forever()

    assert await run(serve, hooks=ended.hooks) is None
    assert finished is not cut
    assert trio.current_time() - began == pytest.approx(min(work, 10))
    assert ended.reasons == [TerminationReason.SHUTDOWN]


@pytest.mark.parametrize("number", SIGNALS)
async def test_the_second_signal_cancels(number: signal.Signals, autojump_clock: MockClock) -> None:
    ended, began = Ended(), trio.current_time()

    async def serve(manager: SessionManager) -> None:
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever)
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(2)
        signal.raise_signal(number)
        await trio.sleep_forever()

    assert await run(serve, hooks=ended.hooks) == number
    assert trio.current_time() - began == pytest.approx(2)
    assert ended.reasons == [TerminationReason.CANCELLED]


async def test_a_signal_while_the_rest_is_drained(autojump_clock: MockClock) -> None:
    """What is served is over, and its sessions have their grace: a second signal ends that too."""
    began = trio.current_time()

    async def stop() -> None:
        await trio.sleep(1)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep(1)
        signal.raise_signal(signal.SIGINT)

    async def serve(manager: SessionManager) -> None:
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        result = await run(serve)
    assert result == signal.SIGINT
    assert trio.current_time() - began == pytest.approx(2)


async def test_run_restores_the_signal_handlers() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    async def serve(manager: SessionManager) -> None:
        assert [signal.getsignal(number) for number in SIGNALS] != before
        await trio.lowlevel.checkpoint()

    await run(serve)
    assert [signal.getsignal(number) for number in SIGNALS] == before


async def test_a_failure_comes_out_in_no_group() -> None:
    async def serve(manager: SessionManager) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await run(serve)


async def test_cancellation_ends_the_sessions(autojump_clock: MockClock) -> None:
    ended = Ended()

    async def serve(manager: SessionManager) -> None:
        await manager.create_session()
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await run(serve, hooks=ended.hooks)
    assert scope.cancelled_caught
    assert ended.reasons == [TerminationReason.CANCELLED]


# Retiring.


def retiring(seconds: float) -> SessionConfig:
    return SessionConfig(cleanup=CleanupConfig(retire_grace=seconds, drain_grace=10))


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "seconds, shown", [(30, "for up to 30 s"), (inf, "until all sessions have ended")]
)
async def test_the_first_signal_retires_before_it_drains(
    number: signal.Signals,
    seconds: float,
    shown: str,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    states: list[tuple[float, bool, bool]] = []

    async def serve(manager: SessionManager) -> None:
        session = await manager.create_session()
        began = trio.current_time()
        signal.raise_signal(number)
        for _ in range(2):
            await trio.sleep(25)
            draining = manager.statistics().draining
            states.append((trio.current_time() - began, manager.ready, draining))
        session.terminate()
        await trio.sleep_forever()

    assert await run(serve, config=retiring(seconds)) is None
    assert states == [(25, False, False)] + [(50, False, False)] * (seconds == inf)
    retires, drains = (record.getMessage() for record in caplog.records)
    assert retires == f"{number.name}: retiring {shown}, then draining; a second signal cancels"
    assert drains == f"{number.name}: draining for up to 10 s; a second signal cancels"


async def test_work_that_begins_while_retiring_has_the_grace_of_the_drain(
    autojump_clock: MockClock,
) -> None:
    began = trio.current_time()

    async def serve(manager: SessionManager) -> None:
        session = await manager.create_session()
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(29)
        session.start_soon(trio.sleep_forever)
        await trio.sleep_forever()

    assert await run(serve, config=retiring(30)) is None
    assert trio.current_time() - began == pytest.approx(40)


async def test_the_second_signal_cancels_what_retires(autojump_clock: MockClock) -> None:
    ended, began = Ended(), trio.current_time()

    async def serve(manager: SessionManager) -> None:
        await manager.create_session()
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(5)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    assert await run(serve, config=retiring(30), hooks=ended.hooks) == signal.SIGINT
    assert trio.current_time() - began == pytest.approx(5)
    assert ended.reasons == [TerminationReason.CANCELLED]


# The deadline, in the numbers of a program that sets none itself.

DEFAULTS = SessionConfig(cleanup=with_shutdown_timeout(CleanupConfig()))


async def test_by_default_a_call_in_flight_is_cut_after_3_of_9_seconds(
    autojump_clock: MockClock,
) -> None:
    seen: list[float] = []
    began = trio.current_time()

    async def serve(manager: SessionManager) -> None:
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever)
        assert manager._shutdown.at == inf
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep(1)
        seen.append(manager._shutdown.at - began)
        await trio.sleep_forever()

    assert await run(serve, config=DEFAULTS) is None
    assert seen == [pytest.approx(9)]
    assert trio.current_time() - began == pytest.approx(3)


async def test_after_the_client_has_left_a_signal_leaves_a_second_and_a_half(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[float] = []
    began = trio.current_time()

    async def serve(manager: SessionManager, shutdown: Shutdown) -> None:
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever)
        shutdown.client_leaves()
        seen.append(manager._shutdown.at - trio.current_time())
        await trio.sleep(2)
        shutdown.client_leaves()  # A second call sets no later deadline.
        seen.append(manager._shutdown.at - trio.current_time())
        signal.raise_signal(signal.SIGTERM)
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
        seen.append(manager._shutdown.at - trio.current_time())
        await trio.sleep_forever()

    with Shutdown(DEFAULTS.cleanup) as shutdown:
        result = await run_until_signal(Router("x"), serve, shutdown=shutdown, config=DEFAULTS)
    assert result is None
    assert seen == [pytest.approx(9), pytest.approx(7), pytest.approx(1.5)]
    assert trio.current_time() - began == pytest.approx(2)
    assert "the client has left" in caplog.messages[0]


async def test_a_failure_begins_the_shutdown_too(autojump_clock: MockClock) -> None:
    managers: list[SessionManager] = []

    async def serve(manager: SessionManager) -> None:
        managers.append(manager)
        await trio.sleep(3)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await run(serve, config=DEFAULTS)
    assert managers[0]._shutdown.at == pytest.approx(trio.current_time() + 9)


async def test_the_tree_of_a_forced_end_has_the_ages_of_the_task_report(
    autojump_clock: MockClock,
) -> None:
    report = TaskReport()
    trees: list[str] = []

    async def serve(_: SessionManager, shutdown: Shutdown) -> None:
        await trio.sleep(5)
        trees.append(shutdown._all_tasks())

    trio.lowlevel.add_instrument(report.ages)
    with Shutdown(CONFIG.cleanup) as shutdown:
        await run_until_signal(Router("x"), serve, shutdown=shutdown, config=CONFIG, report=report)
    assert "    first signal, for 5.0 s, at " in trees[0]
