"""How a task ends by others: its session, its connection, a drain, the manager."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import at_every_step, cancelled, cancelled_at_step, connect, modern
from tests.rounds import SCHEMA, Pipe, Way, accept, town
from tests.tasking import (
    BOTH,
    UNKNOWN,
    WITH_TASKS,
    Workshop,
    acknowledged,
    ask_for,
    cancel,
    client_of,
    get,
    id_of,
    listen,
    start,
    states_heard,
    status,
    statuses,
    task_sessions,
    text_in,
    the_task,
    update,
)
from trio_mcp_session import (
    CleanupConfig,
    EndingReason,
    Principal,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionKind,
    SessionTerminated,
    TaskStatus,
    TerminationReason,
    open_session_manager,
)
from trio_mcp_session.server.task import task_of

SHUTTING_DOWN = {"code": -32603, "message": "server is shutting down"}
STATES = pytest.mark.parametrize("state", ["working", "input_required", "at rest"])
SUBSCRIBED = pytest.mark.parametrize("subscribed", [True, False])


async def in_state(client: Way, state: str, **more: Any) -> str:
    """A task in a state."""
    match state:
        case "working":
            return await start(client, "work", **more)
        case "input_required":
            return await start(client, "ask")
        case _:
            return await start(client, "work", seconds=0)


# Its session is ended.


@BOTH
@STATES
@SUBSCRIBED
@pytest.mark.parametrize("how", ["terminate", "revoke"])
async def test_a_task_whose_session_is_ended_is_removed(
    how: str, state: str, way: str, autojump_clock: MockClock, *, subscribed: bool
) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client = await client_of(here, way, "ann")
        task_id = await in_state(client, state)
        session = the_task(here)
        call = await listen(client, task_id) if subscribed else None
        here.look()
        if how == "terminate":
            assert here.manager.terminate_session(task_id)
        else:
            assert here.manager.revoke(Principal("ann")) == (2 if way == "pipe" else 1)
        # From this moment on.
        assert here.manager.get_session(task_id) is None
        assert not here.manager.cancel_task(task_id)
        await wait_all_tasks_blocked()
        assert task_sessions(here) == []
        reason = TerminationReason.REQUESTED if how == "terminate" else TerminationReason.REVOKED
        assert session.termination_reason is reason
        if call is not None:
            final = "completed" if state == "at rest" else "failed"
            assert statuses(call)[-1] == final
            assert statuses(call).count(final) == 1
        if how == "terminate":
            assert (await ask_for(client, task_id)).error == UNKNOWN
        if state == "working":
            assert workshop.log == ["began", "cancelled"]
        # A subscription holds its topics.
        assert (here.manager.statistics().bytes_held > 0) is (subscribed and how == "terminate")


@BOTH
async def test_a_revoked_principal_opens_nothing_in_a_task(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("workshop")
    log: list[object] = []

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append((ctx.ending.reason, ctx.time_left))
            with trio.CancelScope(shield=True):  # noqa: ASYNC912  # the handler is to ignore its cancellation
                try:
                    await ctx.become_task()
                except Exception as error:
                    log.append(type(error).__name__)

    async with town(router) as here:
        client = await client_of(here, way, "ann")
        await start(client, "work")
        here.manager.revoke(Principal("ann"))
        await wait_all_tasks_blocked()
        assert log == [(EndingReason.SESSION_ENDS, 0), "AccessRevoked"]


@BOTH
async def test_the_session_of_a_task_may_be_drained(way: str, autojump_clock: MockClock) -> None:
    router = Workshop().router
    log: list[object] = []

    @router.tool(task="required")
    async def waits(ctx: RequestContext) -> str:
        assert not ctx.ending.is_set()
        log.append(await ctx.ending.wait())
        log.append(ctx.time_left)
        await trio.sleep(3)
        return "in time"

    async with town(router) as here:
        client = await client_of(here, way, "ann")
        task_id = await start(client, "waits")
        other = await start(client, "work")
        call = await listen(client, task_id)
        (session,) = [one for one in task_sessions(here) if one.session_id == task_id]
        report = await session.drain(grace=10)
        assert report.completed == (task_id,)
        await wait_all_tasks_blocked()
        assert log == [EndingReason.DRAIN, 10]
        assert text_in(states_heard(call)[-1]) == "in time"
        assert await status(client, other) == "working"


@BOTH
async def test_the_drain_of_a_task_that_takes_too_long_fails_it(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way, "ann")
        call = await listen(client, await start(client, "work"))
        report = await the_task(here).drain(grace=10)
        assert len(report.cancelled) == 1
        await wait_all_tasks_blocked()
        assert states_heard(call)[-1]["error"] == SHUTTING_DOWN


@BOTH
async def test_a_task_that_outlives_its_life_fails(way: str, autojump_clock: MockClock) -> None:
    """It ignored its cancellation when its time was over."""
    cleanup = CleanupConfig(task_timeout=10, task_retention=5, cleanup_interval=1)
    async with town(Workshop().router, cleanup=cleanup) as here:
        client = await client_of(here, way, "ann")
        task_id = await start(client, "stubborn", seconds=100)
        call = await listen(client, task_id)
        await trio.sleep(14.9)
        assert await status(client, task_id) == "working"
        await trio.sleep(1.5)
        assert (await ask_for(client, task_id)).error == UNKNOWN
        said = "the task took too long"
        assert states_heard(call)[-1]["error"] == {"code": -32603, "message": said}
        await trio.sleep(100)
        assert statuses(call) == ["working", "failed"]
        assert task_sessions(here) == []


# Its connection.


@STATES
@pytest.mark.parametrize("how", ["closes", "is terminated"])
async def test_without_authentication_tasks_end_with_their_connection(
    how: str, state: str, autojump_clock: MockClock
) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client, other = await client_of(here, "pipe"), await client_of(here, "pipe")
        assert isinstance(client, Pipe)
        await in_state(client, state)
        theirs = await in_state(other, state)
        session = task_sessions(here)[0]
        if how == "closes":
            await client.leave()
        else:
            client.session.terminate()
        await trio.sleep(5)
        assert session not in here.manager.sessions()
        assert session.termination_reason is client.session.termination_reason
        expected = {"at rest": "completed"}.get(state, state)
        assert await status(other, theirs) == expected
        assert workshop.log.count("cancelled") == (state == "working")


@STATES
async def test_with_authentication_tasks_outlive_their_connection(
    state: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client, other = await client_of(here, "pipe", "ann"), await client_of(here, "http", "ann")
        assert isinstance(client, Pipe)
        task_id = await in_state(client, state)
        before = await get(client, task_id)
        await client.leave()
        await trio.sleep(5)
        assert client.session not in here.manager.sessions()
        assert await get(other, task_id) == before
        await update(other, task_id, {"name": accept(name="x")})
        answered = {"input_required": "completed", "at rest": "completed"}.get(state, state)
        assert await status(other, task_id) == answered


async def test_a_connection_without_authentication_is_not_idle_while_its_tasks_work(
    autojump_clock: MockClock,
) -> None:
    cleanup = CleanupConfig(connection_idle_time=10, cleanup_interval=1)
    async with town(Workshop().router, cleanup=cleanup) as here:
        client = await client_of(here, "pipe")
        assert isinstance(client, Pipe)
        for seconds in (30, 60):
            await start(client, "work", seconds=seconds)
        await trio.sleep(61)
        assert client.session in here.manager.list_sessions()
        await trio.sleep(11)
        assert here.manager.list_sessions() == []


# A drain.


@BOTH
@STATES
@SUBSCRIBED
@pytest.mark.parametrize("user", ["ann", None])
async def test_a_drain_waits_for_tasks_and_then_fails_them(
    user: str | None, state: str, way: str, autojump_clock: MockClock, *, subscribed: bool
) -> None:
    workshop = Workshop()
    async with town(workshop.router) as here:
        client = await client_of(here, way, user)
        task_id = await in_state(client, state)
        subscriptions = [await listen(client, task_id)] if subscribed else []
        began = trio.current_time()
        report = await here.manager.drain(grace=20)
        await wait_all_tasks_blocked()
        assert trio.current_time() - began == (0 if state == "at rest" else 20)
        assert not report.overran
        assert not report.failed
        assert task_id in (report.completed if state == "at rest" else report.cancelled)
        assert here.manager.sessions() == []
    for call in subscriptions:
        last = states_heard(call)[-1]
        assert last["status"] == ("completed" if state == "at rest" else "failed")
        if state != "at rest":
            assert last["error"] == SHUTTING_DOWN
            assert last["statusMessage"] == SHUTTING_DOWN["message"]
        assert call.result["resultType"] == "complete"


@BOTH
@pytest.mark.parametrize("user", ["ann", None])
async def test_a_drain_ends_as_soon_as_the_last_task_is_over(
    user: str | None, way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way, user)
        ids = [await start(client, "work", seconds=seconds) for seconds in (5, 10)]
        calls = [await listen(client, one) for one in ids]
        began = trio.current_time()
        report = await here.manager.drain(grace=100)
        await wait_all_tasks_blocked()
        assert trio.current_time() - began == 10
        assert set(ids) <= set(report.completed)
        for call in calls:
            assert text_in(states_heard(call)[-1]) == "done"


@BOTH
async def test_a_client_may_ask_for_its_tasks_and_answer_them_in_a_drain(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way)
        asking, working = await start(client, "ask"), await start(client, "work")
        here.nursery.start_soon(partial(here.manager.drain, grace=100))
        await wait_all_tasks_blocked()
        assert await status(client, asking) == "input_required"
        await update(client, asking, {"name": accept(name="x")})
        assert acknowledged(await cancel(client, working))
        await wait_all_tasks_blocked()
        assert here.manager.sessions() == []


@BOTH
async def test_a_drain_is_announced_to_the_handlers_of_tasks(
    way: str, autojump_clock: MockClock
) -> None:
    router = Router("workshop")
    log: list[object] = []

    @router.tool(task="required")
    async def work(ctx: RequestContext, *, waits: bool) -> None:
        if waits:
            reason = await ctx.ending.wait()
        else:
            await gate.wait()
            assert ctx.ending.reason is not None
            reason = ctx.ending.reason
        log.append((reason, ctx.time_left))

    gate = trio.Event()
    async with town(router) as here:
        for user in ("ann", None):
            client = await client_of(here, way, user)
            for waits in (True, False):
                await start(client, "work", waits=waits)
        here.nursery.start_soon(partial(here.manager.drain, grace=30))
        await wait_all_tasks_blocked()
        assert log == [(EndingReason.DRAIN, 30)] * 2
        gate.set()
        await wait_all_tasks_blocked()
        assert log == [(EndingReason.DRAIN, 30)] * 4


@pytest.mark.parametrize("user", ["ann", None])
async def test_a_drain_of_the_connection_is_announced_if_its_tasks_end_with_it(
    user: str | None, autojump_clock: MockClock
) -> None:
    router, gate, log = Router("workshop"), trio.Event(), []

    @router.tool(task="required")
    async def work(ctx: RequestContext) -> None:
        await gate.wait()
        log.append(ctx.ending.reason)

    async with town(router) as here:
        client = await client_of(here, "pipe", user)
        assert isinstance(client, Pipe)
        await start(client, "work")
        here.nursery.start_soon(partial(client.session.drain, grace=30))
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        assert log == [None if user else EndingReason.DRAIN]


@BOTH
async def test_in_a_drain_no_call_becomes_a_task(way: str, autojump_clock: MockClock) -> None:
    router, log = Router("workshop"), []

    @router.tool(task="optional", promote_after=5)
    async def work(ctx: RequestContext) -> str:
        await trio.sleep(10)
        try:
            await ctx.become_task()
        except Exception as error:
            log.append(type(error).__name__)
        return "done"

    async with town(router) as here:
        client = await client_of(here, way)
        call = await client.call("work")
        await here.manager.drain(grace=20)
        await wait_all_tasks_blocked()
        assert call.text == "done"
        assert log == ["ShuttingDown"]


@BOTH
async def test_a_task_that_does_not_end_in_time_overruns_the_drain(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way, "ann")
        task_id = await start(client, "stubborn", seconds=500)
        call = await listen(client, task_id)
        report = await here.manager.drain(grace=5)
        assert list(report.overran) == [task_id]
        await wait_all_tasks_blocked()
        assert states_heard(call)[-1]["error"] == SHUTTING_DOWN
        await trio.sleep(500)
        assert statuses(call) == ["working", "failed"]
        assert here.manager.sessions() == []


@BOTH
async def test_a_retired_server_still_answers_the_clients_of_its_tasks(
    way: str, autojump_clock: MockClock
) -> None:
    async with town(Workshop().router) as here:
        client = await client_of(here, way, "ann")
        task_id = await start(client, "ask")
        here.nursery.start_soon(partial(here.manager.retire, 1_000))
        await trio.sleep(10)
        assert await status(client, task_id) == "input_required"
        await update(client, task_id, {"name": accept(name="x")})
        assert text_in(await get(client, task_id)) == "x"
        refused = await listen(client, task_id)
        assert refused.error == (-32603, "server is shutting down")


async def test_a_retiring_manager_waits_for_its_tasks(autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(task_retention=20, cleanup_interval=1)
    async with town(Workshop().router, cleanup=cleanup) as here:
        client = await client_of(here, "http", "ann")
        await start(client, "work", seconds=50)
        began = trio.current_time()
        await here.manager.retire(1_000)
        assert 70 <= trio.current_time() - began <= 72


# Everything.


@pytest.mark.parametrize("how", ["left", "cancelled", "error"])
async def test_a_manager_that_is_left_without_a_drain_ends_its_tasks(
    how: str, autojump_clock: MockClock
) -> None:
    workshop = Workshop()
    cleanup = CleanupConfig(drain_grace=3)
    told: list[Any] = []

    async def serve() -> None:
        config = SessionConfig(cleanup=cleanup)
        async with open_session_manager(workshop.router, config=config) as manager:
            managers.append(manager)
            peer = await connect(manager, principal=Principal("ann"))
            call = modern(1, "tools/call", {"name": "work"}, capabilities=WITH_TASKS)
            await peer.send(call)
            task_id = (await peer.receive())["result"]["taskId"]
            wanted = {"notifications": {"taskIds": [task_id]}}
            await peer.send(modern(2, "subscriptions/listen", wanted, capabilities=WITH_TASKS))
            await wait_all_tasks_blocked()
            nursery.start_soon(read, peer)
            await wait_all_tasks_blocked()
            leave[how]()
            await trio.lowlevel.checkpoint_if_cancelled()

    async def read(peer: Any) -> None:
        with trio.CancelScope(shield=True):  # noqa: ASYNC912  # the handler is to ignore its cancellation
            try:
                while True:
                    told.append(await peer.receive())
            except trio.EndOfChannel:
                pass

    def fail() -> None:
        raise OSError("from the body")

    managers: list[Any] = []
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            leave = {"left": lambda: None, "cancelled": scope.cancel, "error": fail}
            expected = pytest.raises(OSError, match="from the body")
            with expected if how == "error" else nullcontext():
                await serve()
    assert managers[0].sessions() == []
    assert workshop.log == ["began", "cancelled"]
    states = [one["params"]["status"] for one in told if one.get("method") == "notifications/tasks"]
    assert states == ["working", "failed"]
    assert told[-1]["id"] == 2


# Hooks.


@BOTH
async def test_hooks_are_called_for_the_session_of_a_task(
    way: str, autojump_clock: MockClock
) -> None:
    log: list[Any] = []

    async def created(session: Session) -> None:
        log.append(("created", session.kind))

    async def terminated(session: Session, reason: TerminationReason) -> None:
        task = task_of(session)
        log.append(("terminated", session.kind, reason, task and task.status))

    async def failed(session: Session, error: Exception) -> None:
        log.append(("error", session.kind, str(error)))

    hooks = SessionHooks(
        on_session_created=created, on_session_terminated=terminated, on_error=failed
    )
    router = Workshop().router

    @router.tool(task="required")
    async def crashes() -> None:
        await trio.sleep(1)
        raise KeyError

    cleanup = CleanupConfig(task_retention=10, cleanup_interval=1)
    async with town(router, hooks=hooks, cleanup=cleanup) as here:
        client = await client_of(here, way, "ann")
        log.clear()
        await start(client, "crashes")
        await trio.sleep(2)
        here.crash()
        await trio.sleep(15)
        assert log == [
            ("created", SessionKind.TASK),
            ("error", SessionKind.TASK, "tool 'crashes' crashed"),
            (
                "terminated",
                SessionKind.TASK,
                TerminationReason.LIFETIME,
                TaskStatus.COMPLETED,
            ),
        ]


@BOTH
async def test_a_program_may_end_the_task_from_within(way: str, autojump_clock: MockClock) -> None:
    router, log = Router("workshop"), []

    @router.tool(task="required")
    async def work(ctx: RequestContext, how: str) -> None:
        info = ctx.task
        assert info is not None
        if how == "cancel":
            assert ctx.manager.cancel_task(info.task_id)
        else:
            assert ctx.manager.terminate_session(info.task_id)
        try:
            await ctx.elicit("?", SCHEMA)
        except SessionTerminated:
            log.append("terminated")
        await trio.sleep_forever()

    async with town(router) as here:
        client = await client_of(here, way, "ann")
        task_id = await start(client, "work", how="cancel")
        assert await status(client, task_id) == "cancelled: cancelled by the server"
        ended = id_of(await client.call("work", {"how": "terminate"}))
        assert (await ask_for(client, ended)).error == UNKNOWN
        assert log == ["terminated"]


# At every step.


@pytest.mark.parametrize("user", ["ann", None])
async def test_a_drain_that_is_cancelled_at_any_step_leaves_tasks_in_order(
    user: str | None, autojump_clock: MockClock
) -> None:
    async def attempt(step: int) -> bool:
        workshop = Workshop()
        async with town(workshop.router) as here:
            client = await client_of(here, "pipe", user)
            ids = [await start(client, tool) for tool in ("work", "ask")]
            await listen(client, *ids)
            with cancelled_at_step(step) as scope:
                await here.manager.drain(grace=0)
        assert workshop.log == ["began", "cancelled"]
        return not scope.cancelled_caught

    assert await at_every_step(attempt) > 3


async def test_a_call_that_is_cancelled_at_any_step_of_the_server_leaves_all_in_order(
    autojump_clock: MockClock,
) -> None:
    workshop = Workshop()

    async def attempt(step: int) -> bool:
        async with town(workshop.router) as here:
            client = await here.pipe("ann", reads=False)
            call = modern("x", "tools/call", {"name": "work"}, capabilities=WITH_TASKS)
            with cancelled_at_step(step) as scope:
                await client.peer.send(call)
                await trio.sleep(1)
            await client.peer.send(cancelled("x"))
            await trio.sleep(1)
            # It was answered with a task, or cancelled, or never arrived.
            for session in task_sessions(here):
                task = task_of(session)
                assert task is not None
                assert task.status is TaskStatus.WORKING
            assert here.manager.statistics().in_flight == 0
        return not scope.cancelled_caught

    assert await at_every_step(attempt) > 3
