"""Subscriptions: in order, never waited for, told what they missed, told the end."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

from trio_mcp_session import (
    ClientInfo,
    Connected,
    Disconnected,
    Event,
    EventLoopBlocked,
    EventStream,
    Lagged,
    RequestFailed,
    SessionKind,
    SessionState,
    StateChanged,
    TerminationReason,
    open_session_manager,
)
from trio_mcp_session.core.ids import SessionId
from trio_mcp_session.sessions.event_stream import EventStreams


def numbered(number: float) -> Connected:
    """Make an event that is told from others by its time."""
    return Connected(
        session_id=SessionId("x"), kind=SessionKind.HANDLE, time=number, client=ClientInfo()
    )


def drained(subscription: EventStream) -> list[Event]:
    """Take all that is there, to the end where there is one."""
    taken: list[Event] = []
    try:
        while True:
            taken.append(subscription.receive_nowait())
    except (trio.WouldBlock, trio.EndOfChannel):
        return taken


def seen(events: list[Event]) -> list[Any]:
    """Turn events into their numbers, and lags into tuples."""
    return [("lag", e.missed) if isinstance(e, Lagged) else e.time for e in events]


async def test_events_come_in_order_and_then_block() -> None:
    subscribers = EventStreams()
    with subscribers.subscribe(8) as subscription:
        for number in range(8):
            assert subscribers.emit(numbered(number)) == 0
        assert repr(subscription) == "<EventStream: 8 events waiting>"
        with assert_no_checkpoints():
            assert subscription.receive_nowait() == numbered(0)
        with assert_checkpoints():
            assert await subscription.receive() == numbered(1)
        assert seen(drained(subscription)) == [2, 3, 4, 5, 6, 7]
        with pytest.raises(trio.WouldBlock):
            subscription.receive_nowait()
    assert len(subscribers) == 0


async def test_a_waiting_reader_is_woken(autojump_clock: trio.testing.MockClock) -> None:
    subscribers = EventStreams()
    with subscribers.subscribe(0) as subscription, trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                with assert_checkpoints():
                    assert await subscription.receive() == numbered(7)
                with assert_checkpoints(), pytest.raises(trio.EndOfChannel):
                    await subscription.receive()

            await wait_all_tasks_blocked()
            assert subscribers.emit(numbered(7)) == 0
            await wait_all_tasks_blocked()
            subscribers.finish()


async def test_each_subscriber_misses_what_it_alone_was_too_slow_for() -> None:
    subscribers = EventStreams()
    with subscribers.subscribe(1) as slow, subscribers.subscribe(10) as quick:
        assert [subscribers.emit(numbered(n)) for n in range(4)] == [0, 1, 1, 1]
        assert slow.missed == 3
        assert quick.missed == 0
        assert seen(drained(quick)) == [0, 1, 2, 3]
        # What was dropped after everything else is told as soon as the reader gets there ...
        assert seen(drained(slow)) == [0, ("lag", 3)]
        # ... and once only.
        subscribers.emit(numbered(4))
        assert seen(drained(slow)) == [4]
        assert slow.missed == 3


async def test_lagged_stands_where_the_events_are_missing() -> None:
    subscribers = EventStreams()
    with subscribers.subscribe(2) as subscription:
        for number in range(5):
            subscribers.emit(numbered(number))
        assert subscription.receive_nowait() == numbered(0)
        subscribers.emit(numbered(5))
        subscribers.emit(numbered(6))
        assert await subscription.receive() == numbered(1)
        with assert_checkpoints():
            assert await subscription.receive() == Lagged(3)
        with assert_checkpoints():
            assert await subscription.receive() == numbered(5)
        assert subscription.receive_nowait() == Lagged(1)


async def test_a_reader_that_waits_gets_lagged_first() -> None:
    """With no buffer at all every event is missed that no task waits for."""
    subscribers = EventStreams()
    with subscribers.subscribe(0) as subscription:
        subscribers.emit(numbered(0))
        subscribers.emit(numbered(1))
        assert await subscription.receive() == Lagged(2)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                assert await subscription.receive() == numbered(2)

            await wait_all_tasks_blocked()
            subscribers.emit(numbered(2))


STEPS = st.lists(
    st.one_of(st.just("emit"), st.just("read"), st.just("read cancelled"), st.just("wait and emit"))
)


@given(buffer=st.integers(0, 4), steps=STEPS, last=st.booleans())
def test_what_a_reader_sees_is_the_sequence_with_exact_gaps(
    buffer: int, steps: list[str], *, last: bool
) -> None:
    """Whatever the speeds: every event is either received, or counted in its place."""

    async def main() -> None:
        subscribers = EventStreams()
        emitted = 0
        received: list[Event] = []
        # The model: what must come, as single events and gaps of one.
        waiting: list[float | None] = []
        dropped_total = 0

        def emit(*, someone_waits: bool = False) -> None:
            nonlocal emitted, dropped_total
            room = someone_waits or sum(item is not None for item in waiting) < buffer
            waiting.append(emitted if room else None)
            dropped_total += not room
            assert subscribers.emit(numbered(emitted)) == (not room)
            emitted += 1

        def expected() -> Any:
            """Take what has to come next out of the model."""
            if waiting[0] is not None:
                return waiting.pop(0)
            gap = 0
            while waiting and waiting[0] is None:
                waiting.pop(0)
                gap += 1
            return ("lag", gap)

        with subscribers.subscribe(buffer) as subscription:
            for step in steps:
                if step == "emit":
                    emit()
                elif step == "read" and waiting:
                    received.append(await subscription.receive())
                    assert seen(received[-1:]) == [expected()]
                elif step == "read cancelled":
                    # Takes nothing, whatever waits.
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await subscription.receive()
                    assert scope.cancelled_caught
                elif step == "wait and emit" and not waiting:
                    async with trio.open_nursery() as nursery:

                        @nursery.start_soon
                        async def read() -> None:
                            received.append(await subscription.receive())

                        await wait_all_tasks_blocked()
                        emit(someone_waits=True)
                    assert seen(received[-1:]) == [expected()]
            assert subscription.missed == dropped_total
            end = numbered(inf)
            subscribers.finish(end if last else None)
            rest = drained(subscription)
            model = []
            while waiting:
                model.append(expected())
            assert seen(rest) == model + ([inf] if last else [])
            with pytest.raises(trio.EndOfChannel):
                subscription.receive_nowait()
            received += rest
        everything = sum(e.missed if isinstance(e, Lagged) else 1 for e in received)
        assert everything == emitted + last

    trio.run(main)


async def test_a_receive_cancelled_while_it_waits_loses_nothing() -> None:
    subscribers = EventStreams()
    with subscribers.subscribe(0) as subscription:
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            @nursery.start_soon
            async def read() -> None:
                with scope:
                    await subscription.receive()

            await wait_all_tasks_blocked()
            scope.cancel()
            # The reader is as good as gone: the event is missed, and that is told.
            assert subscribers.emit(numbered(1)) == 1
        assert scope.cancelled_caught
        assert subscription.receive_nowait() == Lagged(1)


async def test_a_closed_subscription_says_so_and_takes_nothing() -> None:
    subscribers = EventStreams()
    with subscribers.subscribe(1) as subscription:
        subscribers.emit(numbered(0))
        subscribers.emit(numbered(1))
        subscription.receive_nowait()
        subscribers.emit(numbered(2))
        assert subscription.receive_nowait() == Lagged(1)
        # An event is held behind the lag now; closing releases it.
        with assert_checkpoints():
            await subscription.aclose()
        assert subscribers.emit(numbered(3)) == 0
        assert subscription.missed == 1
        with pytest.raises(trio.ClosedResourceError):
            subscription.receive_nowait()
        with pytest.raises(trio.ClosedResourceError):
            await subscription.receive()


async def test_closing_wakes_a_reader_and_works_when_cancelled() -> None:
    subscribers = EventStreams()
    with subscribers.subscribe(1) as subscription:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await subscription.receive()

            await wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                scope.cancel()
                await subscription.aclose()
            assert scope.cancelled_caught


async def test_leaving_the_block_closes_the_subscription() -> None:
    async with open_session_manager() as manager:
        with assert_no_checkpoints():
            with manager.subscribe() as subscription:
                assert manager.statistics().subscribers == 1
        assert manager.statistics().subscribers == 0
        with pytest.raises(trio.ClosedResourceError):
            await subscription.receive()


async def test_it_is_a_receive_channel() -> None:
    subscribers = EventStreams()
    with subscribers.subscribe(4) as subscription:
        assert isinstance(subscription, trio.abc.ReceiveChannel)
        subscribers.emit(numbered(0))
        subscribers.finish(numbered(1))
        assert [event async for event in subscription] == [numbered(0), numbered(1)]


# Of sessions and managers.


async def test_a_session_tells_its_life_in_order() -> None:
    async with open_session_manager() as manager:
        with manager.subscribe() as subscription:
            session = await manager.create_session(ClientInfo(client_id="c"))
            session.terminate(TerminationReason.REQUESTED)
            await session.wait_terminated()
            events = drained(subscription)
    told: list[Any] = []
    for event in events:
        assert not isinstance(event, Lagged | RequestFailed | EventLoopBlocked)
        assert event.session_id == session.session_id
        assert event.kind is SessionKind.HANDLE
        if isinstance(event, StateChanged):
            told.append((event.old, event.new, event.reason))
        else:
            told.append(type(event))
    requested = TerminationReason.REQUESTED
    assert told == [
        Connected,
        (SessionState.INITIALIZING, SessionState.ACTIVE, None),
        (SessionState.ACTIVE, SessionState.TERMINATING, requested),
        (SessionState.TERMINATING, SessionState.TERMINATED, requested),
        Disconnected,
    ]


async def test_a_sessions_subscriber_learns_the_end_whatever_it_missed() -> None:
    async with open_session_manager() as manager:
        session = await manager.create_session()
        with session.subscribe(max_buffer=0) as subscription:
            session.terminate(TerminationReason.REVOKED)
            await session.wait_terminated()
            assert await subscription.receive() == Lagged(2)
            end = await subscription.receive()
            assert isinstance(end, Disconnected)
            assert end.reason is TerminationReason.REVOKED
            with pytest.raises(trio.EndOfChannel):
                await subscription.receive()


@pytest.mark.parametrize("before", [False, True])
async def test_subscribing_to_an_ended_session_tells_its_end_at_once(*, before: bool) -> None:
    async with open_session_manager() as manager:
        session = await manager.create_session()
        if before:
            with session.subscribe():
                pass
        session.terminate()
        await session.wait_terminated()
        for _ in range(2):
            with assert_no_checkpoints(), session.subscribe() as subscription:
                end = subscription.receive_nowait()
                assert isinstance(end, Disconnected)
                assert end.reason is TerminationReason.REQUESTED
                with pytest.raises(trio.EndOfChannel):
                    subscription.receive_nowait()


async def test_a_manager_counts_what_its_subscribers_missed_and_ends_them() -> None:
    async with open_session_manager() as manager:
        with manager.subscribe(max_buffer=2) as subscription:
            async with manager.open_session():
                pass
            assert manager.statistics().events_missed == 3
            assert subscription.missed == 3
            await manager.drain()
            # A drained manager may still tell something: it ends with its block.
            assert len(drained(subscription)) == 3
            with pytest.raises(trio.WouldBlock):
                subscription.receive_nowait()


async def test_the_end_of_the_manager_ends_its_subscriptions(
    autojump_clock: trio.testing.MockClock,
) -> None:
    subscribed, ended = trio.Event(), trio.Event()
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            async with open_session_manager() as manager:

                @nursery.start_soon
                async def watch() -> None:
                    with manager.subscribe() as subscription:
                        subscribed.set()
                        events = [event async for event in subscription]
                        assert isinstance(events[-1], Disconnected)
                    ended.set()

                await subscribed.wait()
                await manager.create_session()
                assert not ended.is_set()
            await ended.wait()
    # No task waits for events that will never come.
    with manager.subscribe() as late:
        with pytest.raises(trio.EndOfChannel), trio.fail_after(1):
            await late.receive()
