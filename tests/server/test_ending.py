"""`ctx.ending` and `ctx.time_left`: when a handler is told that its end comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.helpers import cancelled, connect, modern, request, serving, talking
from trio_mcp_session import (
    CleanupConfig,
    Ending,
    EndingReason,
    RequestContext,
    Router,
    SessionKind,
    SessionState,
    SessionTerminated,
    TerminationReason,
)

DEADLINE, DRAIN = EndingReason.DEADLINE, EndingReason.DRAIN
SESSION_ENDS, CANCELLED = EndingReason.SESSION_ENDS, EndingReason.CANCELLED
SOON = 0.002
"""Seconds by which a moment may be missed."""


class Desk:
    """Handlers that note when and why their end was announced."""

    def __init__(self) -> None:
        self.router = Router("desk")
        self.seen: list[tuple[float, object]] = []
        self.contexts: list[RequestContext] = []
        self.router.request("wait")(self.wait)
        self.router.request("look")(self.look)
        self.router.request("ask")(self.ask)

    async def wait(self, ctx: RequestContext) -> None:
        """Wait for the announcement, then for the end."""
        self.contexts.append(ctx)
        with assert_checkpoints():
            reason = await ctx.ending.wait()
        self.seen.append((round(trio.current_time(), 2), reason))
        with assert_checkpoints():
            assert await ctx.ending.wait() is reason
        await trio.sleep_forever()

    async def look(self, ctx: RequestContext) -> dict[str, Any]:
        self.contexts.append(ctx)
        return {"left": ctx.time_left, "set": ctx.ending.is_set()}

    async def ask(self, ctx: RequestContext) -> None:
        self.contexts.append(ctx)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.wait, ctx)
            await ctx.list_roots(timeout=20)
            nursery.cancel_scope.cancel()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@asynccontextmanager
async def waiting(desk: Desk, **clocks: Any) -> AsyncIterator[Any]:
    """A session with a request that waits for its end."""
    async with talking(desk.router, cleanup=CleanupConfig(**clocks)) as peer:
        await peer.send(request(1, "wait"))
        await wait_all_tasks_blocked()
        yield peer


async def test_nothing_is_announced_without_a_reason(desk: Desk, autojump_clock: MockClock) -> None:
    async with talking(desk.router) as peer:
        await peer.send(request(1, "look"))
        assert (await peer.receive())["result"]["set"] is False
        (ctx,) = desk.contexts
        assert isinstance(ctx.ending, Ending)
        assert ctx.ending is ctx.ending
        assert ctx.ending.reason is None
        assert repr(ctx.ending) == "<Ending: not set>"
        assert ctx.time_left == inf


async def test_the_end_is_announced_before_the_deadline_of_the_request(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with waiting(desk, request_timeout=10, ending_notice=2) as peer:
        (ctx,) = desk.contexts
        await trio.sleep(3)
        assert ctx.time_left == 7
        assert not ctx.ending.is_set()
        await trio.sleep(5 + SOON)
        assert desk.seen == [(8, DEADLINE)]
        assert ctx.ending.is_set()
        assert repr(ctx.ending) == "<Ending: deadline>"
        assert (await peer.receive())["error"]["message"] == "Request timed out"
        assert round(trio.current_time()) == 10


async def test_a_request_that_is_late_from_the_beginning(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with waiting(desk, request_timeout=1, ending_notice=2):
        assert desk.seen == [(0, DEADLINE)]


async def test_the_end_is_announced_before_the_lifetime_of_the_session_is_over(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with waiting(
        desk, max_session_time=100, lifetime_notice=20, ending_notice=5, cleanup_interval=1
    ) as peer:
        (ctx,) = desk.contexts
        assert ctx.time_left == 100
        await trio.sleep(90)
        peer.session.renew(30)
        await trio.sleep(10)
        assert not desk.seen
        assert ctx.time_left == 20
        await peer.session.wait_terminated()
        assert desk.seen == [(115, DEADLINE)]
        assert ctx.time_left == 0
        assert ctx.ending.reason is SESSION_ENDS


@pytest.mark.parametrize("whole", [True, False])
async def test_the_end_is_announced_at_the_beginning_of_a_drain(
    whole: bool, desk: Desk, autojump_clock: MockClock
) -> None:
    async with waiting(desk) as peer:
        (ctx,) = desk.contexts
        await trio.sleep(1)
        drained = ctx.manager if whole else peer.session
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: drained.drain(grace=7))
            await wait_all_tasks_blocked()
            assert desk.seen == [(1, DRAIN)]
            assert ctx.time_left == 7
            await trio.sleep(3)
            assert ctx.time_left == 4
            # A later drain does not give more time.
            nursery.start_soon(lambda: drained.drain(grace=70))
            await wait_all_tasks_blocked()
            assert ctx.time_left == 4
        assert round(trio.current_time()) == 8
        assert ctx.ending.reason is DRAIN
        assert ctx.time_left == 0
        assert not ctx.manager._drains


async def test_a_stateless_request_in_a_drain(desk: Desk, autojump_clock: MockClock) -> None:
    async with serving(desk.router) as manager:
        peer = await connect(manager)
        await peer.send(modern(1, "wait"))
        await wait_all_tasks_blocked()
        (ctx,) = desk.contexts
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: manager.drain(grace=7))
            await wait_all_tasks_blocked()
            assert desk.seen == [(0, DRAIN)]
            assert ctx.time_left == 7


async def test_the_end_is_announced_when_the_session_begins_to_end(
    desk: Desk, autojump_clock: MockClock
) -> None:
    """The end is announced at once, and comes when the last messages are written."""
    async with waiting(desk) as peer:
        (ctx,) = desk.contexts
        await trio.sleep(2)
        peer.session.terminate()
        assert ctx.ending.reason is SESSION_ENDS
        assert ctx.time_left == 0
        assert peer.session.state is SessionState.TERMINATING
        assert await peer.session.wait_terminated() is TerminationReason.REQUESTED


async def test_a_handler_has_the_time_of_the_flush(desk: Desk, autojump_clock: MockClock) -> None:
    router = Router("slow reader")
    told: list[object] = []

    @router.request("wait")
    async def wait(ctx: RequestContext) -> None:
        told.append(await ctx.ending.wait())
        await trio.sleep(0.5)
        told.append("wrapped up")
        await trio.sleep_forever()

    async with serving(router, cleanup=CleanupConfig(flush_budget=1)) as manager:
        peer = await connect(manager, capacity=1)
        await peer.establish()
        await peer.send(request(1, "wait"))
        await wait_all_tasks_blocked()
        peer.session.notify_nowait("notifications/fill", {"text": "x" * 100})
        peer.session.terminate()
        await peer.session.wait_terminated()
        assert told == [SESSION_ENDS, "wrapped up"]


async def test_the_end_is_announced_when_the_client_cancels(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with waiting(desk) as peer:
        (ctx,) = desk.contexts
        await trio.sleep(2)
        await peer.send(cancelled(1))
        await wait_all_tasks_blocked()
        assert ctx.ending.reason is CANCELLED
        # It waited for the announcement, so it wakes for that before it is cancelled.
        assert desk.seen == [(2, CANCELLED)]


async def test_the_clock_stands_still_while_the_client_is_asked(
    desk: Desk, autojump_clock: MockClock
) -> None:
    clocks = CleanupConfig(request_timeout=10, ending_notice=2)
    async with talking(desk.router, capabilities={"roots": {}}, cleanup=clocks) as peer:
        await peer.send(request(1, "ask"))
        await wait_all_tasks_blocked()
        await trio.sleep(18)
        assert desk.contexts[0].time_left == 10
        assert not desk.seen
        asked = await peer.receive()
        await peer.send({"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": []}})
        assert "result" in await peer.receive()
        assert not desk.seen


async def test_a_wait_for_the_end_can_be_cancelled(desk: Desk, autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.request("wait")
    async def wait(ctx: RequestContext) -> dict[str, Any]:
        with trio.move_on_after(5) as scope:
            await ctx.ending.wait()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ctx.ending.wait)
            await wait_all_tasks_blocked()
            ctx._request.end_soon(CANCELLED)
        ctx._request.end_soon(DRAIN)
        return {"stopped": scope.cancelled_caught, "reason": str(ctx.ending.reason)}

    async with talking(router) as peer:
        await peer.send(request(1, "wait"))
        answer = await peer.receive()
        assert answer["result"] == {"stopped": True, "reason": str(CANCELLED)}


async def test_requests_that_were_held_until_a_drain_began_know_it(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with talking(desk.router) as peer:
        await peer.send(request(1, "look"))
        await peer.receive()
        (ctx,) = desk.contexts
        ctx.manager._draining = True
        assert ctx.ending.reason is DRAIN
        ctx.manager._draining = False
        peer.session._drain_reason = TerminationReason.SHUTDOWN
        assert ctx.ending.reason is DRAIN
        peer.session._drain_reason = None


async def test_a_parked_handler_whose_session_ends(autojump_clock: MockClock) -> None:
    router = Router("r")
    seen: list[object] = []

    @router.tool()
    async def ask(ctx: RequestContext) -> None:
        try:
            await ctx.elicit("?", {"type": "object"})
        finally:
            seen.append(ctx.ending.reason)

    async with serving(router) as manager:
        peer = await connect(manager)
        call = {"name": "ask", "arguments": {}}
        await peer.send(modern(1, "tools/call", call, capabilities={"elicitation": {}}))
        await wait_all_tasks_blocked()
        (parked,) = manager.sessions(lambda session: session.kind is SessionKind.PARKED)
        parked.terminate()
        await parked.wait_terminated()
        assert seen == [SESSION_ENDS]
        await peer.channel.aclose()


async def test_a_session_that_has_ended_raises_as_before(
    desk: Desk, autojump_clock: MockClock
) -> None:
    async with waiting(desk) as peer:
        peer.session.terminate()
        with pytest.raises(SessionTerminated):
            peer.session.renew()


@attrs.define
class Stub:
    """What an `Ending` needs of a request."""

    ending_reason: EndingReason | None = None
    owner_ends: bool = False
    drains: bool = False
    notice_in: float = inf


@pytest.mark.parametrize(
    "stub, reason",
    [
        (Stub(), None),
        (Stub(notice_in=0), EndingReason.DEADLINE),
        (Stub(drains=True, notice_in=0), EndingReason.DRAIN),
        (Stub(owner_ends=True, drains=True), EndingReason.SESSION_ENDS),
        (Stub(EndingReason.CLIENT_LEFT, owner_ends=True), EndingReason.CLIENT_LEFT),
    ],
)
def test_the_nearest_reason_is_told(stub: Stub, reason: EndingReason | None) -> None:
    ending = Ending(stub)
    assert ending.reason is reason
    assert ending.is_set() is (reason is not None)
