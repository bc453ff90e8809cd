"""How the watchdog of a process ends it, in the process of the test; see `test_endings`."""

from __future__ import annotations

import _thread
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.transports.http.asgi_client import Client
from tests.transports.http.modern import headers_of, modern
from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    Router,
    http_app,
    open_session_manager,
)
from trio_mcp_session.cli import last_output, shutdown as module
from trio_mcp_session.cli.shutdown import SIGNALS, Shutdown
from trio_mcp_session.transports.bounded_stderr import OutputWriter

CLOCKS = CleanupConfig(retire_grace=20, shutdown_timeout=9)


class Exit(BaseException):
    """What the test lets `os._exit` raise."""


@pytest.fixture(autouse=True)
def no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    def exit_(status: int) -> None:
        raise Exit(status)

    monkeypatch.setattr(os, "_exit", exit_)


@pytest.fixture
def shutdown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shutdown]:
    """One without a thread: what the thread would do is called by the test."""
    monkeypatch.setattr(_thread, "start_new_thread", lambda *_: None)
    with Shutdown(CLOCKS) as shutdown:
        yield shutdown


def seconds_set(shutdown: Shutdown) -> list[float | None]:
    """The moments that were set so far, in seconds from now, rounded."""
    found: list[float | None] = []
    while not shutdown._moments.empty():
        moment = shutdown._moments.get()
        found.append(moment if moment is None else round(moment - time.monotonic(), 1))
    return found


@pytest.mark.parametrize("numbers", [SIGNALS * 2, SIGNALS[::-1] * 2])
def test_signals_set_the_deadline_also_where_no_event_loop_runs(
    numbers: tuple[signal.Signals, ...], shutdown: Shutdown
) -> None:
    for number, seconds in zip(numbers, (29, 9, 0, 0), strict=True):
        signal.raise_signal(number)
        assert seconds_set(shutdown) == [pytest.approx(seconds, abs=0.2)]


def test_only_the_first_hangup_counts(shutdown: Shutdown) -> None:
    """A terminal that closes sends several."""
    for _ in range(3):
        signal.raise_signal(signal.SIGHUP)
    assert seconds_set(shutdown) == [pytest.approx(29, abs=0.2)]
    signal.raise_signal(signal.SIGTERM)
    assert seconds_set(shutdown) == [pytest.approx(9, abs=0.2)]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_a_hangup_that_has_another_handler_stays(handler: Any) -> None:
    """With SIG_IGN, ``nohup`` has started the program."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with Shutdown(CLOCKS):
            assert signal.getsignal(signal.SIGHUP) is handler
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_hangup_while_the_process_ends_is_ignored(shutdown: Shutdown) -> None:
    signal.raise_signal(signal.SIGHUP)
    shutdown.__exit__()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_signal_after_the_client_has_left_sets_a_shorter_one(shutdown: Shutdown) -> None:
    shutdown.client_left = True
    signal.raise_signal(signal.SIGTERM)
    assert seconds_set(shutdown) == [pytest.approx(1.5, abs=0.2)]


@pytest.mark.parametrize("clocks", [CleanupConfig(), CleanupConfig(retire_grace=inf)])
def test_without_a_deadline_only_the_third_signal_ends_the_process(
    clocks: CleanupConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(_thread, "start_new_thread", lambda *args: started.append(args))
    with Shutdown(clocks) as shutdown:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert seconds_set(shutdown) == started == []
        signal.raise_signal(signal.SIGTERM)
        assert len(seconds_set(shutdown)) == 1
        assert started == [(shutdown._watch, ()), (shutdown._limit_last_output, ())]


def test_its_threads_take_no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that took one would not wake the main thread from a system call."""
    masks: list[set[int]] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def start(*_: object) -> None:
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))

    monkeypatch.setattr(_thread, "start_new_thread", start)
    with Shutdown(CLOCKS):
        signal.raise_signal(signal.SIGTERM)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert [mask >= {*SIGNALS, signal.SIGHUP} for mask in masks] == [True, True]


