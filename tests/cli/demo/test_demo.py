"""The demo with clients in memory; `tests/interop` runs it with real ones."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.cli.demo.memory_client import MemoryClient, MemoryClients
from tests.cli.terminal import Terminal
from trio_mcp_session import TerminationReason, open_session_manager
from trio_mcp_session.cli.demo import command, script as script_module
from trio_mcp_session.cli.demo.client import SCRIPTS, _Lines, _Writer
from trio_mcp_session.cli.demo.command import ProcessLauncher, check_sdk, run_demo, summary
from trio_mcp_session.cli.demo.script import EXPECTED, DemoRun
from trio_mcp_session.cli.failure import CommandFailed
from trio_mcp_session.cli.screen import Screen
from trio_mcp_session.cli.text import Style

EVENT_LINE = re.compile(r" +\d+\.\ds  (\w+) +(.+)")


def told(text: str) -> dict[str, list[str]]:
    """Return what was printed about each client."""
    story: dict[str, list[str]] = {}
    for line in text.splitlines():
        if found := EVENT_LINE.fullmatch(line):
            story.setdefault(found[1], []).append(found[2])
    return story


STORIES = {
    "ada": ["connected", "ended, shutdown"],
    "ben": ["connected", "idle", "ended, idle"],
    "cleo": ["connected", "ended, client closed"],
    "dave": ["connected", "ended, crashed: this bug is part of the demo"],
    "eve": ["connected", "idle", "ended, evicted"],
    "fay": ["connected", "ended, client closed"],
    "gus": ["connected", "ended, shutdown"],
    "hal": ["connected", "ended, shutdown"],
}


async def test_the_demo_ends_every_session_as_expected(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    began = trio.current_time()
    file = io.StringIO()
    async with trio.open_nursery() as nursery:
        memory_clients = MemoryClients(nursery)
        status = await run_demo(Screen(file, Style()), memory_clients, tmp_path)
    text = file.getvalue()
    assert status == 0
    assert told(text) == STORIES
    assert "The drain: 2 completed, 1 cancelled, 0 failed, 0 overran." in text
    assert text.count("✓ 0 ") == 5
    assert "✗" not in text
    # Long enough to see each scene, and short enough to watch.
    assert 15 < trio.current_time() - began < 20
    progress = {name for name, client in memory_clients.clients.items() if client.progress}
    assert progress == {"ada", "gus"}
    assert list((tmp_path / "workspaces").iterdir()) == []


async def test_the_demo_on_a_terminal_draws_a_table(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    screen = Screen(terminal, Style(live=True))
    frames: list[str] = []
    draw = Screen.draw

    def keep(self: Screen, lines: list[str]) -> None:
        draw(self, lines)
        frames.append("\n".join(lines))

    monkeypatch.setattr(Screen, "draw", keep)
    async with trio.open_nursery() as nursery:
        assert await run_demo(screen, MemoryClients(nursery), tmp_path) == 0
    assert terminal.cursor_visible
    text = "\n".join(terminal.lines)
    assert told(text) == STORIES
    assert text.count("STATE ") == 1
    assert text.index("STATE ") < text.index("How 8 sessions ended")
    for seen in (
        r"● active +ada",
        r"● active +cleo .* 1 .* indexing +\d+%",
        r"○ idle +eve",
        r"× terminated +eve .* evicted",
        r"× terminated +dave .* crashed",
        r"● active +dave .* about to crash",
        r"○ idle +ben +",
        r"× terminated +ben .* idle",
        r"● active +fay .* 1 .* call +\d+%",
        r"× terminated +fay .* client closed",
        r"× terminated +cleo .* client closed",
        r"● active +gus .* 1 .* call +\d+%",
        r"× terminated +ada .* shutdown",
    ):
        assert any(re.search(seen, frame) for frame in frames), seen


async def test_a_signal_during_the_demo_interrupts_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async def interrupt() -> None:
        await trio.sleep(5.1)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    file = io.StringIO()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interrupt)
        status = await run_demo(Screen(file, Style()), MemoryClients(nursery), tmp_path)
        nursery.cancel_scope.cancel()
    assert status == 1
    text = file.getvalue()
    assert "The demo was interrupted." in text
    assert text.count("✓ 0 ") == 5
    assert trio.current_time() - began < 5.1 + script_module.GRACE + 0.1


@pytest.mark.parametrize("moment", [step / 10 for step in range(0, 190, 23)])
async def test_a_signal_at_any_time_leaves_nothing(
    moment: float, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async def interrupt() -> None:
        await trio.sleep(moment)
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()

    file = io.StringIO()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interrupt)
        await run_demo(Screen(file, Style()), MemoryClients(nursery), tmp_path)
        nursery.cancel_scope.cancel()
    assert file.getvalue().count("✓ 0 ") == 5


async def test_slow_clients_do_not_expire_before_their_handshake(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = MemoryClient.live

    async def live_later(client: MemoryClient) -> None:
        await trio.sleep(script_module.CONFIG.cleanup.connection_idle_time + 1)
        await live(client)

    monkeypatch.setattr(MemoryClient, "live", live_later)
    async with trio.open_nursery() as nursery:
        screen = Screen(io.StringIO(), Style())
        assert await run_demo(screen, MemoryClients(nursery), tmp_path) == 0


async def test_a_client_that_never_connects_fails_the_demo(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def say_nothing(client: MemoryClient) -> None:
        assert await client.connection.lines.rest() == []
        client.gone.set()

    monkeypatch.setattr(MemoryClient, "live", say_nothing)
    monkeypatch.setattr(script_module, "PATIENCE", 2)
    with pytest.RaisesGroup(
        pytest.RaisesExc(
            CommandFailed, match="timed out after 2 s: waited for ada and ben and cleo"
        ),
        flatten_subgroups=True,
    ):
        async with trio.open_nursery() as nursery:
            await run_demo(Screen(io.StringIO(), Style()), MemoryClients(nursery), tmp_path)


async def test_a_client_that_fails_fails_the_demo(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async def launch(name: str) -> MemoryClient:
        client = await memory_clients(name)
        if name == "ada":
            client.failure = "client ada failed"
            client.kill()
        return client

    with pytest.RaisesGroup(
        pytest.RaisesExc(CommandFailed, match="client ada failed"), flatten_subgroups=True
    ):
        async with trio.open_nursery() as nursery:
            memory_clients = MemoryClients(nursery)
            await run_demo(Screen(io.StringIO(), Style()), launch, tmp_path)


async def test_the_summary_says_what_is_left() -> None:
    demo_run = DemoRun(Screen(io.StringIO(), Style()), ProcessLauncher(Path()))
    async with open_session_manager() as demo_run.manager:
        demo_run.sessions["ada"] = await demo_run.manager.create_session()
        demo_run.sessions["ben"] = await demo_run.manager.create_session()
        demo_run.sessions["ada"].terminate(TerminationReason.CRASHED)
        await demo_run.sessions["ada"].wait_terminated()
        left = {"tasks": 0, "workspaces on disk": 2}
        lines = summary(demo_run, left, Style(unicode=False))
    assert lines == [
        "",
        "How 2 sessions ended",
        "  crashed             1   ada",
        "  The demo was interrupted.",
        "",
        "What is left",
        "  ok 0 tasks",
        "  !! 2 workspaces on disk",
        "",
    ]


def test_every_client_has_a_script_and_an_expected_reason() -> None:
    assert list(SCRIPTS) == list(EXPECTED)


@pytest.mark.parametrize("version", ["2.3", "2.3.0", "2.10.1", "3.0rc1"])
def test_a_new_enough_sdk_is_accepted(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    assert check_sdk() == version


def test_an_old_sdk_is_refused_with_the_command_to_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.28.1")
    with pytest.raises(CommandFailed, match=r"need a newer SDK than mcp 1.28.1: python") as raised:
        check_sdk()
    assert raised.value.status == 2


def no_sdk(_: str) -> str:
    raise importlib.metadata.PackageNotFoundError


def test_a_missing_sdk_is_refused_with_the_command_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", no_sdk)
    with pytest.raises(CommandFailed) as raised:
        command.run(argparse.Namespace(plain=False))
    assert str(raised.value).startswith("the demo's clients need the official SDK: python")
    assert str(raised.value).endswith(' -m pip install "mcp >= 2.3"')
    assert "\n" not in str(raised.value)
    assert raised.value.status == 2


def perform_instead(
    monkeypatch: pytest.MonkeyPatch, play: Callable[[Screen], Awaitable[int]]
) -> None:
    async def instead(screen: Screen, launch: object, folder: Path) -> int:
        assert await trio.Path(folder).is_dir()
        return await play(screen)

    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.3.0")
    monkeypatch.setattr(command, "run_demo", instead)


@pytest.mark.parametrize("plain, live", [(True, False), (False, True)])
def test_plain_prints_lines_only(plain: bool, live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(screen: Screen) -> int:
        assert screen.style.live is live
        await trio.lowlevel.checkpoint()
        return 7

    monkeypatch.setattr(Terminal, "isatty", lambda _: True)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    perform_instead(monkeypatch, play)
    assert command.run(argparse.Namespace(plain=plain)) == 7


def raise_instead(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def play(screen: Screen) -> int:
        async with trio.open_nursery():
            raise error

    perform_instead(monkeypatch, play)


def test_a_failure_is_raised_without_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_instead(monkeypatch, CommandFailed("a client failed"))
    with pytest.raises(CommandFailed, match="a client failed"):
        command.run(argparse.Namespace(plain=True))


def test_other_errors_are_raised_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_instead(monkeypatch, ValueError("a bug"))
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="a bug")):
        command.run(argparse.Namespace(plain=True))


def script(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


async def test_a_client_process_talks_over_its_pipes(tmp_path: Path) -> None:
    echo = "import sys; sys.stdout.write(sys.argv[1] + ' ' + sys.stdin.readline())"
    with trio.fail_after(30):
        client = await ProcessLauncher(tmp_path, script(echo))("ada")
        assert client.peer == f"pid {client.process.pid}"
        async with client.stream:
            await client.stream.send_all(b"hello\n")
            assert await client.wait_gone() is None
            assert await client.stream.receive_some() == b"ada hello\n"


async def test_a_client_process_that_fails_reports_its_output(tmp_path: Path) -> None:
    with trio.fail_after(30):
        client = await ProcessLauncher(tmp_path, script("raise SystemExit('oh dear')"))("ada")
        async with client.stream:
            assert await client.wait_gone() == "client ada failed with status 1:\noh dear"


async def test_a_killed_client_process_does_not_count_as_failed(tmp_path: Path) -> None:
    with trio.fail_after(30):
        client = await ProcessLauncher(tmp_path, script("input()"))("ada")
        async with client.stream:
            client.kill()
            assert await client.wait_gone() is None
            assert client.process.returncode == -signal.SIGKILL


async def test_a_client_process_that_does_not_exit_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PATIENCE", 0)
    with trio.fail_after(30):
        client = await ProcessLauncher(tmp_path, script("input()"))("ada")
        async with client.stream:
            assert await client.wait_gone() == "client ada did not exit"
            assert client.process.returncode == -signal.SIGKILL


async def test_a_client_reads_lines_also_in_pieces() -> None:
    send, receive = trio.testing.memory_stream_one_way_pair()
    ended: list[bool] = []
    lines = _Lines(receive, lambda: ended.append(True))
    await send.send_all('{}\n[1]\n"é'.encode()[:-1])
    seen = [await anext(lines), await anext(lines)]
    await send.send_all(b'\xa9"\nrest')
    await send.aclose()
    seen += [line async for line in lines]
    assert seen == ["{}", "[1]", '"é"']
    assert ended == [True]


async def test_a_client_writes_lines_as_utf8() -> None:
    send, receive = trio.testing.memory_stream_one_way_pair()
    writer = _Writer(send)
    await writer.write("é\n")
    await writer.flush()
    assert await receive.receive_some() == "é\n".encode()
