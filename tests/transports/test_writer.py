"""The one writer of a channel: order, batches, limits, failures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import inf

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from trio_mcp_session import BatchChannel, TerminationReason
from trio_mcp_session.protocol.framing import Frame
from trio_mcp_session.transports.writer import BATCH_SIZE, ConnectionWriter


class Wire(BatchChannel):
    """A channel to a peer that reads, stalls or breaks as the test wishes.

    `send_nowait` takes a whole frame, half of one, or none, by ``direct``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[str, list[bytes]]] = []
        self.direct: str = "whole"
        self.stalled = False
        self.error: Exception | None = None
        self.resumed = trio.Event()
        self.half: list[bytes] = []

    async def receive_batch(self) -> list[Frame]:
        raise NotImplementedError  # pragma: no cover  # writers only send

    async def send_batch(self, frames: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        if self.stalled:
            await self.resumed.wait()
        if self.error is not None:
            raise self.error
        self.written.append(("batch", [*self.half, *frames]))
        self.half = []

    def send_nowait(self, frame: bytes) -> bool:
        if self.error is not None:
            raise self.error
        if self.direct == "none":
            return False
        if self.direct == "half":
            self.half = [frame]
        else:
            self.written.append(("direct", [frame]))
        return True

    @property
    def needs_flush(self) -> bool:
        return bool(self.half)

    async def aclose(self) -> None: ...

    def stall(self) -> None:
        self.stalled, self.direct, self.resumed = True, "none", trio.Event()

    def resume(self) -> None:
        self.stalled, self.direct = False, "whole"
        self.resumed.set()


class Fixture:
    def __init__(self, limit: int, timeout: float) -> None:
        self.wire = Wire()
        self.failures: list[TerminationReason] = []
        self.writer = ConnectionWriter(channel=self.wire, limit=limit, timeout=timeout)


@asynccontextmanager
async def opened(*, limit: int = 10, timeout: float = 30) -> AsyncIterator[Fixture]:
    async with trio.open_nursery() as nursery:
        fixture = Fixture(limit, timeout)
        fixture.writer.open(nursery, fixture.failures.append)
        yield fixture
        fixture.writer.close()


async def test_the_writer_writes_at_once_while_the_connection_takes_it(
    autojump_clock: MockClock,
) -> None:
    async with opened() as f:
        with assert_no_checkpoints():
            f.writer.send_result(b"1")
            assert f.writer.send_message(b"2")
            f.writer.send_no_result()
            assert not f.writer.full
        assert f.wire.written == [("direct", [b"1"]), ("direct", [b"2"])]
        with assert_checkpoints():
            await f.writer.finish()
        with assert_checkpoints():
            await f.writer.wait_writable()
        assert f.failures == []
        assert repr(f.writer) == "<ConnectionWriter: 0 bytes waiting>"


async def test_what_cannot_be_written_waits_in_order(autojump_clock: MockClock) -> None:
    async with opened(limit=1000) as f:
        f.wire.stall()
        f.writer.send_result(b"r0")
        await wait_all_tasks_blocked()
        for frame in (b"r1", b"r2", b"m1", b"m2", b"r3", b"m3", b"r4", b"r5"):
            if frame.startswith(b"r"):
                f.writer.send_result(frame)
            else:
                assert f.writer.send_message(frame)
        assert repr(f.writer) == "<ConnectionWriter: 18 bytes waiting>"
        assert f.wire.written == []
        f.wire.resume()
        # Nothing overtakes what waits, although there would be room now.
        f.writer.send_result(b"r6")
        await f.writer.finish()
        # A write holds results only, or one other message.
        assert f.wire.written == [
            ("batch", [b"r0"]),
            ("batch", [b"r1", b"r2"]),
            ("batch", [b"m1"]),
            ("batch", [b"m2"]),
            ("batch", [b"r3"]),
            ("batch", [b"m3"]),
            ("batch", [b"r4", b"r5", b"r6"]),
        ]
        # The writer is gone, and the direct way open again.
        f.writer.send_result(b"r7")
        assert f.wire.written[-1] == ("direct", [b"r7"])


async def test_the_rest_of_a_frame_goes_first(autojump_clock: MockClock) -> None:
    async with opened(limit=1000) as f:
        f.wire.direct = "half"
        assert f.writer.send_message(b"m")
        assert repr(f.writer) == "<ConnectionWriter: 1 bytes waiting>"
        f.writer.send_result(b"r")
        await f.writer.finish()
        # It may have been progress: its rest shares no write with a result either.
        assert f.wire.written == [("batch", [b"m"]), ("batch", [b"r"])]


async def test_a_burst_is_written_together(autojump_clock: MockClock) -> None:
    async with opened(limit=1000) as f:
        with assert_no_checkpoints():
            f.writer.gather()
            for frame in (b"1", b"2", b"3"):
                f.writer.send_result(frame)
        assert f.wire.written == []
        await f.writer.finish()
        assert f.wire.written == [("batch", [b"1", b"2", b"3"])]
        # That was for once.
        f.writer.send_result(b"4")
        assert f.wire.written[-1] == ("direct", [b"4"])


async def test_the_next_burst_comes_in_while_one_is_written(autojump_clock: MockClock) -> None:
    async with opened(limit=1000) as f:
        f.wire.stall()
        f.writer.gather()
        f.writer.send_result(b"1")
        await wait_all_tasks_blocked()
        f.writer.gather()
        f.wire.resume()
        await f.writer.finish()
        f.writer.send_result(b"2")
        f.writer.send_result(b"3")
        await f.writer.finish()
        assert f.wire.written == [("batch", [b"1"]), ("batch", [b"2", b"3"])]


async def test_frames_are_written_in_batches_of_bounded_size(autojump_clock: MockClock) -> None:
    """The peer has its time for each: more of them are more patience with a slow reader."""
    async with opened(limit=BATCH_SIZE * 10) as f:
        frames = [b"1" * (BATCH_SIZE - 1), b"2" * 10, b"3" * (BATCH_SIZE + 7), b"4"]
        f.writer.gather()
        for frame in frames:
            f.writer.send_result(frame)
        await f.writer.finish()
        assert f.wire.written == [
            ("batch", frames[:2]),
            ("batch", [frames[2]]),
            ("batch", [frames[3]]),
        ]


def is_full(f: Fixture) -> bool:
    with assert_no_checkpoints():
        return f.writer.full


async def test_messages_above_the_output_limit_are_refused_and_results_are_not(
    autojump_clock: MockClock,
) -> None:
    async with opened(limit=10) as f:
        f.wire.stall()
        assert f.writer.send_message(b"x" * 9)
        await wait_all_tasks_blocked()
        # What is being written counts, too.
        assert not is_full(f)
        assert f.writer.send_message(b"y")
        assert is_full(f)
        assert not f.writer.send_message(b"z")
        # Results are never refused: they are the reader's to hold back.
        f.writer.send_result(b"r" * 100)
        woken = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with assert_checkpoints():
                    await f.writer.wait_writable()
                woken.append(len(f.wire.written))

            await wait_all_tasks_blocked()
            assert woken == []
            f.wire.resume()
        # Only when it is below the limit again, which took three writes.
        assert woken == [3]
        assert not is_full(f)
        assert f.writer.send_message(b"z")
        assert f.wire.written[-1] == ("direct", [b"z"])
        assert f.failures == []


async def test_waiting_can_be_cancelled(autojump_clock: MockClock) -> None:
    async with opened(limit=1) as f:
        f.wire.stall()
        f.writer.send_result(b"r")
        for wait in (f.writer.wait_writable, f.writer.finish):
            with trio.move_on_after(1) as scope:
                await wait()
            assert scope.cancelled_caught
        f.wire.resume()
        await f.writer.finish()
        assert f.wire.written == [("batch", [b"r"])]


async def test_a_peer_that_stops_reading(autojump_clock: MockClock) -> None:
    async with opened(limit=5, timeout=30) as f:
        f.wire.stall()
        start = trio.current_time()
        f.writer.send_result(b"first")
        f.writer.send_result(b"second")
        await trio.sleep(29)
        assert f.failures == []
        async with trio.open_nursery() as nursery:
            # Tasks that wait are woken.
            nursery.start_soon(f.writer.wait_writable)
            nursery.start_soon(f.writer.finish)
        assert trio.current_time() == start + 30
        assert f.failures == [TerminationReason.UNRESPONSIVE]
        # From now on it swallows everything, at once and silently.
        f.wire.resume()
        with assert_no_checkpoints():
            f.writer.send_result(b"r")
            assert f.writer.send_message(b"m")
            assert not f.writer.full
        await f.writer.finish()
        assert f.wire.written == []
        assert len(f.failures) == 1


async def test_the_clock_is_one_for_each_write(autojump_clock: MockClock) -> None:
    async with opened(limit=1000, timeout=30) as f:
        f.wire.stall()
        f.writer.send_result(b"1")
        await trio.sleep(20)
        assert f.writer.send_message(b"2")
        assert f.writer.send_message(b"3")
        for number in (1, 2, 3):
            resumed = f.wire.resumed
            f.wire.resumed = trio.Event()
            resumed.set()
            await wait_all_tasks_blocked()
            assert len(f.wire.written) == number
            await trio.sleep(20)
        assert f.failures == []


async def test_without_a_send_timeout_the_writer_waits_for_a_stalled_connection(
    autojump_clock: MockClock,
) -> None:
    async with opened(timeout=inf) as f:
        f.wire.stall()
        f.writer.send_result(b"1")
        await trio.sleep(80_000)
        f.wire.resume()
        await f.writer.finish()
        assert f.failures == []


@pytest.mark.parametrize("error", [trio.BrokenResourceError, trio.ClosedResourceError])
@pytest.mark.parametrize("way", ["direct", "queued"])
async def test_a_broken_connection_is_reported_once_and_drops_output(
    error: type[Exception], way: str, autojump_clock: MockClock
) -> None:
    async with opened(limit=5) as f:
        if way == "queued":
            f.wire.stall()
            f.writer.send_result(b"first")
            await wait_all_tasks_blocked()
        f.wire.error = error()
        f.wire.resume()
        f.writer.send_result(b"second")
        await f.writer.finish()
        assert f.failures == [TerminationReason.TRANSPORT_FAILED]
        assert f.wire.written == []
        assert f.writer.send_message(b"m")
        await f.writer.wait_writable()
        assert len(f.failures) == 1


async def test_an_unexpected_error_comes_out(autojump_clock: MockClock) -> None:
    """A channel with a bug: its owner gets the error, and no task is left waiting."""
    wire = Wire()
    failures: list[TerminationReason] = []
    writer = ConnectionWriter(channel=wire, limit=5, timeout=30)
    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:
            writer.open(nursery, failures.append)
            wire.stall()
            writer.send_result(b"first")
            await wait_all_tasks_blocked()
            wire.error = ValueError("bug")
            wire.resume()
            await trio.sleep_forever()
    assert failures == [TerminationReason.TRANSPORT_FAILED]
    await writer.finish()
    await writer.wait_writable()


async def test_close_discards_the_queue_without_a_failure(autojump_clock: MockClock) -> None:
    async with opened(limit=5) as f:
        f.wire.stall()
        f.writer.send_result(b"first")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(f.writer.wait_writable)
            nursery.start_soon(f.writer.finish)
            await wait_all_tasks_blocked()
            with assert_no_checkpoints():
                f.writer.close()
        # It was not a failure, and is over once and for all.
        assert f.failures == []
        assert (f.writer.connected, f.writer.reachable) == (False, False)
        f.wire.resume()
        f.writer.send_result(b"more")
        f.writer.close()
        assert f.wire.written == []


async def test_a_cancellation_from_outside_waits_for_the_last_words(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        wire = Wire()
        failures: list[TerminationReason] = []
        writer = ConnectionWriter(channel=wire, limit=5, timeout=30)
        writer.open(nursery, failures.append)
        wire.stall()
        writer.send_result(b"last words")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
            wire.resume()
            await writer.finish()
        assert wire.written == [("batch", [b"last words"])]


async def test_a_connection_is_there_until_it_breaks(autojump_clock: MockClock) -> None:
    async with opened() as f:
        assert (f.writer.connected, f.writer.reachable) == (True, True)
        # It is not a stream of one request, which its client could resume.
        with assert_no_checkpoints():
            assert not f.writer.close_stream(None)
            assert not f.writer.close_stream(1)
        assert (f.writer.connected, f.writer.reachable) == (True, True)
        f.wire.error = trio.BrokenResourceError()
        f.writer.send_result(b"r")
        assert (f.writer.connected, f.writer.reachable) == (False, False)