def test_the_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Shutdown(CLOCKS) as shutdown:
        assert [signal.getsignal(number) for number in SIGNALS] == [shutdown._on_signal] * 2
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert seconds_set(shutdown) == [None]


def test_after_a_signal_a_further_one_ends_the_process_by_itself(shutdown: Shutdown) -> None:
    signal.raise_signal(signal.SIGINT)
    shutdown.__exit__()
    assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_DFL] * 2
    assert seconds_set(shutdown)[-1] is None


def test_where_the_process_ends_the_deadline_stays() -> None:
    with Shutdown(CLOCKS, ends_process=True) as shutdown:
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_DFL] * 2
    assert seconds_set(shutdown) == []


def test_a_signal_after_the_event_loop_has_ended(shutdown: Shutdown) -> None:
    async def main() -> None:
        async with open_session_manager() as manager:
            with shutdown.attached_to(manager):
                pass

    trio.run(main)
    signal.raise_signal(signal.SIGTERM)
    assert len(seconds_set(shutdown)) == 1


# The watchdog.


def test_the_earliest_moment_counts(shutdown: Shutdown, capfd: pytest.CaptureFixture[str]) -> None:
    for seconds in (1000, 0.01, 2000):
        shutdown.end_within(seconds)
    with pytest.raises(Exit, match=r"^1$"):
        shutdown._watch()
    assert capfd.readouterr().err.startswith(
        "trio_mcp_session: process ended by the deadline of its shutdown; did not end: "
    )


