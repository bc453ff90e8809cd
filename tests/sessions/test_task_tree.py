"""The tree of tasks: what it shows, and that it is bounded."""

from __future__ import annotations

import logging
import re
import threading
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.transports.http.asgi_client import Client
from tests.transports.http.modern import headers_of, modern
from trio_mcp_session import (
    CleanupConfig,
    ClientInfo,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionManager,
    TerminationReason,
    http_app,
    open_session_manager,
)
from trio_mcp_session.core.ids import short_hash
from trio_mcp_session.sessions import task_tree as module
from trio_mcp_session.sessions.error_log import write_log
from trio_mcp_session.sessions.running_task import find_running, where_of
from trio_mcp_session.sessions.task_tree import TaskAges, TaskTree
from trio_mcp_session.testing import connect_client, connect_http_client


def line_with(text: str, tree: str) -> str:
    (line,) = [line.strip() for line in tree.splitlines() if text in line]
    return line


@pytest.fixture
def router() -> Router:
    router = Router("x")

    @router.tool()
    async def wait(ctx: RequestContext) -> None:
        await trio.sleep_forever()

    return router


async def test_requests_of_sessions_with_their_ages_and_places(
    router: Router, autojump_clock: MockClock
) -> None:
    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        async with connect_client(manager) as client:
            nursery.start_soon(client.call_tool, "wait")  # noqa: ASYNC111  # it ends first
            await trio.sleep(7)
            tree = manager.describe_tasks()
            (session,) = manager.sessions()
            hashed = short_hash(session.session_id)
            place = r"wait \(test_task_tree\.py:\d+\)"
            line = line_with("tools/call", tree)
            assert re.fullmatch(
                rf"tools/call, request \d+, tool 'wait', for 7\.0 s, at {place}", line
            )
            line = line_with(hashed, tree)
            assert re.match(
                rf"session \S+, connection {hashed}, client .+, active, for 7\.0 s, ", line
            )
            assert "runs now in " in tree
            nursery.cancel_scope.cancel()


async def test_stateless_requests_are_in_the_tree(
    router: Router, autojump_clock: MockClock
) -> None:
    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        call = modern(1, "tools/call", {"name": "wait", "arguments": {}})
        client = Client(http_app(manager))
        nursery.start_soon(partial(client.post, call, headers=headers_of(call)))
        await trio.sleep(3)
        tree = manager.describe_tasks()
        assert "tools/call, request 1, tool 'wait', for 3.0 s, at wait " in tree
        await manager.drain(grace=0)
        nursery.cancel_scope.cancel()


async def test_the_handler_of_a_task_is_in_the_tree_as_long_as_it_runs(
    autojump_clock: MockClock,
) -> None:
    router = Router("demo")

    @router.tool(task="required")
    async def build() -> None:
        await trio.sleep(10)

    async with open_session_manager(router) as manager:
        async with connect_http_client(manager, era="modern") as client:
            task = await client.start_task("build")
            await trio.sleep(3)
            tree = manager.describe_tasks()
            described = (
                f"tools/call, task {short_hash(task.id)}, tool 'build', for 3.0 s, at build "
            )
            assert described in tree
            await task.wait()
            assert "tool 'build'" not in manager.describe_tasks()


async def test_sessions_without_work_are_counted(autojump_clock: MockClock) -> None:
    async with open_session_manager() as manager:
        sessions = [await manager.create_session() for _ in range(30)]
        sessions[0].start_soon(trio.sleep_forever, name="work\nof a \x1b task" + 200 * "x")
        sessions[1].start_soon(trio.sleep_forever, name="watch", service=True)
        tree = manager.describe_tasks()
        assert "and 28 sessions without work" in tree
        assert line_with("work?of", tree).startswith("work?of a ? taskxxx")
        assert len(line_with("work?of", tree)) < 160
        assert "watch, at " in tree
        await manager.drain(grace=0)


async def test_a_session_that_ends_has_its_reason_in_the_tree(autojump_clock: MockClock) -> None:
    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(30)

    async with open_session_manager() as manager:
        session = await manager.create_session(ClientInfo(client_id="ada"))
        session.start_soon(stubborn)
        await wait_all_tasks_blocked()
        session.terminate(TerminationReason.IDLE)
        await wait_all_tasks_blocked()
        assert "client ada, terminating, ends: idle" in manager.describe_tasks()


