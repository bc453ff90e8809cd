"""What a failure of user code is, and what propagates: alone, in groups, beside cancellations."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trio_mcp_session import ExitRequested
from trio_mcp_session.sessions.failures import (
    contain,
    contained,
    first_if_all,
    first_of,
    is_cancellation,
    report_or_raise,
    separate,
    separate_in_task,
    without_cancellations,
)


async def a_cancellation() -> trio.Cancelled:
    """A real one, of a scope that has been left."""
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
            raise
    return kept[0]


def group(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("several", errors)


async def test_errors_and_exits_are_failures_and_interrupts_propagate() -> None:
    cancelled, interrupt, error = await a_cancellation(), KeyboardInterrupt(), ValueError("bug")
    assert separate(error) == (error, None)
    assert separate(interrupt) == (None, interrupt)
    assert separate(cancelled) == (None, cancelled)
    failure, onward = separate(SystemExit(3))
    assert isinstance(failure, ExitRequested)
    assert isinstance(failure.__cause__, SystemExit)
    assert onward is None

    failure, onward = separate(group(error, group(interrupt, cancelled)))
    assert isinstance(failure, ExceptionGroup)
    assert failure.exceptions == (error,)
    assert onward is not None
    assert [type(one) for one in (first_of(onward),)] == [KeyboardInterrupt]

    failure, onward = separate(group(SystemExit(1), error))
    assert isinstance(failure, ExitRequested)
    assert isinstance(failure.__cause__, BaseExceptionGroup)
    assert onward is None


async def test_cancellations_are_recognised_in_groups() -> None:
    cancelled = await a_cancellation()
    assert is_cancellation(cancelled)
    assert is_cancellation(group(group(cancelled), ValueError()))
    assert not is_cancellation(group(ValueError()))
    assert not is_cancellation(ValueError())
    assert not is_cancellation(None)


async def test_cancellations_are_taken_out_of_groups() -> None:
    cancelled, error = await a_cancellation(), ValueError()
    assert without_cancellations(None) is None
    assert without_cancellations(cancelled) is None
    assert without_cancellations(error) is error
    assert without_cancellations(group(cancelled)) is None
    rest = without_cancellations(group(cancelled, error))
    assert isinstance(rest, BaseExceptionGroup)
    assert rest.exceptions == (error,)


async def test_a_cancellation_is_raised_only_where_a_scope_around_is_cancelled() -> None:
    stray, error = await a_cancellation(), ValueError()
    assert separate_in_task(stray) == (None, None)
    failure, onward = separate_in_task(group(stray, error))
    assert isinstance(failure, ExceptionGroup)
    assert onward is None
    with trio.CancelScope() as scope:
        scope.cancel()
        assert separate_in_task(stray) == (None, stray)
        await trio.lowlevel.checkpoint()


async def test_a_synchronous_call_cannot_be_cancelled() -> None:
    stray, error = await a_cancellation(), ValueError()
    assert contain(error) is error
    assert isinstance(contain(group(stray, error)), ExceptionGroup)
    with pytest.raises(KeyboardInterrupt):
        contain(KeyboardInterrupt())
    with pytest.RaisesGroup(KeyboardInterrupt) as caught:
        contain(group(error, KeyboardInterrupt()))
    assert isinstance(caught.value.__cause__, ExceptionGroup)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_block_reports_failures_and_lets_interrupts_out(waits: bool) -> None:
    reported: list[Exception] = []
    error = ValueError()
    with contained(reported.append, waits=waits):
        pass
    assert reported == []
    with contained(reported.append, waits=waits):
        raise error
    assert reported == [error]
    with pytest.raises(KeyboardInterrupt):
        with contained(reported.append, waits=waits):
            raise KeyboardInterrupt
    with pytest.RaisesGroup(KeyboardInterrupt):
        with contained(reported.append, waits=waits):
            raise group(error, KeyboardInterrupt())
    assert len(reported) == 2


async def test_a_block_lets_the_cancellation_of_a_scope_around_it_out(
    autojump_clock: MockClock,
) -> None:
    reported: list[Exception] = []
    with trio.move_on_after(1) as scope:
        with contained(reported.append):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    with trio.move_on_after(1) as scope:
        with contained(reported.append):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError("on the way out")
    assert scope.cancelled_caught
    assert len(reported) == 1


async def test_an_except_clause_does_the_same_as_such_a_block() -> None:
    reported: list[Exception] = []
    error = ValueError()
    report_or_raise(error, reported.append)
    assert reported == [error]
    interrupt = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        report_or_raise(interrupt, reported.append)
    assert caught.value is interrupt
    with pytest.RaisesGroup(KeyboardInterrupt):
        report_or_raise(group(error, interrupt), reported.append)
    assert len(reported) == 2


def test_the_first_of_errors_that_are_all_meant() -> None:
    def is_meant(error: BaseException) -> bool:
        return isinstance(error, ValueError)

    first, second = ValueError("first"), ValueError("second")
    assert first_if_all(first, is_meant) is first
    assert first_if_all(group(group(first), second), is_meant) is first
    assert first_if_all(group(first, KeyError()), is_meant) is None
    assert first_of(group(group(first), second)) is first
