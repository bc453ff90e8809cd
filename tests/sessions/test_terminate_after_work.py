"""`Session.terminate(after_work=True)`: no new work begins, and the session ends with the last."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from tests.helpers import brief, connect, error, modern, request, result, serving
from trio_mcp_session import (
    RequestContext,
    Router,
    Session,
    SessionTerminated,
    TerminationReason,
    current_session,
)

REASON = TerminationReason


def reason_of(session: Session) -> TerminationReason | None:
    return session.termination_reason


async def test_a_session_without_work_terminates_at_once() -> None:
    async with serving(Router("r")) as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever, service=True)
        with assert_no_checkpoints():
            session.terminate(REASON.EVICTED, after_work=True)
        assert reason_of(session) is REASON.EVICTED
        assert await session.wait_terminated() is REASON.EVICTED


async def test_a_work_task_ends_its_session_after_itself(autojump_clock: MockClock) -> None:
    async with serving(Router("r")) as manager:
        done: list[float] = []

        async def work() -> None:
            session = current_session()
            session.terminate(after_work=True)
            session.terminate(REASON.EVICTED, after_work=True)  # The first reason stays.
            await trio.sleep(5)
            assert reason_of(session) is None
            done.append(trio.current_time())

        session = await manager.create_session()
        session.start_soon(work)
        with session.lease():
            await trio.sleep(10)
            assert done == [5]
            assert reason_of(session) is None
        assert reason_of(session) is REASON.REQUESTED
        assert await session.wait_terminated() is REASON.REQUESTED


def start_soon(session: Session) -> None:
    session.start_soon(trio.sleep_forever)


def lease(session: Session) -> None:
    with session.lease():
        raise AssertionError  # pragma: no cover  # it is refused


@pytest.mark.parametrize("begin", [start_soon, lease])
async def test_a_session_that_ends_after_its_work_admits_no_new_work(
    begin: Callable[[Session], None],
) -> None:
    async with serving(Router("r")) as manager:
        session = await manager.create_session()
        with session.lease():
            session.terminate(after_work=True)
            with pytest.raises(SessionTerminated) as caught:
                begin(session)
            assert caught.value.reason is REASON.REQUESTED
            with pytest.raises(SessionTerminated):
                await session.start(trio.sleep_forever)
        await session.wait_terminated()


async def test_a_later_termination_does_not_wait_for_the_work() -> None:
    async with serving(Router("r")) as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever)
        assert manager.terminate_session(session.session_id, after_work=True)
        assert reason_of(session) is None
        assert manager.terminate_session(session.session_id, REASON.REVOKED)
        assert await session.wait_terminated() is REASON.REVOKED


@pytest.mark.parametrize("era", [request, modern])
async def test_a_request_ends_the_session_of_its_client_after_itself(
    era: Callable[..., object], autojump_clock: MockClock
) -> None:
    router = Router("r")
    sessions: list[Session] = []

    @router.request("last")
    async def last(ctx: RequestContext) -> None:
        sessions[0].terminate(after_work=True)
        await trio.sleep(5)

    @router.request("wait")
    async def wait(ctx: RequestContext) -> None:
        await trio.sleep(8)

    async with serving(router) as manager:
        peer = await connect(manager)
        await peer.establish()
        sessions.append(peer.session)
        await peer.send(era(1, "wait"), era(2, "last"))
        await wait_all_tasks_blocked()
        # What comes later is refused, and pings are answered.
        await peer.send(era(3, "wait"), request(4, "ping"))
        refused, pong = await peer.waiting()
        assert refused["error"]["message"] == "Session is ending: requested"
        assert brief(refused) == error(3, -32603)
        assert pong == result(4)
        assert await peer.session.wait_terminated() is REASON.REQUESTED
        assert trio.current_time() == 8
        assert [one["id"] for one in await peer.waiting()] == [2, 1]


async def test_a_drain_ends_a_session_that_waits_for_its_work(autojump_clock: MockClock) -> None:
    async with serving(Router("r")) as manager:
        session = await manager.create_session()
        session.start_soon(trio.sleep_forever)
        session.terminate(after_work=True)
        report = await manager.drain(grace=3)
        assert trio.current_time() == 3
        assert report.cancelled == (session.session_id,)
