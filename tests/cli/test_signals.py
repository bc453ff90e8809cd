from __future__ import annotations

import signal

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints

from trio_mcp_session import (
    CleanupConfig,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionManager,
    TerminationReason,
)
from trio_mcp_session.cli.signals import run_until_signal

CONFIG = SessionConfig(cleanup=CleanupConfig(drain_grace=10))
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Ended:
    """Why sessions ended, as their hooks were told."""

    def __init__(self) -> None:
        self.reasons: list[TerminationReason] = []

    async def note(self, session: Session, reason: TerminationReason) -> None:
        self.reasons.append(reason)

    @property
    def hooks(self) -> SessionHooks:
        return SessionHooks(on_session_terminated=self.note)


async def test_it_ends_with_what_it_serves(autojump_clock: MockClock) -> None:
    ended = Ended()

    async def serve(manager: SessionManager) -> None:
        await manager.create_session()

    with assert_checkpoints():
        assert await run_until_signal(Router("x"), serve, config=CONFIG, hooks=ended.hooks) is None
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

    assert await run_until_signal(Router("x"), serve, config=CONFIG, hooks=ended.hooks) is None
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

    assert await run_until_signal(Router("x"), serve, config=CONFIG, hooks=ended.hooks) == number
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
        result = await run_until_signal(Router("x"), serve, config=CONFIG)
    assert result == signal.SIGINT
    assert trio.current_time() - began == pytest.approx(2)


async def test_signals_are_nobodys_business_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    async def serve(manager: SessionManager) -> None:
        assert [signal.getsignal(number) for number in SIGNALS] != before
        await trio.lowlevel.checkpoint()

    await run_until_signal(Router("x"), serve)
    assert [signal.getsignal(number) for number in SIGNALS] == before


async def test_a_failure_comes_out() -> None:
    async def serve(manager: SessionManager) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("no")

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="no")):
        await run_until_signal(Router("x"), serve)


async def test_cancellation_ends_the_sessions(autojump_clock: MockClock) -> None:
    ended = Ended()

    async def serve(manager: SessionManager) -> None:
        await manager.create_session()
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await run_until_signal(Router("x"), serve, hooks=ended.hooks)
    assert scope.cancelled_caught
    assert ended.reasons == [TerminationReason.CANCELLED]