def test_a_moment_far_away(shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for in pieces; no clock of the system takes any number."""
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.001)
    shutdown.end_within(1e300)
    threading.Timer(0.05, shutdown._moments.put, [None]).start()
    shutdown._watch()


@pytest.mark.parametrize("number", SIGNALS)
def test_the_third_signal_has_its_status(
    number: signal.Signals, shutdown: Shutdown, capfd: pytest.CaptureFixture[str]
) -> None:
    for one in (*SIGNALS, number):
        signal.raise_signal(one)
    with pytest.raises(Exit, match=f"^{128 + number}$"):
        shutdown._watch()
    assert f"process ended by {number.name} (third signal); " in capfd.readouterr().err


@pytest.mark.parametrize("signals, shown", [([], True), ([*SIGNALS, signal.SIGTERM], False)])
def test_the_deadline_shows_all_tasks(
    signals: list[signal.Signals],
    shown: bool,
    shutdown: Shutdown,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A third signal is a person who wants to see no screen of text."""

    async def main() -> None:
        async with open_session_manager() as manager:
            with shutdown.attached_to(manager):
                pass

    trio.run(main)
    for one in signals:
        signal.raise_signal(one)
    shutdown.end_within(0)
    with pytest.raises(Exit):
        shutdown._watch()
    line, *more = capfd.readouterr().err.splitlines()
    assert "did not end: " in line
    assert ("trio_mcp_session: all tasks:" in more) is shown


def test_tasks_that_cannot_be_read_leave_the_line(
    shutdown: Shutdown, capfd: pytest.CaptureFixture[str]
) -> None:
    shutdown._tree = object()  # type: ignore[assignment]  # nothing can be read of it
    shutdown.end_within(0)
    with pytest.raises(Exit):
        shutdown._watch()
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_the_deadline_after_a_signal_has_the_status_of_the_signal(shutdown: Shutdown) -> None:
    signal.raise_signal(signal.SIGTERM)
    shutdown.end_within(0)
    with pytest.raises(Exit, match=f"^{128 + signal.SIGTERM}$"):
        shutdown._watch()


async def test_what_did_not_end_is_named() -> None:
    started, stop = threading.Event(), threading.Event()
    router = Router("x")

    def hold() -> None:
        started.set()
        stop.wait()

    @router.tool()
    async def stuck(ctx: RequestContext) -> str:
        await trio.to_thread.run_sync(hold, thread_name="a thread of its own")
        return "not any more"

    async with open_session_manager(router) as manager, trio.open_nursery() as nursery:
        with Shutdown(CLOCKS) as shutdown, shutdown.attached_to(manager):
            await trio.to_thread.run_sync(time.monotonic)  # Leaves an idle thread.
            session = await manager.create_session()
            session.start_soon(trio.sleep_forever, name="a name\nof two lines " + 200 * "x")
            others = [await manager.create_session() for _ in range(6)]
            call = modern(1, "tools/call", {"name": "stuck", "arguments": {}})
            client = Client(http_app(manager))
            nursery.start_soon(partial(client.post, call, headers=headers_of(call)))
            await wait_all_tasks_blocked()
            await trio.to_thread.run_sync(started.wait)
            told = await trio.to_thread.run_sync(shutdown._what)
            stop.set()
    assert f"session {session.session_id[:6]}… (a name?of two lines xxx" in told
    assert f"session {others[0].session_id[:6]}… (session), " in told
    assert ", 2 more, request tools/call, " in told
    assert "thread 'a thread of its own'" in told
    assert "Trio thread" not in told
    assert "event loop" not in told
    assert "\n" not in told
    assert len(told) < 2000


def test_where_the_event_loop_is_blocked() -> None:
    told: list[list[str]] = []
    thread = threading.Thread(target=lambda: told.append(list(module._event_loop(None))))
    thread.start()
    thread.join()
    (where,) = told[0]
    assert re.fullmatch(r"event loop in \w+ \(threading\.py:\d+\)", where)


def test_where_a_signal_has_interrupted_it(shutdown: Shutdown) -> None:
    seen: list[str] = []
    shutdown._notify = lambda: seen.append(module._interrupted(sys._getframe()).f_code.co_name)
    signal.raise_signal(signal.SIGTERM)
    assert seen == ["test_where_a_signal_has_interrupted_it"]


def test_a_table_that_changes_while_it_is_read(shutdown: Shutdown) -> None:
    shutdown._manager = object()  # type: ignore[assignment]  # nothing can be read of it
    assert "session" not in shutdown._what()


def test_nothing_to_name(shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_threads", "_event_loop"):
        monkeypatch.setattr(module, name, lambda _: [])
    assert shutdown._what() == "unknown"


def test_output_that_nothing_reads_delays_the_end_for_a_moment_only(
    shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITING_TIME", 0.01)
    written = threading.Event()
    monkeypatch.setattr(module, "write_error", lambda _: written.wait())
    shutdown.end_within(0)

    def write() -> None:
        with suppress(Exit):
            shutdown._watch()

    writing = threading.Thread(target=write)
    writing.start()
    with pytest.raises(Exit, match=r"^1$"):
        shutdown._limit_last_output()
    assert writing.is_alive()
    written.set()
    writing.join()


def test_both_threads_end_if_the_process_continues() -> None:
    with Shutdown(CLOCKS) as shutdown:
        pass
    shutdown._watch()
    shutdown._limit_last_output()


def test_output_that_cannot_be_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []

    class Stream(io.StringIO):
        def flush(self) -> None:
            flushed.append("it was")

    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", Stream())
    last_output.flush_output()
    assert flushed == ["it was"]


def test_a_writer_of_standard_error_gets_the_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    writer = OutputWriter(write=lambda _, data: read.append(data))
    monkeypatch.setattr(last_output, "installed_writer", lambda number=2: writer)
    writer.start()
    last_output.write_error("a line\n")
    last_output.flush_output()
    assert read == [b"a line\n"]
    writer.close()


def test_standard_error_that_was_closed_when_the_process_started(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another file may have its number."""
    monkeypatch.setattr(last_output, "CLOSED_AT_START", {2})
    last_output.write_error("a line")
    assert capfd.readouterr().err == ""


def test_standard_error_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(fd: int, data: bytes) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(os, "write", write)
    last_output.write_error("a line")
