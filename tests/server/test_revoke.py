"""`SessionManager.revoke`: nothing of a principal continues."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from tests.helpers import (
    admit_stateless,
    connect,
    error,
    listening,
    modern,
    modern_result,
    request,
    serving,
)
from tests.server.test_stateless_requests import Response
from trio_mcp_session import (
    AccessRevoked,
    AdmissionPolicy,
    CleanupConfig,
    HandleKind,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionHooks,
    SessionKind,
    SessionLimits,
    SessionManager,
    TerminationReason,
    connect_memory,
)
from trio_mcp_session.protocol.envelope import read_envelope
from trio_mcp_session.protocol.jsonrpc import Request
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.request import InFlightRequest

ANN, BOB = Principal("ann"), Principal("bob")


def slow(seconds: float) -> Callable[[Session], AbstractAsyncContextManager[None]]:
    """A lifespan that takes its time to be left."""

    @asynccontextmanager
    async def lifespan(_: Session) -> AsyncIterator[None]:
        yield
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)

    return lifespan


def post(
    manager: SessionManager, method: str, principal: Principal, **params: Any
) -> tuple[InFlightRequest, Response]:
    response = Response()
    message = modern(1, method, params)
    envelope = read_envelope(message["params"])
    read = Request(1, method, message["params"])
    return admit_stateless(manager, read, response, envelope, principal), response


EVICTING = SessionLimits(max_sessions=1, admission=AdmissionPolicy.EVICT_IDLE)


@pytest.mark.parametrize("freed", [False, True])
async def test_revoke_refuses_a_session_that_waits_for_a_place(
    freed: bool, autojump_clock: MockClock
) -> None:
    """Also when its place is free, and it has not had a turn since."""
    outcomes: list[object] = []

    async def come(principal: Principal) -> None:
        try:
            outcomes.append(await manager.create_session(principal=principal))
        except AccessRevoked as refusal:
            outcomes.append(str(refusal))

    async def revoke_when_freed(*_: object) -> None:
        newcomers = [one for one in manager._admission._reservations if one.principal == ANN]
        assert [one.freed.is_set() for one in newcomers] in ([], [True])
        assert manager.revoke(ANN) == 0

    cleanup = CleanupConfig(cleanup_budget=100, admission_budget=50)
    limits = SessionLimits(max_sessions=2, admission=AdmissionPolicy.EVICT_IDLE)
    hooks = SessionHooks(on_session_terminated=revoke_when_freed) if freed else ()
    async with serving(Router("r"), limits=limits, cleanup=cleanup, hooks=hooks) as manager:
        for seconds in (10, 30):
            await manager.create_session(lifespan=slow(seconds))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come, ANN)  # The first session makes room for it.
            await wait_all_tasks_blocked()
            nursery.start_soon(come, BOB)
            await wait_all_tasks_blocked()
            assert manager._admission.reserved == 2
            if not freed:
                with assert_no_checkpoints():
                    assert manager.revoke(ANN) == 0
            await trio.sleep(20)
            assert outcomes == ["access was revoked"]
        assert "access was revoked" in outcomes
        (bobs,) = [one for one in outcomes if isinstance(one, Session)]
        assert bobs.principal == BOB
        assert manager.store.of_principal(ANN) == []
        assert manager._admission.reserved == 0
        assert manager.statistics().refused == {"AccessRevoked": 1}
        await manager.create_session(principal=ANN)  # It is not a ban.


async def test_revoke_answers_a_connection_that_waits_for_a_place(
    autojump_clock: MockClock,
) -> None:
    limits = SessionLimits(
        max_sessions_of={SessionKind.CONNECTION: 1}, admission=AdmissionPolicy.EVICT_IDLE
    )
    cleanup = CleanupConfig(cleanup_budget=100, admission_budget=50)
    router = Router("r", lifespan=slow(10))
    async with serving(router, limits=limits, cleanup=cleanup) as manager:
        peer = await connect(manager, principal=BOB)
        await peer.establish()
        channel = await connect_memory(manager, principal=ANN)
        await channel.send(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
        await wait_all_tasks_blocked()
        assert manager._admission.reserved == 1
        manager.revoke(ANN)
        assert b"access was revoked" in await channel.receive()
        assert manager.store.of_principal(ANN) == []


async def test_revoke_cancels_running_and_queued_stateless_requests(
    autojump_clock: MockClock,
) -> None:
    router = Router("r")
    log: list[str] = []

    @router.request("wait")
    async def wait(ctx: RequestContext) -> None:
        assert ctx.principal is not None
        try:
            await trio.sleep(5)
        except trio.Cancelled:
            log.append(f"{ctx.principal.subject} cancelled")
            raise
        log.append(f"{ctx.principal.subject} done")

    async with serving(router, limits=SessionLimits(max_stateless_requests=2)) as manager:
        running, bobs = post(manager, "wait", ANN)[1], post(manager, "wait", BOB)[1]
        queued, next_of_bob = post(manager, "wait", ANN)[1], post(manager, "wait", BOB)[1]
        await wait_all_tasks_blocked()
        with assert_no_checkpoints():
            assert manager.revoke(ANN) == 0
        assert running.answers == queued.answers == [error(1, -32603)]
        assert (open_ := server_of(manager).stateless.queue) is not None
        assert open_.queued == 1
        await trio.sleep(20)
        assert bobs.answers == next_of_bob.answers == [modern_result(1)]
        assert log == ["ann cancelled", "bob done", "bob done"]
        assert server_of(manager).stateless.running == 0
        again = post(manager, "wait", ANN)[1]
        await again.answered.wait()
        assert again.answers == [modern_result(1)]


async def test_a_revoked_request_says_why(autojump_clock: MockClock) -> None:
    router = Router("r")

    @router.request("wait")
    async def wait(ctx: RequestContext) -> None:
        await trio.sleep_forever()

    async with serving(router) as manager:
        in_flight, _ = post(manager, "wait", ANN)
        frames: list[bytes] = []
        in_flight.sink.send_result = frames.append  # type: ignore[method-assign, assignment]
        await wait_all_tasks_blocked()
        manager.revoke(ANN)
        assert b'"message":"access was revoked"' in frames[0]
        await wait_all_tasks_blocked()


async def test_revoke_cancels_the_requests_of_a_connection(autojump_clock: MockClock) -> None:
    router = Router("r")
    ended: list[object] = []

    @router.request("wait")
    async def wait(ctx: RequestContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(ctx.request_id)

    async with serving(router) as manager:
        peer = await connect(manager, principal=ANN)
        await peer.establish()
        await peer.send(request(1, "wait"), modern(2, "wait"), listening(3, toolsListChanged=True))
        await wait_all_tasks_blocked()
        assert manager.revoke(ANN) == 1
        answers = {one["id"]: one for one in await peer.waiting() if "id" in one}
        assert await peer.session.wait_terminated() is TerminationReason.REVOKED
        assert sorted(map(str, ended)) == ["1", "2"]
        messages = [answers[number]["error"]["message"] for number in (1, 2)]
        assert messages == ["Session has ended: revoked"] * 2
        assert "result" in answers[3]


@asynccontextmanager
async def opener(seconds: float = 0) -> AsyncIterator[str]:
    await trio.sleep(seconds)
    yield "box"  # pragma: no cover  # no opening gets that far


BOX = HandleKind("box", opener)


@pytest.mark.parametrize("where", ["opening", "waiting"])
async def test_revoke_refuses_a_handle_that_is_being_opened(
    where: str, autojump_clock: MockClock
) -> None:
    router = Router("r")
    outcomes: list[str] = []

    @router.request("open")
    async def open_box(ctx: RequestContext) -> None:
        try:
            with trio.CancelScope(shield=True):
                await ctx.open_handle(BOX, 5)
        except Exception as failure:
            outcomes.append(str(failure))
            raise

    cleanup = CleanupConfig(cleanup_budget=100, admission_budget=50)
    async with serving(router, limits=EVICTING, cleanup=cleanup) as manager:
        if where == "waiting":
            await manager.create_session(lifespan=slow(10))
        _, response = post(manager, "open", ANN)
        await trio.sleep(1)
        assert manager._admission.reserved == (where == "waiting")
        assert manager.revoke(ANN) == (where == "opening")
        assert response.answers == [error(1, -32603)]
        await trio.sleep(50)
        expected = {"opening": "session has ended: revoked", "waiting": "access was revoked"}
        assert outcomes == [expected[where]]
        assert manager.store.of_principal(ANN) == []


@pytest.mark.parametrize("way", ["http", "pipe", "session"])
async def test_after_revoke_a_shielded_handler_opens_no_handle(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("r")
    outcomes: list[str] = []

    @router.request("late")
    async def late(ctx: RequestContext) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
            with pytest.raises(AccessRevoked) as refusal:
                await ctx.open_handle(BOX)
            outcomes.append(str(refusal.value))

    async with serving(router) as manager:
        if way == "http":
            post(manager, "late", ANN)
        else:
            peer = await connect(manager, principal=ANN)
            await peer.establish()
            await peer.send(modern(1, "late") if way == "pipe" else request(1, "late"))
        await trio.sleep(1)
        manager.revoke(ANN)
        await trio.sleep(10)
        assert outcomes == ["access was revoked"]
        assert manager.store.of_principal(ANN) == []
