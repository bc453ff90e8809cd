"""The bridge to a socket, on real pipes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.cli.connect.peers import host_on_pipes
from tests.cli.programs import HANG_GUARD, Connection
from trio_mcp_session.cli.connect.host_ending import HostEnding
from trio_mcp_session.cli.connect.socket_bridge import SocketBridge
from trio_mcp_session.transports.framed_io import READ_SIZE, FrameReader, FrameWriter, PairedChannel

ALL_BYTES = bytes(range(256)) * 40
GRACE = 10.0


@attrs.define(eq=False)
class Running:
    host: Connection
    server: trio.abc.HalfCloseableStream
    bridge: SocketBridge
    ended: trio.Event = attrs.field(factory=trio.Event)
    ending: HostEnding | None = None

    async def run(self) -> None:
        self.ending = await self.bridge.run()
        self.ended.set()

    async def wait(self) -> HostEnding:
        await self.ended.wait()
        assert self.ending is not None
        return self.ending


@asynccontextmanager
async def bridged(grace: float = GRACE) -> AsyncIterator[Running]:
    with trio.fail_after(HANG_GUARD):  # noqa: ASYNC100  # around the block
        async with host_on_pipes() as (channel, host), trio.open_nursery() as nursery:
            near, far = trio.socket.socketpair()
            client, server = trio.SocketStream(near), trio.SocketStream(far)
            one = Running(host, server, SocketBridge(channel, client, grace))
            async with client, server:
                nursery.start_soon(one.run)
                yield one
                nursery.cancel_scope.cancel()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(piece) async for piece in stream])


async def test_bytes_are_carried_unchanged_and_both_ends_are_passed_on() -> None:
    async with bridged() as one:
        await one.host.sink.send_all(ALL_BYTES)
        await one.host.sink.aclose()
        # The end of input closes one direction: the server can still answer.
        assert await read_all(one.server) == ALL_BYTES
        await one.server.send_all(ALL_BYTES[::-1])
        await one.server.aclose()
        ending = await one.wait()
        await one.bridge._host.aclose()
        assert await read_all(one.host.lines.stream) == ALL_BYTES[::-1]
    assert ending.host_left
    assert ending.scope.deadline > trio.current_time()


async def test_a_server_that_leaves_first_ends_the_bridge_with_all_that_it_has_sent() -> None:
    async with bridged() as one:
        await one.server.send_all(b"last words\n")
        await one.server.aclose()
        assert await one.host.lines.next() == "last words"
        assert not (await one.wait()).host_left


async def test_a_server_that_has_left_is_noticed_by_writing_too() -> None:
    async with bridged() as one:
        # It closes with unread data: the connection is reset.
        await one.host.sink.send_all(b"unread\n")
        assert isinstance(one.server, trio.SocketStream)
        await trio.lowlevel.wait_readable(one.server.socket)
        await one.server.aclose()
        await one.host.sink.send_all(b"more\n")
        assert not (await one.wait()).host_left


async def test_a_server_that_does_not_finish_has_its_grace() -> None:
    async with bridged(grace=0.01) as one:
        await one.host.sink.aclose()
        ending = await one.wait()
        assert ending.host_left
        assert ending.scope.deadline <= trio.current_time()


async def test_a_host_that_no_longer_reads_ends_the_bridge() -> None:
    async with bridged() as one:
        await one.host.lines.stream.aclose()
        assert (await one.wait()).host_left


async def test_a_signal_ends_the_bridge() -> None:
    async with bridged() as one:
        one.bridge.stop()
        assert not (await one.wait()).host_left


# With fakes, whose failures are certain, and in virtual time.


@attrs.define(eq=False, repr=False)
class FakeReader(FrameReader):
    async def _read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    def close(self) -> None: ...


@attrs.define(eq=False, repr=False)
class FakeWriter(FrameWriter):
    breaks: bool = False
    stalled: bytes = b""

    def _write(self, data: bytes) -> int:
        raise trio.WouldBlock  # pragma: no cover  # what is sent waits in the tail

    async def _flush(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.breaks:
            raise self._break()
        self.stalled += b"".join(self._tail)
        await trio.sleep_forever()

    def close(self) -> None: ...


def fake_host(*, breaks: bool = False) -> tuple[PairedChannel, FakeWriter]:
    writer = FakeWriter()
    writer.breaks = breaks
    return PairedChannel(FakeReader(1000), writer), writer


async def test_a_host_that_fails_or_does_not_read_holds_one_piece_only(
    autojump_clock: MockClock,
) -> None:
    host, writer = fake_host()
    near, far = memory_stream_pair()
    bridge = SocketBridge(host, near, GRACE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.run)
        await far.send_all(b"x" * 10 * READ_SIZE)
        await wait_all_tasks_blocked()
        assert len(writer.stalled) == READ_SIZE
    # The host's failure is its end: the server had its grace.
    assert trio.current_time() == GRACE


async def test_a_write_that_shows_that_the_host_is_gone_ends_the_bridge(
    autojump_clock: MockClock,
) -> None:
    host, _ = fake_host(breaks=True)
    near, far = memory_stream_pair()
    await far.send_all(b"x")
    ending = await SocketBridge(host, near, GRACE).run()
    assert ending.host_left
    assert trio.current_time() == 0


@attrs.define(eq=False, repr=False)
class EndlessReader(FakeReader):
    async def _read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"x"


async def test_a_server_that_takes_nothing_but_stays_ends_the_bridge_after_the_grace(
    autojump_clock: MockClock,
) -> None:
    near, far = memory_stream_pair()
    await far.receive_stream.aclose()
    host = PairedChannel(EndlessReader(1000), FakeWriter())
    ending = await SocketBridge(host, near, GRACE).run()
    assert not ending.host_left
    assert trio.current_time() == GRACE
