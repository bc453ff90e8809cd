"""Channels in memory behave as real connections do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import Peer, connect, error, initialize, request, result, serving
from trio_mcp_session import (
    MemoryChannel,
    Principal,
    Router,
    SessionLimits,
    TerminationReason,
    connect_memory,
    open_session_manager,
)
from trio_mcp_session.protocol.framing import BadFrame, Loss
from trio_mcp_session.transports.memory import MEMORY, memory_channel_pair


async def cancelled(operation: Callable[..., Awaitable[object]], *args: object) -> None:
    """Cancel ``operation`` as soon as it waits."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(operation, *args)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_frames_pass_through_a_memory_channel_in_both_directions() -> None:
    one, two = memory_channel_pair()
    for ours, theirs in ((one, two), (two, one)):
        with assert_checkpoints():
            await ours.send(b"1")
        with assert_checkpoints():
            await ours.send_batch([b"2", b"3"])
        with assert_no_checkpoints():
            assert ours.send_nowait(b"4")
        assert repr(theirs) == "<MemoryChannel: 4 frames to receive>"
        with assert_checkpoints():
            assert await theirs.receive_batch() == [b"1", b"2", b"3", b"4"]
        await ours.send_batch([b"5", b"6"])
        with assert_checkpoints():
            assert await theirs.receive() == b"5"
        assert await theirs.receive() == b"6"
        with assert_checkpoints():
            await ours.send_batch([])
        assert not ours.needs_flush
        assert repr(theirs) == "<MemoryChannel: 0 frames to receive>"


async def test_a_receiver_is_woken(autojump_clock: MockClock) -> None:
    one, two = memory_channel_pair()
    received = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            received.append(await two.receive_batch())

        await wait_all_tasks_blocked()
        assert one.send_nowait(b"1")
    assert received == [[b"1"]]


async def test_a_full_memory_channel_makes_senders_wait(autojump_clock: MockClock) -> None:
    one, two = memory_channel_pair(2)
    assert one.send_nowait(b"1")
    assert one.send_nowait(b"2")
    assert not one.send_nowait(b"3")
    assert not one.needs_flush
    # Each direction has its own.
    assert two.send_nowait(b"back")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_batch, [b"3", b"4", b"5"])
        await wait_all_tasks_blocked()
        assert await two.receive_batch() == [b"1", b"2"]
        await wait_all_tasks_blocked()
        assert await two.receive_batch() == [b"3", b"4"]
    assert await two.receive_batch() == [b"5"]


async def test_a_cancelled_send_has_sent_a_part(autojump_clock: MockClock) -> None:
    one, two = memory_channel_pair(1)
    await cancelled(one.send_batch, [b"1", b"2", b"3"])
    assert await two.receive_batch() == [b"1"]
    assert not one.needs_flush
    with trio.CancelScope() as scope:
        scope.cancel()
        await one.send(b"4")
    assert scope.cancelled_caught
    assert one.send_nowait(b"5")
    assert await two.receive_batch() == [b"5"]


async def test_a_cancelled_receive_loses_nothing(autojump_clock: MockClock) -> None:
    one, two = memory_channel_pair()
    await cancelled(two.receive_batch)
    assert one.send_nowait(b"1")
    with trio.CancelScope() as scope:
        scope.cancel()
        await two.receive_batch()
    assert scope.cancelled_caught
    assert await two.receive_batch() == [b"1"]


async def test_several_tasks_share_one_end_of_a_memory_channel(autojump_clock: MockClock) -> None:
    one, two = memory_channel_pair(1)
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await two.receive())

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one.send, b"%d" % number)
            nursery.start_soon(receive)
    assert sorted(map(int, received)) == list(range(20))


async def test_send_eof_ends_one_direction_of_a_memory_channel(autojump_clock: MockClock) -> None:
    one, two = memory_channel_pair()
    await one.send_batch([b"1", b"2"])
    with assert_checkpoints():
        await one.send_eof()
    for _ in range(2):
        with pytest.raises(trio.ClosedResourceError):
            await one.send(b"3")
        with pytest.raises(trio.ClosedResourceError):
            one.send_nowait(b"3")
    # What was sent before still comes, and the other direction stays open.
    assert await two.receive_batch() == [b"1", b"2"]
    for _ in range(2):
        with assert_checkpoints(), pytest.raises(trio.EndOfChannel):
            await two.receive_batch()
    await two.send(b"back")
    assert await one.receive() == b"back"
    with pytest.RaisesGroup(trio.EndOfChannel):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.receive)
            await wait_all_tasks_blocked()
            await two.send_eof()


