"""Starting a server: once, whatever happens to the processes that start it."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from trio_mcp_session.cli.connect.start_lock import StartLock
from trio_mcp_session.cli.connect.starting import UNREACHABLE, Start, Starter
from trio_mcp_session.cli.failure import CommandFailed


def test_a_lock_is_held_once_and_its_file_is_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "x.lock")
    first, second = StartLock(path), StartLock(path)
    assert first.acquire_nowait()
    assert not second.acquire_nowait()
    first.release()
    assert os.listdir(tmp_path) == []
    assert second.acquire_nowait()
    second.release()
    second.release()
    assert os.listdir(tmp_path) == []
    # It does not remove the file of another lock.
    assert first.acquire_nowait()
    os.unlink(path)
    assert second.acquire_nowait()
    first.release()
    assert os.listdir(tmp_path) == ["x.lock"]
    second.release()
    assert os.listdir(tmp_path) == []


def test_a_lock_that_is_left_is_held_by_the_processes_that_inherited_it(tmp_path: Path) -> None:
    path = str(tmp_path / "x.lock")
    first, second = StartLock(path), StartLock(path)
    assert first.acquire_nowait()
    inherited = os.dup(first._fd)
    first.leave()
    assert not second.acquire_nowait()
    os.close(inherited)  # The process has ended.
    assert second.acquire_nowait()
    second.release()


@pytest.mark.parametrize("replaced", [True, False])
def test_a_lock_whose_file_was_removed_meanwhile_is_not_taken(
    replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.lock"
    real = fcntl.flock

    def removed_before(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        path.unlink()
        if replaced:
            path.touch()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    lock = StartLock(str(path))
    assert not lock.acquire_nowait()
    assert lock.acquire_nowait()
    lock.release()


def test_a_lock_that_is_in_the_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CommandFailed, match="cannot be opened: No such file"):
        StartLock(str(tmp_path / "missing" / "x.lock")).acquire_nowait()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(CommandFailed, match="cannot be opened"):
        StartLock(str(tmp_path / "link")).acquire_nowait()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(CommandFailed, match="belongs to another user"):
        StartLock(str(tmp_path / "x.lock")).acquire_nowait()


def start_of(tmp_path: Path, command: str, *, log: str | None = None) -> Start:
    words = shlex.split(command)
    return Start(command=words, lock_path=str(tmp_path / "x.lock"), timeout=5, log=log)


async def refused() -> None:
    await trio.lowlevel.checkpoint()
    raise ConnectionRefusedError(111, "Connection refused")


async def test_a_server_that_listens_is_not_started(tmp_path: Path) -> None:
    async def connect() -> str:
        await trio.lowlevel.checkpoint()
        return "there"

    (tmp_path / "x.lock").touch()  # A bridge that was killed has left it.
    async with trio.open_nursery() as nursery:
        starter = Starter("unix:x", start_of(tmp_path, "false"), nursery)
        assert await starter.reach(connect) == "there"
    assert os.listdir(tmp_path) == []


async def test_a_server_that_is_absent_and_not_to_be_started_is_named() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(CommandFailed, match=r"cannot connect to unix:x: .*--start") as raised:
            await Starter("unix:x", None, nursery).reach(refused)
    assert raised.value.status == UNREACHABLE


@pytest.mark.parametrize(
    "command, log, told",
    [
        ("sh -c 'exit 7'", None, "sh ended with status 7 .*; --start-log PATH keeps"),
        ("sh -c 'echo why >&2; exit 7'", "log.txt", "sh ended with status 7 .*; see "),
        ("no-such-program-at-all", None, "cannot start no-such-program-at-all: No such file"),
    ],
)
async def test_a_server_that_fails_is_named_with_its_status(
    command: str, log: str | None, told: str, tmp_path: Path
) -> None:
    log_path = None if log is None else str(tmp_path / log)
    async with trio.open_nursery() as nursery:
        starter = Starter("unix:x", start_of(tmp_path, command, log=log_path), nursery)
        with pytest.raises(CommandFailed, match=told) as raised:
            await starter.reach(refused)
    assert raised.value.status == UNREACHABLE
    if log is not None:
        assert (tmp_path / log).read_text("utf-8") == "why\n"
        (tmp_path / log).unlink()
    assert [name for name in os.listdir(tmp_path) if name != "x.lock"] == []


async def test_a_server_that_does_not_listen_in_time_is_told_to_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        starter = Starter("unix:x", start_of(tmp_path, "sleep 60"), nursery)
        with pytest.raises(CommandFailed, match="nothing listens on unix:x 5 s after its start"):
            await starter.reach(refused)
        assert trio.current_time() == pytest.approx(5, abs=0.1)
        # Leaving waits for its end.


async def test_a_command_that_goes_to_the_background_has_not_failed(tmp_path: Path) -> None:
    tries = 0

    async def connect() -> str:
        nonlocal tries
        tries += 1
        if tries < 6:
            await refused()
        return "there"

    async with trio.open_nursery() as nursery:
        starter = Starter("unix:x", start_of(tmp_path, "true"), nursery)
        assert await starter.reach(connect) == "there"
    assert os.listdir(tmp_path) == []


async def test_while_another_process_starts_it_the_server_is_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    start = start_of(tmp_path, "false")
    other = StartLock(start.lock_path)
    assert other.acquire_nowait()
    tries = 0

    async def connect() -> str:
        nonlocal tries
        tries += 1
        if tries < 6:
            await refused()
        return "there"

    async with trio.open_nursery() as nursery:
        # The holder was killed, and the server that it has started holds the lock.
        assert await Starter("unix:x", start, nursery).reach(connect) == "there"
        assert os.listdir(tmp_path) == []
        other.release()
        assert other.acquire_nowait()
        tries = -1000
        with pytest.raises(CommandFailed, match="nothing listens"):
            await Starter("unix:x", start, nursery).reach(connect)
    other.release()


async def test_a_server_that_has_ended_before_it_is_told_to_does_no_harm(tmp_path: Path) -> None:
    from trio_mcp_session.cli.connect.starting import _Server

    server = _Server(start_of(tmp_path, "true"))
    while server.status is None:
        assert not server.has_failed()
        await trio.sleep(0.001)
    server.terminate()
    assert not server.has_failed()


async def test_a_server_that_is_being_started_keeps_the_lock_of_a_bridge_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = start_of(tmp_path, "sh -c 'echo $$ > new; mv new pid; exec sleep 60'")
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as bridge:

            async def connect() -> None:
                if "pid" in os.listdir(tmp_path):
                    bridge.cancel()
                await refused()

            await Starter("unix:x", start, nursery).reach(connect)
        lock = StartLock(start.lock_path)
        assert not lock.acquire_nowait()
        with open("pid", encoding="ascii") as file:  # noqa: ASYNC230  # it is a small one
            os.kill(int(file.read()), signal.SIGKILL)  # noqa: ASYNC232  # it is a small one
        while not lock.acquire_nowait():  # noqa: ASYNC110  # a process has it
            await trio.sleep(0.001)
        lock.release()
