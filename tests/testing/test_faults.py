from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from trio_mcp_session import (
    CleanupConfig,
    CleanupFailed,
    Router,
    SessionConfig,
    TerminationReason,
    open_session_manager,
    serve_stream,
)
from trio_mcp_session.testing import (
    FaultyChannel,
    FaultyContext,
    assert_no_leaks,
    connect_client,
    crash,
    cut_short,
    hang,
    refuse_cancellation,
)
from trio_mcp_session.transports.memory import MemoryChannel, memory_channel_pair

INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "c", "version": "1"},
        },
    }
).encode()


async def test_crash_raises_its_error_and_hang_waits_for_cancellation() -> None:
    with assert_checkpoints(), pytest.raises(OSError, match="mine"):
        await crash(OSError("mine"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await hang()
    assert scope.cancelled_caught


async def test_refusing_cancellation_takes_its_time(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await refuse_cancellation(5)
    assert trio.current_time() == 5
    assert not scope.cancelled_caught


async def test_a_context_without_faults_counts() -> None:
    context = FaultyContext()
    with assert_checkpoints():
        await context.__aenter__()
    assert (context.entered, context.leaving, context.left) == (1, 0, 0)
    with assert_checkpoints():
        await context.__aexit__(None, None, None)
    assert (context.entered, context.leaving, context.left) == (1, 1, 1)


async def test_a_context_that_fails() -> None:
    context = FaultyContext(enter=lambda: crash(OSError()))
    with pytest.raises(OSError):  # noqa: PT011  # any will do
        await context.__aenter__()
    assert (context.entered, context.leaving) == (0, 0)
    context = FaultyContext(leave=lambda: crash(OSError()))
    with pytest.raises(OSError):  # noqa: PT011  # any will do
        async with context:
            pass
    assert (context.entered, context.leaving, context.left) == (1, 1, 0)


@pytest.mark.parametrize(
    "leave, seconds",
    [
        (lambda: crash(OSError()), 0),
        (hang, 3),
        (lambda: refuse_cancellation(7), 7),
    ],
)
@pytest.mark.parametrize("held", [True, False])
async def test_clean_up_of_sessions_that_goes_wrong(
    leave: Callable[[], trio.abc.AsyncResource],
    seconds: float,
    held: bool,
    autojump_clock: MockClock,
) -> None:
    config = SessionConfig(cleanup=CleanupConfig(cleanup_budget=3))
    context = FaultyContext(leave=leave)  # type: ignore[arg-type]  # any awaitable
    async with open_session_manager(config=config) as manager:
        session = await manager.create_session(lifespan=None if held else lambda _: context)
        if held:
            await session.enter_async_context(context)
        session.terminate()
        await session.wait_terminated()
        assert trio.current_time() == seconds
        assert (context.entered, context.leaving) == (1, 1)
        assert (session.error is None) == (seconds == 7)
        assert session.error is None or isinstance(session.error, CleanupFailed)
        assert_no_leaks(manager, live=())


def faulty_pair() -> tuple[MemoryChannel, FaultyChannel]:
    here, there = memory_channel_pair(4)
    return here, FaultyChannel(there)


async def test_a_channel_without_faults_is_the_one_within() -> None:
    here, faulty = faulty_pair()
    with assert_checkpoints():
        await faulty.send_batch([b"a", b"b"])
    with assert_no_checkpoints():
        assert faulty.send_nowait(b"c")
        assert not faulty.needs_flush
    assert await here.receive_batch() == [b"a", b"b", b"c"]
    await here.send(b"d")
    with assert_checkpoints():
        assert await faulty.receive_batch() == [b"d"]
    assert "FaultyChannel of <MemoryChannel" in repr(faulty)
    with assert_checkpoints():
        await faulty.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await faulty.receive_batch()
    with pytest.raises(trio.EndOfChannel):
        await here.receive_batch()


async def test_a_stalled_channel_moves_nothing(autojump_clock: MockClock) -> None:
    here, faulty = faulty_pair()
    got: list[object] = []

    async def receive() -> None:
        got.append(await faulty.receive_batch())

    async def send() -> None:
        await faulty.send_batch([b"out"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        with assert_no_checkpoints():
            faulty.stall()
        nursery.start_soon(send)
        await here.send(b"in")
        await wait_all_tasks_blocked()
        assert not got
        assert not faulty.send_nowait(b"x")
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            await here.receive_batch()
        with assert_no_checkpoints():
            faulty.resume()
    assert got == [[b"in"]]
    assert await here.receive_batch() == [b"out"]


async def test_each_direction_stalls_by_itself() -> None:
    here, faulty = faulty_pair()
    faulty.stall(writing=False)
    assert faulty.send_nowait(b"x")
    faulty.resume()
    faulty.stall(reading=False)
    await here.send(b"y")
    assert await faulty.receive_batch() == [b"y"]
    assert not faulty.send_nowait(b"x")


async def test_a_stalled_channel_can_be_cancelled_and_closed(autojump_clock: MockClock) -> None:
    here, faulty = faulty_pair()
    faulty.stall()
    await here.send(b"kept")
    for operation in (faulty.receive_batch, partial(faulty.send_batch, [b"never"])):
        with trio.move_on_after(1) as scope:
            await operation()
        assert scope.cancelled_caught
    faulty.resume()
    assert await faulty.receive_batch() == [b"kept"]
    faulty.stall()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check_closed, faulty)
        await wait_all_tasks_blocked()
        await faulty.aclose()


async def check_closed(faulty: FaultyChannel) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await faulty.receive_batch()


async def test_a_channel_may_break_before_it_is_used() -> None:
    _, faulty = faulty_pair()
    faulty.fail()
    with assert_checkpoints(), pytest.raises(trio.BrokenResourceError):
        await faulty.receive_batch()


@pytest.mark.parametrize("stalled", [True, False])
async def test_a_broken_channel_breaks_everything(stalled: bool) -> None:
    _, faulty = faulty_pair()

    async def receive() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await faulty.receive_batch()

    async def send() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await faulty.send_batch([b"."] * 9)

    async with trio.open_nursery() as nursery:
        if stalled:
            faulty.stall()
        nursery.start_soon(receive)
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        with assert_no_checkpoints():
            faulty.fail()
    with assert_checkpoints():
        await receive()
    with assert_checkpoints():
        await send()
    with pytest.raises(trio.BrokenResourceError):
        faulty.send_nowait(b"")
    faulty.fail()
    assert "broken" in repr(faulty)


async def test_a_stalled_server_is_a_slow_one(autojump_clock: MockClock) -> None:
    async with open_session_manager(Router("r")) as manager:
        async with connect_client(manager, through=FaultyChannel) as client:
            await client.ping()
            client.server_end.stall()
            with trio.move_on_after(1) as scope:
                await client.ping()
            assert scope.cancelled_caught
            client.server_end.resume()
            await client.ping()
            session = client.session
            client.server_end.fail()
            assert await session.wait_terminated() is TerminationReason.TRANSPORT_FAILED


@pytest.mark.parametrize("at", [None, 1, len(INITIALIZE) - 1])
async def test_a_line_cut_short_is_answered_and_ends_the_session(
    at: int | None, autojump_clock: MockClock
) -> None:
    async with open_session_manager(Router("r")) as manager:
        here, there = memory_stream_pair()
        reasons: list[TerminationReason] = []

        async def serve() -> None:
            reasons.append(await serve_stream(manager, there))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with assert_checkpoints():
                await cut_short(here, INITIALIZE, at)
        heard = b""
        async for chunk in here:
            heard += chunk
        assert (
            json.loads(heard)["error"]["message"] == "the stream ended in the middle of a message"
        )
        assert reasons == [TerminationReason.CLIENT_CLOSED]
        assert_no_leaks(manager, live=())
