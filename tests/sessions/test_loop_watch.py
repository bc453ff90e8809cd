"""Code that blocks the event loop is reported from a thread, while it does, and again after it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from math import inf
from types import SimpleNamespace

import pytest
import trio

from trio_mcp_session import (
    CleanupConfig,
    EventLoopBlocked,
    SessionConfig,
    current_session,
    open_session_manager,
)
from trio_mcp_session.sessions import loop_watch as module
from trio_mcp_session.sessions.loop_watch import LoopWatch

LOGGER = logging.getLogger("trio_mcp_session")
CONFIG = SessionConfig(cleanup=CleanupConfig(loop_blocked_after=0.02))
HANG_GUARD = 20.0


class Reports(logging.Handler):
    """Records of the library, and an event for the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.sessions: list[object] = []
        self.threads: list[int] = []
        self.arrived = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.threads.append(threading.get_ident())
        try:
            self.sessions.append(current_session())
        except LookupError:
            self.sessions.append(None)
        self.arrived.set()

    def block_until_it_comes(self) -> None:
        assert self.arrived.wait(HANG_GUARD)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """The threads of one test end before the next one begins, which may count threads."""
    yield
    for thread in threading.enumerate():
        if "loop watch" in thread.name:  # pragma: no cover  # most have ended by now
            thread.join(HANG_GUARD)
            assert not thread.is_alive()


@pytest.fixture
def reports() -> Iterator[Reports]:
    reports = Reports()
    LOGGER.addHandler(reports)
    yield reports
    LOGGER.removeHandler(reports)


async def test_a_task_that_blocks_the_loop_is_named_with_its_line(reports: Reports) -> None:
    async def search() -> None:  # noqa: ASYNC124  # it blocks instead
        reports.block_until_it_comes()

    async with open_session_manager(config=CONFIG) as manager:
        with manager.subscribe() as events:
            session = await manager.create_session()
            session.start_soon(search, name="busy")
            with trio.fail_after(HANG_GUARD):
                while not isinstance(event := await events.receive(), EventLoopBlocked):
                    pass
    first, second = reports.records
    line = search.__code__.co_firstlineno + 1
    waits = Reports.block_until_it_comes.__code__.co_firstlineno + 1
    where = f"block_until_it_comes (test_loop_watch.py:{waits})"
    assert f"by task 'busy' in {where}; nothing else runs until it returns" in first.getMessage()
    assert f'test_loop_watch.py", line {line}, in search' in str(first.stack_info)
    assert second.getMessage().startswith("the event loop runs again; it was blocked for ")
    assert second.getMessage().endswith(f" by task 'busy' in {where}")
    # The first from the thread, while the loop is blocked, and both with the task's session.
    assert reports.threads[0] != threading.get_ident() == reports.threads[1]
    assert reports.sessions == [session, session]
    assert (event.task, event.where, event.session_id) == ("busy", where, session.session_id)
    assert 0.02 <= event.seconds < HANG_GUARD


async def test_a_block_is_reported_once_however_long_it_is(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Semaphore(0)
    original = LoopWatch._wait_a_little

    def wait_a_little(watch: LoopWatch) -> float | None:
        looked.release()
        return original(watch)

    monkeypatch.setattr(LoopWatch, "_wait_a_little", wait_a_little)
    async with open_session_manager(config=CONFIG) as manager:
        with manager.subscribe() as events:
            for _ in range(20):
                assert looked.acquire(timeout=HANG_GUARD)
            with trio.fail_after(HANG_GUARD):
                event = await events.receive()
    assert isinstance(event, EventLoopBlocked)
    assert event.seconds >= 4 * CONFIG.cleanup.loop_blocked_after  # type: ignore[operator]
    assert event.session_id is None
    assert [record.levelname for record in reports.records] == ["WARNING"] * 2


async def test_a_callback_that_blocks_the_loop(reports: Reports) -> None:
    token = trio.lowlevel.current_trio_token()
    async with open_session_manager(config=CONFIG) as manager:
        with manager.subscribe() as events:
            token.run_sync_soon(reports.block_until_it_comes)
            with trio.fail_after(HANG_GUARD):
                event = await events.receive()
    assert isinstance(event, EventLoopBlocked)
    assert "block_until_it_comes" in event.where
    assert "by task '<TrioToken.run_sync_soon task>'" in reports.records[0].getMessage()


async def test_a_loop_without_tasks_to_name(reports: Reports) -> None:
    found: list[EventLoopBlocked] = []
    done = trio.Event()

    def on_back(event: EventLoopBlocked) -> None:
        found.append(event)
        done.set()

    watch = LoopWatch(0.02, on_back)
    watch._root = None  # type: ignore[misc]  # before the first task, or in a callback of Trio
    watch.start()
    reports.block_until_it_comes()
    with trio.fail_after(HANG_GUARD):
        await done.wait()
    watch.stop()
    assert found[0].task == ""
    assert "by a callback in block_until_it_comes" in reports.records[0].getMessage()
    assert "by a callback in block_until_it_comes" in reports.records[1].getMessage()


@pytest.mark.parametrize("limit", [None, inf])
async def test_it_is_off_by_default_and_may_be_turned_off(limit: float | None) -> None:
    config = SessionConfig(cleanup=CleanupConfig(loop_blocked_after=limit))
    async with open_session_manager(config=config):
        assert not [one for one in threading.enumerate() if "loop watch" in one.name]


async def test_the_thread_ends_with_its_manager(reports: Reports) -> None:
    async with open_session_manager(config=CONFIG):
        (thread,) = [one for one in threading.enumerate() if "loop watch" in one.name]
        assert thread.daemon
    await trio.to_thread.run_sync(thread.join, HANG_GUARD)
    assert not thread.is_alive()
    assert reports.records == []


def test_the_thread_ends_also_if_the_loop_has_ended(reports: Reports) -> None:
    async def main() -> LoopWatch:  # noqa: ASYNC124
        return LoopWatch(0.001, lambda _: None)

    trio.run(main)._run()
    assert reports.records == []


async def test_a_watch_that_is_stopped_while_the_loop_is_blocked(reports: Reports) -> None:
    watch = LoopWatch(0.02, lambda _: pytest.fail("it was stopped"))
    watch.start()
    reports.block_until_it_comes()
    (thread,) = [one for one in threading.enumerate() if "loop watch" in one.name]
    watch.stop()
    thread.join(HANG_GUARD)
    await trio.testing.wait_all_tasks_blocked()
    assert len(reports.records) == 1


@pytest.mark.parametrize(
    "elapsed, worked, counted",
    [
        (0.25, 0.0, 0.25),
        (100.0, 0.0, 0.25),  # The process was stopped, or the machine slept.
        (100.0, 99.0, 99.25),  # Native code held the interpreter's lock.
    ],
)
async def test_only_time_counts_in_which_the_process_ran(
    elapsed: float, worked: float, counted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = LoopWatch(1.0, lambda _: None)
    times, cpu = iter((50.0, 50.0 + elapsed)), iter((7.0, 7.0 + worked))
    monkeypatch.setattr(
        module,
        "time",
        SimpleNamespace(monotonic=lambda: next(times), process_time=lambda: next(cpu)),
    )
    monkeypatch.setattr(watch._alive, "wait", lambda _: False)
    assert watch._wait_a_little() == counted


def test_the_clock_of_a_watch_is_checked() -> None:
    with pytest.raises(ValueError, match="loop_blocked_after must be more than 0 seconds, not 0"):
        CleanupConfig(loop_blocked_after=0)
