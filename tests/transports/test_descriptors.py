from __future__ import annotations

import os
import pty
import socket
import sys
import threading
import tty
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

from trio_mcp_session.protocol.framing import BadFrame, Loss
from trio_mcp_session.transports import descriptors
from trio_mcp_session.transports.channel import BatchChannel
from trio_mcp_session.transports.descriptors import (
    DescriptorChannel,
    ThreadedDescriptorChannel,
    open_descriptor_channel,
)
from trio_mcp_session.transports.framed_io import PairedChannel

MAX = 8 * 2**20
Make = Callable[[int, int, int], BatchChannel]


class Ends:
    """Two pipes: the channel's descriptors, and the peer's."""

    def __init__(self) -> None:
        self.read_fd, self.peer_write = os.pipe()
        self.peer_read, self.write_fd = os.pipe()

    def close_peer_read(self) -> None:
        os.close(self.peer_read)
        self.peer_read = -1

    def close_peer_write(self) -> None:
        os.close(self.peer_write)
        self.peer_write = -1


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    for fd in (ends.peer_read, ends.peer_write):
        if fd >= 0:
            os.close(fd)


@pytest.fixture(params=[DescriptorChannel, ThreadedDescriptorChannel])
def make(request: pytest.FixtureRequest) -> Make:
    result: Make = request.param
    return result


def is_open(fd: int) -> bool:
    with suppress(OSError):
        os.fstat(fd)
        return True
    return False


