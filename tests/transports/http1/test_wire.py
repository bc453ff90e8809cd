"""A socket with patience. What it is for is shown by the tests of connections and exchanges."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from math import inf

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session.transports.asgi import ClientDisconnected
from trio_mcp_session.transports.http1.limits import HttpServerLimits
from trio_mcp_session.transports.http1.wire import Wire

from .serving import BeforeStep


class Ends:
    """Both ends of a connection."""

    def __init__(self, limits: HttpServerLimits | None = None) -> None:
        ours, self.theirs = socket.socketpair()
        for end in (ours, self.theirs):
            end.settimeout(0)
        self.wire = Wire(ours, limits or HttpServerLimits())


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.wire._socket.close()
    ends.theirs.close()


async def test_read_returns_bytes_until_the_client_disconnects(ends: Ends) -> None:
    ends.theirs.send(b"abc")
    assert await ends.wire.read(inf) == b"abc"
    ends.theirs.send(b"defg")
    assert await ends.wire.read(inf, room=2) == b"de"
    assert await ends.wire.read(inf, room=2) == b"fg"
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            assert await ends.wire.read(1e9) == b"h"

        await wait_all_tasks_blocked()
        assert ends.wire.read_deadline == 1e9
        ends.theirs.send(b"h")
    assert ends.wire.read_deadline == inf
    ends.theirs.close()
    with pytest.raises(ClientDisconnected):
        await ends.wire.read(inf)
    with pytest.raises(ClientDisconnected):
        await ends.wire.read(inf)
    assert not ends.wire.broken


async def test_read_stops_at_the_limit_of_bytes_read_ahead() -> None:
    ends = Ends(HttpServerLimits(max_ahead=2))
    ends.theirs.send(b"abc")
    assert await ends.wire.read(inf) == b"ab"
    ends.wire.close()
    ends.theirs.close()


async def test_reading_what_is_there_is_a_checkpoint_too(ends: Ends) -> None:
    ends.theirs.send(b"abc")
    assert await ends.wire.read(inf, room=1) == b"a"
    with trio.CancelScope() as scope:
        scope.cancel()
        await ends.wire.read(inf)
    assert scope.cancelled_caught
    assert await ends.wire.read(inf) == b"bc"


async def test_wake_interrupts_a_waiting_read(ends: Ends) -> None:
    begun = trio.Event()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            begun.set()
            with pytest.raises(trio.ClosedResourceError):
                await ends.wire.read(inf)

        await begun.wait()
        ends.wire.wake()
    ends.theirs.send(b"b")
    assert await ends.wire.read(inf) == b"b"


async def test_time_that_was_up_is_forgotten(ends: Ends) -> None:
    async def read(expected: type[Exception]) -> None:
        with pytest.raises(expected):
            await ends.wire.read(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, trio.TooSlowError)
        await wait_all_tasks_blocked()
        ends.wire.expire(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, trio.ClosedResourceError)
        await wait_all_tasks_blocked()
        ends.wire.wake()


async def test_a_read_waits_again_when_the_bytes_are_already_gone(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            assert await ends.wire.read(inf) == b"b"

        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(BeforeStep(lambda: ends.wire._socket.recv(1)))
        ends.theirs.send(b"a")
        await wait_all_tasks_blocked()
        ends.theirs.send(b"b")


async def test_a_connection_that_breaks_is_broken_for_both_directions() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    ours.settimeout(0)
    wire = Wire(ours, HttpServerLimits())
    other = Wire(theirs, HttpServerLimits())
    other.cut(reset=True)
    other.close()
    assert other.broken
    with pytest.raises(ClientDisconnected):
        await wire.read(inf)
    assert wire.broken
    assert not wire.has_unread()
    # There is nothing left that could be done to it.
    wire.write_last(b"x")
    wire.cut(reset=True)
    wire.close()
    wire.end()
    wire.cut(reset=True)
    listener.close()


async def test_a_write_to_a_closed_connection_raises_client_disconnected(ends: Ends) -> None:
    ends.theirs.close()
    with pytest.raises(ClientDisconnected):
        await ends.wire.write(b"abc")
    assert ends.wire.broken


async def test_a_large_write_continues_when_there_is_room(
    ends: Ends, mock_clock: MockClock
) -> None:
    data = bytes(range(256)) * 4096 * 4
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.wire.write, data)
        await wait_all_tasks_blocked()
        assert ends.wire.write_deadline == 30
        # A task that is woken without a reason continues to write, and gets no further time.
        mock_clock.jump(5)
        ends.wire.wake()
        await wait_all_tasks_blocked()
        assert ends.wire.write_deadline == 30
        while len(got) < len(data):
            await trio.lowlevel.wait_readable(ends.theirs)
            got += ends.theirs.recv(1_000_000)
    assert got == data
    assert ends.wire.write_deadline == inf
    assert not ends.wire.broken


async def test_a_waiting_write_raises_when_the_client_closes(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(ClientDisconnected):
                await ends.wire.write(b"x" * 10_000_000)

        await wait_all_tasks_blocked()
        ends.theirs.close()
    assert ends.wire.broken


async def test_close_makes_waiting_reads_and_writes_raise(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(ClientDisconnected):
                await ends.wire.write(b"x" * 10_000_000)

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ends.wire.read(inf)

        await wait_all_tasks_blocked()
        ends.wire.close()


async def test_the_last_words_do_not_wait(ends: Ends) -> None:
    ends.wire.write_last(b"bye")
    assert ends.theirs.recv(10) == b"bye"
    assert ends.theirs.recv(10) == b""


async def test_there_is_no_room_for_last_words(ends: Ends) -> None:
    with trio.move_on_after(0):
        await ends.wire.write(b"x" * 10_000_000)
    assert ends.wire.broken
    ends.wire.write_last(b"bye")
    got = b""
    while data := ends.theirs.recv(1_000_000):
        got += data
    assert b"bye" not in got