async def test_a_long_tree_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TASKS", 10)
    async with open_session_manager() as manager, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(trio.sleep_forever)
        *lines, last = manager.describe_tasks().splitlines()
        assert len(lines) == 10
        assert re.fullmatch(r"  and \d\d more tasks", last)
        nursery.cancel_scope.cancel()


def test_ages_of_all_tasks(autojump_clock: MockClock) -> None:
    ages = TaskAges()

    async def main() -> str:
        async with open_session_manager() as manager, trio.open_nursery() as nursery:
            manager._use_task_ages(ages)
            nursery.start_soon(trio.sleep_forever, name="old")
            nursery.start_soon(trio.sleep, 1, name="ended")
            await trio.sleep(5)
            nursery.start_soon(trio.sleep_forever, name="new")
            await trio.sleep(2)
            tree = manager.describe_tasks()
            nursery.cancel_scope.cancel()
        return tree

    tree = trio.run(main, clock=autojump_clock, instruments=[ages])
    lines = [line.strip() for line in tree.splitlines()]
    (old,) = [number for number, line in enumerate(lines) if line.startswith("old, for 7.0 s")]
    assert lines[old + 1].startswith("new, for 2.0 s")
    assert "ended" not in tree
    # All tasks that the instrument has seen have ended.
    assert ages.began == {}


async def test_it_may_be_read_in_another_thread_while_the_loop_is_blocked() -> None:
    async with open_session_manager() as manager:
        tree = manager._task_tree()
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(tree.describe()))
        thread.start()
        thread.join()
    name = "test_it_may_be_read_in_another_thread_while_the_loop_is_blocked"
    assert f": runs now in {name} (test_task_tree.py:" in found[0]


async def test_a_table_that_changes_while_it_is_read_is_read_again() -> None:
    calls = 0

    def sessions() -> list[Session]:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise RuntimeError("dictionary changed size during iteration")
        return []

    assert "<init>" in TaskTree(sessions, dict).describe()
    assert calls == 3
    calls = -100
    assert TaskTree(sessions, dict).describe() == "the tasks change too fast to be read"


async def test_tasks_that_cannot_be_looked_into_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """They await something of another language, or have ended meanwhile."""

    def where_waiting(task: trio.lowlevel.Task) -> str:
        raise TypeError(task)

    monkeypatch.setattr(module, "where_waiting", where_waiting)
    async with open_session_manager() as manager, trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever, name="opaque")
        assert line_with("opaque", manager.describe_tasks()) == "opaque"
        nursery.cancel_scope.cancel()


async def test_a_task_of_the_library_waits_in_the_library(autojump_clock: MockClock) -> None:
    async with open_session_manager() as manager:
        await wait_all_tasks_blocked()
        line = line_with("run_cleanup", manager.describe_tasks())
        assert re.search(r", at \w+ \((watcher|store|cleanup)\.py:\d+\)$", line)


def test_a_task_without_frames_is_at_an_unknown_place() -> None:
    assert where_of([]) == "unknown code"
    running = find_running(None, -1)
    assert (running.task, running.where, running.stack) == (None, "unknown code", "")


async def test_a_tree_without_an_event_loop() -> None:
    tree = TaskTree(list, dict)
    tree._root = None  # type: ignore[misc]  # it has ended
    assert tree.describe() == ""


async def test_a_drain_that_overruns_logs_the_tree(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    clocks = CleanupConfig(cleanup_budget=1)
    async with open_session_manager(config=SessionConfig(cleanup=clocks)) as manager:
        session = await manager.create_session()
        session.start_soon(stubborn, name="stubborn task")
        await manager.drain(grace=1)
        (record,) = caplog.records
    assert record.getMessage() == (
        "<SessionManager: 1 sessions>: the drain did not end 1 sessions in time; they continue to "
        "end. All tasks:"
    )
    assert re.search(
        r"stubborn task, at stubborn \(test_task_tree\.py:\d+\)", str(record.stack_info)
    )


async def test_a_drain_in_time_logs_nothing(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    manager: SessionManager
    async with open_session_manager() as manager:
        await manager.create_session()
        await manager.drain()
    assert caplog.records == []


def test_a_tree_that_the_log_does_not_show(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "trio_mcp_session")
    write_log(logging.WARNING, "all tasks:", stack="the tree")
    write_log(logging.ERROR, "%s:", "all tasks", stack="the tree")
    (record,) = caplog.records
    assert (record.getMessage(), record.stack_info) == ("all tasks:", "the tree")