def drain(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += os.read(fd, 2**20)
    return bytes(data)


async def cancelled(operation: Callable[..., Awaitable[object]], *args: object) -> None:
    """Cancel ``operation`` as soon as it waits."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(operation, *args)
        await wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread does when no task waits for it."""
    with trio.fail_after(5):
        while True:
            await trio.sleep(0.001)  # The thread can't set an event.
            if condition():  # pragma: no branch - the thread may have been quicker
                return


def fill(fd: int) -> int:
    """Fill a pipe to the brim; returns how many bytes it took."""
    was_blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    count = 0
    for size in (65536, 1):
        with suppress(BlockingIOError):
            while True:
                count += os.write(fd, b"\n" * size)
    os.set_blocking(fd, was_blocking)
    return count


async def test_frames_pass_through_descriptors_in_both_directions(make: Make, ends: Ends) -> None:
    async with make(ends.read_fd, ends.write_fd, MAX) as channel:
        os.write(ends.peer_write, b"a\n\nb\r\nc")
        with assert_checkpoints():
            assert await channel.receive_batch() == [b"a", b"b"]
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                await wait_all_tasks_blocked(0.01)
                os.write(ends.peer_write, b"c\n")

            assert await channel.receive_batch() == [b"cc"]
        with assert_checkpoints():
            await channel.send_batch([b"1", b"2"])
        with assert_checkpoints():
            await channel.send_batch([])
        with assert_checkpoints():
            await channel.send(b"3")
        assert os.read(ends.peer_read, 100) == b"1\n2\n3\n"
        assert not channel.needs_flush


async def test_every_receive_is_a_checkpoint(make: Make, ends: Ends) -> None:
    frame = b"x" * 4095
    async with make(ends.read_fd, ends.write_fd, MAX) as channel:
        received = 0
        # 16 of these fill a read exactly: the next one doesn't wait for the descriptor first.
        for _ in range(4):
            os.write(ends.peer_write, (frame + b"\n") * 16)
            with assert_checkpoints():
                received += len(await channel.receive_batch())
        assert received == 64
        await cancelled(channel.receive_batch)


async def test_a_line_of_5_mib_both_ways(make: Make, ends: Ends) -> None:
    line = os.urandom(5 * 2**20 // 2).hex().encode()
    async with make(ends.read_fd, ends.write_fd, MAX) as channel, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            await trio.to_thread.run_sync(write_line)
            assert await trio.to_thread.run_sync(drain, ends.peer_read, len(line) + 1) == (
                line + b"\n"
            )

        def write_line() -> None:
            data = line + b"\n"
            while data:
                data = data[os.write(ends.peer_write, data) :]

        assert await channel.receive_batch() == [line]
        await channel.send(line)


async def test_too_long_a_line(make: Make, ends: Ends) -> None:
    async with make(ends.read_fd, ends.write_fd, 10) as channel:
        os.write(ends.peer_write, b"x" * 2000 + b"\na\n")
        assert await channel.receive_batch() == [BadFrame(Loss.TOO_LONG), b"a"]


async def test_the_end_of_a_descriptor_marks_a_partial_frame_as_truncated(
    make: Make, ends: Ends
) -> None:
    async with make(ends.read_fd, ends.write_fd, MAX) as channel:
        os.write(ends.peer_write, b"a\nb")
        ends.close_peer_write()
        assert await channel.receive_batch() == [b"a"]
        assert await channel.receive_batch() == [BadFrame(Loss.TRUNCATED)]
        for _ in range(2):
            with assert_checkpoints(), pytest.raises(trio.EndOfChannel):
                await channel.receive_batch()


async def test_end_of_stream_while_waiting(make: Make, ends: Ends) -> None:
    async with (
        make(ends.read_fd, ends.write_fd, MAX) as channel,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(trio.EndOfChannel):
                await channel.receive_batch()

        await wait_all_tasks_blocked(0.01)
        ends.close_peer_write()


async def test_peer_no_longer_reads(make: Make, ends: Ends) -> None:
    async with make(ends.read_fd, ends.write_fd, MAX) as channel:
        ends.close_peer_read()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await channel.send(b"a")
        assert isinstance(caught.value.__cause__, BrokenPipeError)
        assert not channel.needs_flush
        with pytest.raises(trio.BrokenResourceError):
            await channel.send_batch([])
        with pytest.raises(trio.BrokenResourceError):
            channel.send_nowait(b"a")


async def test_peer_stops_reading_during_a_send(make: Make, ends: Ends) -> None:
    async with (
        make(ends.read_fd, ends.write_fd, MAX) as channel,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await channel.send(bytes(10**6))

        await wait_all_tasks_blocked(0.01)
        ends.close_peer_read()


async def test_a_cancelled_receive_loses_nothing(make: Make, ends: Ends) -> None:
    async with make(ends.read_fd, ends.write_fd, MAX) as channel:
        for start, end in ((b"a", b"b\n"), (b"c", b"d\n")):
            os.write(ends.peer_write, start)
            await cancelled(channel.receive_batch)
            await cancelled(channel.receive_batch)
            os.write(ends.peer_write, end)
            assert await channel.receive_batch() == [start + end[:-1]]


async def test_a_cancelled_send_is_completed_by_the_next(make: Make, ends: Ends) -> None:
    big = b"x" * 200_000
    async with make(ends.read_fd, ends.write_fd, MAX) as channel:
        await cancelled(channel.send_batch, [big, b"1"])
        await cancelled(channel.send_batch, [])
        await cancelled(channel.send_batch, [b"2"])
        assert channel.needs_flush
        assert not channel.send_nowait(b"3")
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.send(b"3")
        assert scope.cancelled_caught
        expected = big + b"\n1\n2\n3\n4\n"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send_batch, [b"4"])
            assert await trio.to_thread.run_sync(drain, ends.peer_read, len(expected)) == expected
        assert not channel.needs_flush


async def test_a_descriptor_channel_allows_one_task_per_direction(make: Make, ends: Ends) -> None:
    async with (
        make(ends.read_fd, ends.write_fd, MAX) as channel,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(channel.receive_batch)
        nursery.start_soon(channel.send, bytes(200_000))
        await wait_all_tasks_blocked(0.01)
        with pytest.raises(trio.BusyResourceError):
            await channel.receive_batch()
        with pytest.raises(trio.BusyResourceError):
            await channel.send(b"a")
        nursery.cancel_scope.cancel()


async def test_closing_a_descriptor_channel_wakes_waiting_tasks(make: Make, ends: Ends) -> None:
    channel = make(ends.read_fd, ends.write_fd, MAX)
    async with trio.open_nursery() as nursery:

        async def closed(operation: Callable[..., Awaitable[object]], *args: object) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await operation(*args)

        nursery.start_soon(closed, channel.receive_batch)
        nursery.start_soon(closed, channel.send, bytes(200_000))
        await wait_all_tasks_blocked(0.01)
        with assert_checkpoints():
            await channel.aclose()
    await channel.aclose()
    await closed(channel.receive_batch)
    await closed(channel.send_batch, [])
    with pytest.raises(trio.ClosedResourceError):
        channel.send_nowait(b"a")


async def test_a_descriptor_channel_closes_although_cancelled(make: Make, ends: Ends) -> None:
    channel = make(ends.read_fd, ends.write_fd, MAX)
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.aclose()
    assert scope.cancelled_caught
    assert not is_open(ends.read_fd)
    assert not is_open(ends.write_fd)


async def test_equal_or_bad_descriptors_are_refused(make: Make, ends: Ends) -> None:
    for maker in (make, open_descriptor_channel):
        with pytest.raises(ValueError, match="different descriptors"):
            maker(ends.read_fd, ends.read_fd, MAX)
        with pytest.raises(OSError, match="Bad file descriptor"):
            maker(ends.read_fd, 12345, MAX)
    assert os.get_blocking(ends.read_fd)
    os.close(ends.read_fd)
    os.close(ends.write_fd)


async def test_descriptors_closed_by_other_code_raise_broken_resource(
    make: Make, ends: Ends
) -> None:
    channel = make(ends.read_fd, ends.write_fd, MAX)
    os.close(ends.read_fd)
    os.close(ends.write_fd)
    with pytest.raises(trio.BrokenResourceError):
        await channel.receive_batch()
    with pytest.raises(trio.BrokenResourceError):
        await channel.send(b"a")
    await channel.aclose()


# Only without threads


async def test_the_blocking_mode_is_restored(ends: Ends) -> None:
    os.set_blocking(ends.write_fd, False)
    shared = [os.dup(ends.read_fd), os.dup(ends.write_fd)]
    channel = DescriptorChannel(ends.read_fd, ends.write_fd, MAX)
    assert not any(map(os.get_blocking, shared))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            async with channel:
                await channel.receive_batch()

        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [os.get_blocking(fd) for fd in shared] == [True, False]
    for fd in shared:
        os.close(fd)


async def test_both_directions_in_one_description() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with open_descriptor_channel(os.dup(ours.fileno()), os.dup(ours.fileno()), MAX) as c:
            assert not os.get_blocking(ours.fileno())
            assert c.send_nowait(b"a")
            assert theirs.recv(100) == b"a\n"
            theirs.send(b"b\n")
            assert await c.receive_batch() == [b"b"]
        assert os.get_blocking(ours.fileno())


async def test_send_nowait_writes_to_a_descriptor_until_it_is_full(ends: Ends) -> None:
    async with DescriptorChannel(ends.read_fd, ends.write_fd, MAX) as channel:
        with assert_no_checkpoints():
            assert channel.send_nowait(b"a")
        assert os.read(ends.peer_read, 100) == b"a\n"

        filled = fill(ends.write_fd)
        assert not channel.send_nowait(b"a")
        assert not channel.needs_flush
        drain(ends.peer_read, filled)

        big = b"x" * 200_000
        with assert_no_checkpoints():
            assert channel.send_nowait(big)
        assert not channel.send_nowait(b"a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send_batch, [b"a"])
            assert await trio.to_thread.run_sync(drain, ends.peer_read, len(big) + 3) == (
                big + b"\na\n"
            )
        assert channel.send_nowait(b"b")


async def test_send_nowait_to_a_closed_descriptor_breaks_the_channel(ends: Ends) -> None:
    async with DescriptorChannel(ends.read_fd, ends.write_fd, MAX) as channel:
        assert channel.send_nowait(bytes(200_000))
        ends.close_peer_read()
        assert not channel.send_nowait(b"a")
        with pytest.raises(trio.BrokenResourceError):
            await channel.send_batch([])
        assert not channel.needs_flush
    other = Ends()
    async with DescriptorChannel(other.read_fd, other.write_fd, MAX) as channel:
        other.close_peer_read()
        with pytest.raises(trio.BrokenResourceError):
            channel.send_nowait(b"a")
    other.close_peer_write()


async def test_descriptors_that_cannot_be_waited_for(ends: Ends, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\n")
    fd = os.open(path, os.O_RDONLY)
    async with DescriptorChannel(fd, ends.write_fd, MAX) as channel:
        assert await channel.receive_batch() == [b"a"]
        with pytest.raises(trio.BrokenResourceError):
            await channel.receive_batch()
    os.close(ends.read_fd)


async def test_closed_behind_the_back_of_a_waiting_writer(ends: Ends) -> None:
    async with DescriptorChannel(ends.read_fd, ends.write_fd, MAX) as channel:
        assert channel.send_nowait(bytes(200_000))

        def write(data: bytes | memoryview) -> int:
            os.close(ends.write_fd)
            return 0

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(channel._writer), "_write", lambda self, data: write(data))
            with pytest.raises(trio.BrokenResourceError):
                await channel.send_batch([])


async def test_closed_between_waking_and_running(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = DescriptorChannel(ends.read_fd, ends.write_fd, MAX)
    assert channel.send_nowait(bytes(200_000))

    async def checkpoint() -> None:
        channel._reader.close()

    async def wait_writable(fd: int) -> None:
        channel._writer.close()

    with monkeypatch.context() as patch:
        patch.setattr(trio.lowlevel, "checkpoint", checkpoint)
        patch.setattr(trio.lowlevel, "wait_writable", wait_writable)
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive_batch()
        with pytest.raises(trio.ClosedResourceError):
            await channel.send_batch([])
    await channel.aclose()


# Choosing


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield master, slave
    os.close(master)


def kinds(channel: PairedChannel) -> tuple[bool, bool]:
    """Which directions go without threads."""
    return (
        isinstance(channel._reader, descriptors._NonBlockingReader),
        isinstance(channel._writer, descriptors._NonBlockingWriter),
    )


async def test_each_direction_is_chosen_by_itself(ends: Ends, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\nb\nc")
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    async with open_descriptor_channel(os.open(path, os.O_RDONLY), ends.write_fd, MAX) as channel:
        assert kinds(channel) == (False, True)
        assert await channel.receive_batch() == [b"a", b"b"]
        assert await channel.receive_batch() == [BadFrame(Loss.TRUNCATED)]
        assert channel.send_nowait(b"1")
    async with open_descriptor_channel(ends.read_fd, out, MAX) as channel:
        assert kinds(channel) == (True, False)
        assert not channel.send_nowait(b"2")
        await channel.send_batch([b"2", b"3"])
    assert (tmp_path / "out").read_bytes() == b"2\n3\n"


async def test_a_channel_reads_and_writes_devices() -> None:
    fds = os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)
    async with open_descriptor_channel(*fds, MAX) as channel:
        assert kinds(channel) == (False, False)
        with pytest.raises(trio.EndOfChannel):
            await channel.receive_batch()
        await channel.send(b"a")


async def test_a_channel_reads_and_writes_a_terminal() -> None:
    with terminal() as (master, slave):
        async with open_descriptor_channel(slave, os.dup(slave), MAX) as channel:
            assert kinds(channel) == (False, False)
            assert os.get_blocking(slave)
            await cancelled(channel.receive_batch)
            os.write(master, b"a\n")
            assert await channel.receive_batch() == [b"a"]
            await channel.send(b"b")
            assert os.read(master, 100) == b"b\n"


async def test_what_standard_error_shares_needs_threads(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = os.dup(ends.write_fd)
    monkeypatch.setattr(descriptors, "STDERR", shared)
    async with open_descriptor_channel(ends.read_fd, ends.write_fd, MAX) as channel:
        assert kinds(channel) == (True, False)
        assert os.get_blocking(shared)
    os.close(shared)


async def test_standard_error_may_be_closed(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "STDERR", 12345)
    async with open_descriptor_channel(ends.read_fd, ends.write_fd, MAX) as channel:
        assert kinds(channel) == (True, True)


# Only with threads


async def test_a_thread_keeps_its_descriptor_until_it_is_done(ends: Ends) -> None:
    before = threading.active_count()
    channel = ThreadedDescriptorChannel(ends.read_fd, ends.write_fd, MAX)
    await cancelled(channel.receive_batch)
    await cancelled(channel.send, bytes(65537))
    await channel.aclose()
    assert is_open(ends.read_fd)
    assert is_open(ends.write_fd)
    os.write(ends.peer_write, b"a\n")
    os.read(ends.peer_read, 65536)
    await wait_until(lambda: not (is_open(ends.read_fd) or is_open(ends.write_fd)))
    assert threading.active_count() <= before + 2


async def test_closed_before_the_thread_begins(ends: Ends) -> None:
    channel = ThreadedDescriptorChannel(ends.read_fd, ends.write_fd, MAX)
    source = channel._reader._source  # type: ignore[attr-defined]
    calls: list[int] = []
    channel._reader.close()
    source._use(partial(calls.append, 1))
    assert calls == []
    await channel.aclose()


async def test_a_late_read_is_kept_for_the_next_call(ends: Ends) -> None:
    async with ThreadedDescriptorChannel(ends.read_fd, ends.write_fd, MAX) as channel:
        for _ in range(3):
            await cancelled(channel.receive_batch)
        os.write(ends.peer_write, b"a\n")
        await wait_until(lambda: bool(channel._reader._arrived))  # type: ignore[attr-defined]
        os.write(ends.peer_write, b"b\n")
        assert await channel.receive_batch() == [b"a"]
        assert await channel.receive_batch() == [b"b"]


async def test_a_late_write_leaves_the_next_call_nothing_to_do(ends: Ends) -> None:
    async with ThreadedDescriptorChannel(ends.read_fd, ends.write_fd, MAX) as channel:
        await cancelled(channel.send, bytes(200_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send_batch, [])
            await wait_all_tasks_blocked(0.01)
            assert await trio.to_thread.run_sync(drain, ends.peer_read, 200_001)
        assert not channel.needs_flush


# Readers.


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells without a write")
@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_an_end_that_is_closed_is_noticed_without_a_write(kind: str, ends: Ends) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        write_fd = ends.write_fd if kind == "pipe" else os.dup(ours.fileno())
        channel = open_descriptor_channel(ends.read_fd, write_fd, MAX)
        wait_not_read = channel.wait_not_read
        assert wait_not_read is not None
        async with channel:
            with trio.move_on_after(0) as scope:
                await wait_not_read()
            assert scope.cancelled_caught
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_not_read)
                await wait_all_tasks_blocked()
                assert channel.send_nowait(b"it may be written")
                await wait_all_tasks_blocked()
                assert len(nursery.child_tasks) == 1
                ends.close_peer_read()
                theirs.close()
        if kind == "socket":
            os.close(ends.write_fd)


async def test_a_thread_learns_of_it_only_by_writing(ends: Ends) -> None:
    async with ThreadedDescriptorChannel(ends.read_fd, ends.write_fd, MAX) as channel:
        assert channel.wait_not_read is None


async def test_another_system_is_not_asked(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    async with open_descriptor_channel(ends.read_fd, ends.write_fd, MAX) as channel:
        assert channel.wait_not_read is None
