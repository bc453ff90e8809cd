from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
from trio.testing import (
    assert_checkpoints,
    assert_no_checkpoints,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from trio_mcp_session.protocol.framing import BadFrame, Loss
from trio_mcp_session.transports.byte_stream import ByteStreamChannel
from trio_mcp_session.transports.channel import BatchChannel, as_batch_channel

MAX = 100


def memory() -> tuple[ByteStreamChannel, trio.abc.Stream]:
    ours, theirs = memory_stream_pair()
    return ByteStreamChannel(ours, MAX), theirs


def sockets() -> tuple[ByteStreamChannel, trio.SocketStream]:
    ours, theirs = (
        trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair()
    )
    return ByteStreamChannel(ours, MAX), theirs


@pytest.fixture(params=[memory, sockets])
def pair(request: pytest.FixtureRequest) -> tuple[ByteStreamChannel, trio.abc.Stream]:
    result: tuple[ByteStreamChannel, trio.abc.Stream] = request.param()
    return result


Pair = tuple[ByteStreamChannel, trio.abc.Stream]


def fill(channel: BatchChannel) -> bytes:
    """Make the channel keep the rest of a frame; returns the frame."""
    frame = b"y" * 2**24
    assert channel.send_nowait(frame)
    assert channel.needs_flush
    assert not channel.send_nowait(frame)
    return frame


def fill_socket(end: socket.socket) -> None:
    """Write until not even a byte goes."""
    end.setblocking(False)
    for size in (65536, 1):
        with pytest.raises(BlockingIOError):
            while True:
                end.send(b"\n" * size)


async def read_all(stream: trio.abc.Stream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += await stream.receive_some(2**20)
    return bytes(data)


async def cancelled(operation: Callable[..., Awaitable[object]], *args: object) -> None:
    """Cancel ``operation`` as soon as it waits."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(operation, *args)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_frames_pass_through_a_byte_stream_in_both_directions(pair: Pair) -> None:
    channel, peer = pair
    async with channel, peer:
        await peer.send_all(b"a\n\nb\r\nc")
        with assert_checkpoints():
            assert await channel.receive_batch() == [b"a", b"b"]
        await peer.send_all(b"c\n" + b"x" * (MAX + 1) + b"\nd\n")
        with assert_checkpoints():
            assert await channel.receive_batch() == [b"cc", BadFrame(Loss.TOO_LONG), b"d"]
        with assert_checkpoints():
            await channel.send_batch([b"1", b"2"])
        with assert_checkpoints():
            await channel.send_batch([])
        with assert_checkpoints():
            await channel.send(b"3")
        assert await read_all(peer, 6) == b"1\n2\n3\n"
        assert not channel.needs_flush


async def test_one_write_for_a_batch() -> None:
    ours, theirs = lockstep_stream_pair()
    channel = ByteStreamChannel(ours, MAX)
    async with channel, theirs, trio.open_nursery() as nursery:
        nursery.start_soon(channel.send_batch, [b"1", b"2", b"3"])
        assert await theirs.receive_some(100) == b"1\n2\n3\n"


async def test_a_line_in_pieces() -> None:
    ours, theirs = lockstep_stream_pair()
    channel = ByteStreamChannel(ours, MAX)
    async with channel, theirs, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            for piece in (b"a", b"b", b"c\nd"):
                await theirs.send_all(piece)

        assert await channel.receive_batch() == [b"abc"]


async def test_the_end_of_a_byte_stream_marks_a_partial_frame_as_truncated(pair: Pair) -> None:
    channel, peer = pair
    async with channel:
        await peer.send_all(b"a\nb")
        await peer.aclose()
        assert await channel.receive_batch() == [b"a"]
        assert await channel.receive_batch() == [BadFrame(Loss.TRUNCATED)]
        for _ in range(2):
            with assert_checkpoints(), pytest.raises(trio.EndOfChannel):
                await channel.receive_batch()


async def test_peer_no_longer_reads(pair: Pair) -> None:
    channel, peer = pair
    await peer.aclose()
    async with channel:
        with pytest.raises(trio.BrokenResourceError):
            await channel.send(b"a")
        assert not channel.needs_flush
        with pytest.raises(trio.BrokenResourceError):
            await channel.send_batch([])
        with pytest.raises(trio.BrokenResourceError):
            channel.send_nowait(b"a")


async def test_a_closed_byte_stream_channel_raises_on_every_operation(pair: Pair) -> None:
    channel, peer = pair
    async with peer, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await channel.receive_batch()

        await wait_all_tasks_blocked()
        with assert_checkpoints():
            await channel.aclose()
        await channel.aclose()
        for operation in (channel.receive_batch, channel.receive):
            with pytest.raises(trio.ClosedResourceError):
                await operation()
        for frames in ([], [b"a"]):
            with pytest.raises(trio.ClosedResourceError):
                await channel.send_batch(frames)
        with pytest.raises(trio.ClosedResourceError):
            channel.send_nowait(b"a")
        assert await peer.receive_some() == b""


async def test_a_byte_stream_channel_closes_although_cancelled(pair: Pair) -> None:
    channel, peer = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.aclose()
    assert scope.cancelled_caught
    assert await peer.receive_some() == b""
    await peer.aclose()


async def test_a_byte_stream_channel_allows_one_task_per_direction() -> None:
    ours, theirs = lockstep_stream_pair()
    channel = ByteStreamChannel(ours, MAX)
    async with channel, theirs, trio.open_nursery() as nursery:
        nursery.start_soon(channel.send_batch, [b"a"])
        nursery.start_soon(channel.receive_batch)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await channel.send_batch([b"b"])
        with pytest.raises(trio.BusyResourceError):
            await channel.receive_batch()
        assert not channel.send_nowait(b"b")
        assert await theirs.receive_some() == b"a\n"
        await theirs.send_all(b"b\n")


async def test_a_cancelled_receive_loses_nothing(pair: Pair) -> None:
    channel, peer = pair
    async with channel, peer:
        await peer.send_all(b"a")
        await cancelled(channel.receive_batch)
        await peer.send_all(b"b\n")
        assert await channel.receive_batch() == [b"ab"]


async def test_a_cancelled_send_breaks_a_stream() -> None:
    ours, theirs = lockstep_stream_pair()
    channel = ByteStreamChannel(ours, MAX)
    async with channel, theirs:
        await cancelled(channel.send_batch, [b"a"])
        assert not channel.needs_flush
        with pytest.raises(trio.BrokenResourceError):
            await channel.send(b"b")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, b"c\n")
            assert await channel.receive() == b"c"


async def test_a_stream_takes_nothing_without_waiting() -> None:
    channel, peer = memory()
    async with channel, peer:
        with assert_no_checkpoints():
            assert not channel.send_nowait(b"a")
        assert not channel.needs_flush


async def test_a_socket_takes_frames_without_waiting() -> None:
    channel, peer = sockets()
    async with channel, peer:
        with assert_no_checkpoints():
            assert channel.send_nowait(b"a")
        assert await peer.receive_some() == b"a\n"

        expected = fill(channel) + b"\nz\n"
        # The rest of the last frame, and one more, survive cancelled attempts to write them.
        await cancelled(channel.send_batch, [b"z"])
        await cancelled(channel.send_batch, [])
        assert channel.needs_flush
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send_batch, [])
            assert await read_all(peer, len(expected)) == expected
        assert not channel.needs_flush


async def test_a_full_socket_takes_no_frame() -> None:
    ours, theirs = socket.socketpair()
    fill_socket(ours)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    async with ByteStreamChannel(stream, MAX) as channel:
        assert not channel.send_nowait(b"a")
        assert not channel.needs_flush
    theirs.close()


async def test_a_socket_breaks_without_waiting() -> None:
    channel, peer = sockets()
    await peer.aclose()
    async with channel:
        with pytest.raises(trio.BrokenResourceError):
            channel.send_nowait(b"a")


async def test_a_socket_closed_or_broken_during_a_send() -> None:
    for close_ours, error in ((True, trio.ClosedResourceError), (False, trio.BrokenResourceError)):
        channel, peer = sockets()
        fill(channel)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _(channel: BatchChannel = channel, error: type[Exception] = error) -> None:
                with pytest.raises(error):
                    await channel.send_batch([])

            await wait_all_tasks_blocked()
            await (channel.aclose() if close_ours else peer.aclose())
        await channel.aclose()
        await peer.aclose()


async def test_a_socket_closed_right_after_a_send(monkeypatch: pytest.MonkeyPatch) -> None:
    channel, peer = sockets()
    fill(channel)

    async def send(data: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        channel._writer.close()
        return 1

    monkeypatch.setattr(type(channel._stream.socket), "send", lambda self, data: send(data))  # type: ignore[attr-defined]
    with pytest.raises(trio.ClosedResourceError):
        await channel.send_batch([])
    await channel.aclose()
    await peer.aclose()


async def test_receive_hands_out_a_batch_frame_by_frame(pair: Pair) -> None:
    channel, peer = pair
    async with channel, peer:
        await peer.send_all(b"a\nb\n" + b"x" * 200 + b"\nc\n")
        with assert_checkpoints():
            assert await channel.receive() == b"a"
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.receive()
        assert scope.cancelled_caught
        with assert_checkpoints():
            assert await channel.receive() == b"b"
        with pytest.raises(trio.BrokenResourceError, match="too long"):
            await channel.receive()
        assert await channel.receive() == b"c"


class Memory(trio.abc.Channel[bytes]):
    """A channel of another library."""

    def __init__(self, capacity: int) -> None:
        self.outgoing, self.peer_receive = trio.open_memory_channel[bytes](capacity)
        self.peer_send, self.incoming = trio.open_memory_channel[bytes](10)

    async def send(self, value: bytes) -> None:
        await self.outgoing.send(value)

    async def receive(self) -> bytes:
        return await self.incoming.receive()

    async def aclose(self) -> None:
        self.outgoing.close()
        self.incoming.close()
        await trio.lowlevel.checkpoint()


async def test_a_foreign_channel_is_adapted_to_a_batch_channel() -> None:
    foreign = Memory(10)
    channel = as_batch_channel(foreign)
    await foreign.peer_send.send(b"a")
    with assert_checkpoints():
        assert await channel.receive_batch() == [b"a"]
    frames: Sequence[bytes]
    for frames in ([], [b"1", b"2"]):
        with assert_checkpoints():
            await channel.send_batch(frames)
    assert [foreign.peer_receive.receive_nowait() for _ in frames] == [b"1", b"2"]
    assert not channel.send_nowait(b"3")
    await channel.aclose()
    with pytest.raises(trio.EndOfChannel):
        foreign.peer_receive.receive_nowait()


async def test_a_foreign_channel_keeps_what_a_cancelled_send_left() -> None:
    foreign = Memory(1)
    channel = as_batch_channel(foreign)
    await cancelled(channel.send_batch, [b"1", b"2"])
    assert channel.needs_flush
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.send_batch, [b"3"])
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await channel.send(b"4")
        assert [await foreign.peer_receive.receive() for _ in range(3)] == [b"1", b"2", b"3"]
    assert not channel.needs_flush


async def test_a_batch_channel_is_its_own_view() -> None:
    channel, peer = memory()
    async with channel, peer:
        assert as_batch_channel(channel) is channel
