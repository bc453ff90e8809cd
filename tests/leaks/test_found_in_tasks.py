"""What the leak proof has found in tasks, each in a test of its own."""

from __future__ import annotations

from datetime import datetime
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_mcp_session import Session, SessionHooks, SessionKind, SessionLimits
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.promotion import Promotion
from trio_mcp_session.transports.http.http_app import http_app
from trio_mcp_session.transports.http.http_options import HttpOptions, SlowReader

from .exchange import authenticate
from .modern import MODERN_CLOCKS, PROMOTED_AFTER, HttpAsker, HttpCall, World, world

BOTH = pytest.mark.parametrize("how", ["pipe", "http"])


def timers(here: World) -> int:
    """Count the tasks that wait until a call becomes a task."""
    tasks = here.manager._sessions_nursery.child_tasks
    return sum(task.name.endswith(Promotion._wait.__name__) for task in tasks)


def tasks(here: World) -> int:
    return len(here.manager.sessions(lambda session: session.kind is SessionKind.TASK))


@BOTH
async def test_a_wall_clock_that_fails_leaves_no_session_of_a_task(
    how: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> datetime:
        raise LookupError("no clock")

    async with world(wall_clock=broken) as here:
        asker = await here.come(how)
        key = {"key": "key"}
        required = await asker.call("toil", key)
        await here.settle()
        assert required.outcome == "failed"  # Its handler crashed.
        assert tasks(here) == 0
        call = await asker.call("maybe", key)
        await trio.sleep(PROMOTED_AFTER)
        await here.check()
        assert tasks(here) == 0
        here.server.gate("key").set()
        await here.settle()
        assert call.outcome == "done"
        assert "no clock" in caplog.text


@BOTH
async def test_a_call_that_becomes_a_task_by_two_ways_at_once_takes_one_place(
    how: str, autojump_clock: MockClock
) -> None:
    async def on_created(session: Session) -> None:
        await trio.sleep(0.5)

    limits = SessionLimits(max_sessions_of={SessionKind.TASK: 1})
    hooks = SessionHooks(on_session_created=on_created)
    async with world(limits, hooks=hooks) as here:
        asker = await here.come(how)
        call = await asker.call("hasten", {"key": "key", "after": PROMOTED_AFTER + 0.1})
        await here.settle()
        assert timers(here) == 1
        await trio.sleep(PROMOTED_AFTER + 1)
        assert call.outcome == "task"
        assert tasks(here) == 1
        assert timers(here) == 0
        assert here.manager.statistics().opened == 1 + (how == "pipe")
        here.server.gate("key").set()
        await here.settle()
        assert await here.status(asker, call.task_id) == "completed"


@BOTH
async def test_a_call_that_is_a_task_has_no_timer(how: str, autojump_clock: MockClock) -> None:
    async with world() as here:
        asker = await here.come(how)
        call = await asker.call("hasten", {"key": "key", "after": 0})
        await here.settle()
        assert call.outcome == "task"
        assert timers(here) == 0
        here.server.gate("key").set()


@BOTH
async def test_a_handler_that_asks_in_a_task_is_cancelled_when_the_manager_ends_it(
    how: str, autojump_clock: MockClock
) -> None:
    clocks = attrs.evolve(MODERN_CLOCKS, drain_grace=1)
    async with world(clocks=clocks) as here:
        asker = await here.come(how)
        await here.begin_task(asker, "survey")
        await here.manager.drain()
        assert here.server.cancelled == 1
        assert not len(server_of(here.manager).subscriptions)


async def test_a_subscription_ends_with_its_last_task_when_its_connection_drains(
    autojump_clock: MockClock,
) -> None:
    async with world() as here:
        asker = await here.come("pipe", "ann")
        task_id = await here.begin_task(asker, key="task")
        await asker.call("work", {"key": "never"})  # So the connection is busy to the end.
        listen = await asker.listen({"taskIds": [task_id]})
        await here.settle()
        (connection,) = here.manager.sessions(
            lambda session: session.kind is SessionKind.CONNECTION
        )
        here.nursery.start_soon(partial(connection.drain, grace=5))
        await here.settle()
        assert not listen.over
        here.server.gate("task").set()
        await here.settle()
        assert connection.termination_reason is None
        assert listen.outcome == "done"


@pytest.mark.parametrize("policy", SlowReader)
async def test_the_first_statuses_of_a_subscription_come_where_slow_readers_are_cut_off(
    policy: SlowReader, autojump_clock: MockClock
) -> None:
    async with world(SessionLimits(max_output=64)) as here:
        options = HttpOptions(slow_reader=policy)
        app = http_app(here.manager, authenticate=authenticate, options=options)
        asker = HttpAsker(app, here.nursery.start_soon, "ann")
        tasks = [await here.begin_task(asker) for _ in range(3)]
        listen = await asker.listen({"taskIds": tasks})
        await here.settle()
        assert isinstance(listen, HttpCall)
        acknowledged, *told = listen.exchange.messages
        assert acknowledged["params"]["notifications"] == {"taskIds": tasks}
        assert [one["params"]["taskId"] for one in told] == tasks
        assert not listen.over
        listen.withdraw()


async def test_a_task_of_a_user_holds_no_connection_that_is_over(autojump_clock: MockClock) -> None:
    async with world() as here:
        asker = await here.come("pipe", "ann")
        await here.begin_task(asker)
        (connection,) = here.manager.sessions(
            lambda session: session.kind is SessionKind.CONNECTION
        )
        connection.terminate()
        await connection.wait_terminated()
        await here.check()
        assert tasks(here) == 1
        assert not connection.busy
