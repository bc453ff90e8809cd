"""SIGUSR1 in the process of the test; `test_operating` has real programs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from operator import methodcaller

import pytest
import trio

from trio_mcp_session import open_session_manager
from trio_mcp_session.cli import task_report as module
from trio_mcp_session.cli.task_report import TaskReport

HANG_GUARD = 20.0


class Written:
    """What was written to standard error, from any thread."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.threads: list[int] = []
        self.arrived = threading.Semaphore(0)

    def write(self, text: str) -> None:
        self.texts.append(text)
        self.threads.append(threading.get_ident())
        self.arrived.release()

    def wait(self) -> str:
        assert self.arrived.acquire(timeout=HANG_GUARD)
        return self.texts[-1]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    written = Written()
    monkeypatch.setattr(module, "write_error", written.write)
    before = signal.getsignal(signal.SIGUSR1)
    yield written
    assert signal.getsignal(signal.SIGUSR1) == before
    # They may have ended already.
    reports = [one for one in threading.enumerate() if "task report" in one.name]
    list(map(methodcaller("join", HANG_GUARD), reports))
    assert not any(map(methodcaller("is_alive"), reports))


def test_before_the_event_loop_runs(written: Written) -> None:
    with TaskReport():
        signal.raise_signal(signal.SIGUSR1)
        assert written.wait() == ("trio_mcp_session: SIGUSR1: the event loop has not started yet\n")


def test_after_the_event_loop_has_ended(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIME", 0.01)
    report = TaskReport()

    async def main() -> None:
        async with open_session_manager() as manager:
            report.attach(manager)

    trio.run(main)
    with report:
        signal.raise_signal(signal.SIGUSR1)
        assert "the event loop did not answer within 0.01 s; all tasks:\n" in written.wait()


async def test_while_the_event_loop_is_blocked(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_TIME", 0.01)
    async with open_session_manager() as manager:
        with TaskReport() as report:
            report.attach(manager)
            signal.raise_signal(signal.SIGUSR1)
            text = written.wait()
        await trio.testing.wait_all_tasks_blocked()
    assert ": runs now in " in text
    assert all(line.startswith("    ") for line in text.splitlines()[1:])
    assert written.threads != [threading.get_ident()]
    # The loop, when it runs again, does not write another one.
    assert len(written.texts) == 1


@pytest.mark.parametrize("level", ["WARNING", "ERROR"])
async def test_the_event_loop_logs_it(
    level: str, written: Written, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the log does not show warnings, it is written all the same: it was asked for."""
    monkeypatch.setattr(module, "ANSWER_TIME", HANG_GUARD)
    caplog.set_level(level, "trio_mcp_session")
    async with open_session_manager() as manager:
        with TaskReport() as report:
            report.attach(manager)
            assert manager._task_ages is report.ages
            answered = watch_answers(monkeypatch)
            signal.raise_signal(signal.SIGUSR1)
            with trio.fail_after(HANG_GUARD):
                await answered()
    if level == "WARNING":
        (record,) = caplog.records
        assert record.getMessage() == "SIGUSR1: all tasks:"
        assert ": runs now in " in str(record.stack_info)
        assert written.texts == []
    else:
        assert caplog.records == []
        assert written.texts[0].startswith("trio_mcp_session: SIGUSR1: all tasks:\n    <init>")


def watch_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Return what waits until the event loop has written a report."""
    done = trio.Event()
    original = module._Answer.log

    def log(answer: module._Answer) -> None:
        original(answer)
        done.set()

    monkeypatch.setattr(module._Answer, "log", log)
    return done.wait