@pytest.mark.parametrize("sync", [True, False])
async def test_a_closed_memory_channel_raises_and_delivers_what_was_sent(
    sync: bool, autojump_clock: MockClock
) -> None:
    one, two = memory_channel_pair(2)
    await one.send_batch([b"1", b"2"])
    await two.send(b"unread")
    errors: list[Exception] = []

    async def catch(operation: Callable[..., Awaitable[object]], *args: object) -> None:
        with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)) as caught:
            await operation(*args)
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch, one.send, b"3")
        nursery.start_soon(catch, two.send_batch, [b"x", b"y"])
        await wait_all_tasks_blocked()
        if sync:
            with assert_no_checkpoints():
                one.close()
                one.close()
        else:
            with assert_checkpoints():
                await one.aclose()
            with trio.CancelScope() as scope:
                scope.cancel()
                await one.aclose()
            assert scope.cancelled_caught
    # Tasks that wait are told: this side that it closed, the other that it has no reader.
    assert sorted(type(one).__name__ for one in errors) == [
        "BrokenResourceError",
        "ClosedResourceError",
    ]
    for operation in (one.receive_batch, lambda: one.send(b"1")):
        with pytest.raises(trio.ClosedResourceError):
            await operation()
    with pytest.raises(trio.ClosedResourceError):
        one.send_nowait(b"1")
    # The peer gets what was sent, then the end; what it sends itself is lost.
    assert await two.receive_batch() == [b"1", b"2"]
    with pytest.raises(trio.EndOfChannel):
        await two.receive_batch()
    with pytest.raises(trio.BrokenResourceError):
        two.send_nowait(b"1")
    with pytest.raises(trio.BrokenResourceError):
        await two.send(b"1")


async def test_closing_ends_a_receive(autojump_clock: MockClock) -> None:
    one, _ = memory_channel_pair()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await one.receive()

        await wait_all_tasks_blocked()
        one.close()


async def test_a_cancelled_aclose_closes() -> None:
    one, two = memory_channel_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await one.aclose()
    assert scope.cancelled_caught
    with pytest.raises(trio.EndOfChannel):
        await two.receive_batch()


async def test_frames_above_the_size_limit_of_a_memory_channel_are_refused() -> None:
    one, two = memory_channel_pair(max_size=5)
    await one.send_batch([b"12345", b"123456", b""])
    assert await two.receive_batch() == [b"12345", BadFrame(Loss.TOO_LONG), b""]
    # The limit is the second end's, which is the server's.
    await two.send(b"1234567890")
    assert await one.receive() == b"1234567890"
    await one.send(b"123456")
    with pytest.raises(trio.BrokenResourceError, match="too long"):
        await two.receive()


# Connected to a manager.


async def test_connect_memory_opens_a_session_with_principal_and_limits(
    autojump_clock: MockClock,
) -> None:
    limits = SessionLimits(max_message_size=200)
    async with serving(Router("r"), limits=limits) as manager:
        with assert_checkpoints():
            channel = await connect_memory(manager, principal=Principal("me"))
        assert isinstance(channel, MemoryChannel)
        await wait_all_tasks_blocked()
        (session,) = manager.sessions()
        assert session.principal == Principal("me")
        assert session.transport is MEMORY
        peer = Peer(channel, session)
        await peer.establish()
        await peer.send(request(1, "ping", {"_meta": {"x": "y" * 200}}), request(2, "ping"))
        assert await peer.waiting() == [
            error(1, -32700, "message is larger than 200 bytes"),
            result(2),
        ]
        await channel.aclose()
        assert await session.wait_terminated() is TerminationReason.CLIENT_CLOSED


async def test_a_memory_connection_outlives_the_task_that_connected(
    autojump_clock: MockClock,
) -> None:
    async with serving(Router("r")) as manager:
        with trio.CancelScope() as scope:
            peer = await connect(manager)
            scope.cancel()
        # The connection lives in the manager, not in the task that asked for it.
        assert (await peer.establish())["protocolVersion"]


async def test_connect_memory_above_the_session_limit_is_refused(autojump_clock: MockClock) -> None:
    async with serving(Router("r"), limits=SessionLimits(max_sessions=1)) as manager:
        first = await connect(manager)
        channel = await connect_memory(manager)
        newcomer = Peer(channel, first.session)
        await newcomer.send(initialize(5))
        assert (await newcomer.receive())["id"] == 5
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
        assert len(manager.sessions()) == 1
        assert manager.statistics().refused == {"SessionLimitReached": 1}


async def test_a_memory_connection_of_capacity_one_delivers_all_answers(
    autojump_clock: MockClock,
) -> None:
    async with serving(Router("r")) as manager:
        peer = await connect(manager, capacity=1)
        await peer.establish()
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(peer.receive)
                await peer.send(request(number, "ping"))


async def test_a_cancelled_connecting_leaves_no_session(autojump_clock: MockClock) -> None:
    async with open_session_manager(Router("r")) as manager:
        with trio.CancelScope() as scope:
            scope.cancel()
            await connect_memory(manager)
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert manager.sessions() == []
