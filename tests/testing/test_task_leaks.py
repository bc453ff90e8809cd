"""The leak check knows tasks: what it finds of them, put there by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import modern
from trio_mcp_session import (
    RequestContext,
    Router,
    Session,
    SessionKind,
    SessionManager,
    connect_memory,
    open_session_manager,
    validate_sessions,
)
from trio_mcp_session.protocol.jsonrpc import encode_json
from trio_mcp_session.protocol.tasks_extension import TASKS
from trio_mcp_session.server.mcp_server import server_of
from trio_mcp_session.server.promotion import Promotion
from trio_mcp_session.server.task import _TASK, ServerTask, task_of
from trio_mcp_session.testing import LeakError, assert_no_leaks, find_leaks, hang

CAPABILITIES: dict[str, Any] = {"elicitation": {}, "extensions": {TASKS: {}}}

router = Router("r")


@router.tool(task="required")
async def ask(ctx: RequestContext) -> str:
    return (await ctx.elicit("?", {})).action


@router.tool(task="required")
async def work(ctx: RequestContext) -> str:
    await trio.sleep(1)
    return "done"


@router.tool(task="optional", promote_after=5)
async def maybe(ctx: RequestContext) -> None:
    await trio.sleep(1)


@attrs.define(eq=False)
class Place:
    """A manager with one connection, one task, and one subscription to the task."""

    manager: SessionManager
    connection: Session
    session: Session
    task: ServerTask


def call(number: int, method: str, params: dict[str, Any]) -> bytes:
    return encode_json(modern(number, method, params, capabilities=CAPABILITIES))


@asynccontextmanager
async def place(tool: str) -> AsyncIterator[Place]:
    async with open_session_manager(router) as manager:
        channel = await connect_memory(manager)
        await channel.send(call(1, "tools/call", {"name": tool}))
        await wait_all_tasks_blocked()
        (session,) = manager.sessions(lambda one: one.kind is SessionKind.TASK)
        (connection,) = manager.sessions(lambda one: one.kind is SessionKind.CONNECTION)
        task = task_of(session)
        assert task is not None
        wanted = {"notifications": {"taskIds": [task.task_id]}}
        await channel.send(call(2, "subscriptions/listen", wanted))
        await wait_all_tasks_blocked()
        assert_no_leaks(manager, live=(connection, session))
        yield Place(manager, connection, session, task)
        await channel.aclose()
    assert_no_leaks(manager, live=())


def lose_handler(here: Place) -> Callable[[], None]:
    borrowers, here.session._borrowers = here.session._borrowers, None
    return lambda: setattr(here.session, "_borrowers", borrowers)


def lose_work_of_connection(here: Place) -> Callable[[], None]:
    here.connection._busy -= 1
    return lambda: setattr(here.connection, "_busy", here.connection._busy + 1)


def lose_work_of_task(here: Place) -> Callable[[], None]:
    here.session._busy -= 1
    return lambda: setattr(here.session, "_busy", here.session._busy + 1)


def wait_for_another(here: Place) -> Callable[[], None]:
    (listen,) = server_of(here.manager).subscriptions._table.values()
    listen.working.add("gone")
    return lambda: listen.working.remove("gone")


@pytest.mark.parametrize(
    "leave, what",
    [
        (lose_handler, "kept for a task without a handler and without an outcome"),
        (lose_handler, "is over and still has its handler"),
        (lose_work_of_connection, "has tasks that are not counted as work"),
        (lose_work_of_task, "has a handler that is not counted as work"),
        (wait_for_another, "still waits for a task that is over"),
    ],
)
async def test_each_leak_of_a_task_that_works_is_found(
    leave: Callable[[Place], Callable[[], None]], what: str
) -> None:
    async with place("ask") as here:
        restore = leave(here)
        with pytest.raises(LeakError, match=what):
            assert_no_leaks(here.manager)
        restore()
        assert find_leaks(here.manager) == []


async def test_a_task_at_rest_passes_and_what_it_kept_too_much_is_found(
    autojump_clock: MockClock,
) -> None:
    async with place("work") as here:
        task, session = here.task, here.session
        (listen,) = server_of(here.manager).subscriptions._table.values()
        call_of_it = task._call
        await trio.sleep(2)
        assert find_leaks(here.manager, among=()) == []
        assert task.status.is_final
        assert not listen.working

        listen.working.add(task.task_id)
        task._connection, task._call = here.connection, call_of_it
        task._open["a"] = cast("Any", None)
        found = "".join(find_leaks(here.manager, among=()))
        for what in (
            "still waits for a task that is over",
            "is over and still has its handler",
            "is over and still has a connection that its task holds open",
            "is over and still has questions of its task",
            "has tasks that are not counted as work",
        ):
            assert what in found
        listen.working.clear()
        task._connection = task._call = None
        task._open.clear()

        held = session._byte_budget().held
        session._byte_budget().release(held)
        assert "bytes that are not counted" in "".join(find_leaks(here.manager, among=()))
        session._byte_budget().add(held)
        assert find_leaks(here.manager, among=()) == []


async def test_what_is_left_of_a_task_after_its_removal_is_found() -> None:
    async with place("ask") as here:
        task, session = here.task, here.session
        call_of_it = task._call
        session.terminate()
        await session.wait_terminated()
        assert find_leaks(here.manager, among=[session]) == []
        budget = session._byte_budget()
        budget.parent = here.connection._byte_budget()
        task._call = call_of_it
        session.set_state(_TASK, task)
        found = "".join(find_leaks(here.manager, among=[session]))
        assert "has ended and still has bytes that are counted" in found
        assert "has ended and still has the handler of its task" in found
        budget.parent = task._call = None


async def test_a_session_of_kind_task_that_the_application_opened_has_no_task() -> None:
    async with open_session_manager(router) as manager:
        session = await manager.create_session(kind=SessionKind.TASK)
        session.start_soon(hang)
        await wait_all_tasks_blocked()
        assert find_leaks(manager) == []
        assert not validate_sessions(manager.store)
        session.terminate()
        await session.wait_terminated()
        assert find_leaks(manager, among=[session]) == []


async def test_a_timer_that_nothing_stops_is_found(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_session_manager(router) as manager:
        channel = await connect_memory(manager)
        await channel.send(call(1, "tools/call", {"name": "maybe"}))
        await wait_all_tasks_blocked()
        assert_no_leaks(manager)
        await trio.sleep(2)
        assert_no_leaks(manager)
        with monkeypatch.context() as patch:
            patch.setattr(Promotion, "stop_timer", lambda _: None)
            await channel.send(call(2, "tools/call", {"name": "maybe"}))
            await trio.sleep(2)
            with pytest.raises(LeakError, match="belongs to no session"):
                assert_no_leaks(manager)
        await trio.sleep(5)
        assert_no_leaks(manager)
        await channel.aclose()
