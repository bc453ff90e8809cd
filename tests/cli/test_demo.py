"""The demo with stand-ins for its clients; with real ones it is played in `tests/interop`."""

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

from tests.cli.actors import Agency, MemoryActor
from tests.cli.terminal import Terminal
from trio_mcp_session import TerminationReason, open_session_manager
from trio_mcp_session.cli import demo, demo_script
from trio_mcp_session.cli.demo import ProcessLauncher, check_sdk, perform, summary
from trio_mcp_session.cli.demo_client import ROLES, _Lines, _Writer
from trio_mcp_session.cli.demo_script import EXPECTED, Stage
from trio_mcp_session.cli.failure import CommandFailed
from trio_mcp_session.cli.screen import Screen
from trio_mcp_session.cli.text import Style

STORY = re.compile(r" +\d+\.\ds  (\w+) +(.+)")


def told(text: str) -> dict[str, list[str]]:
    """What was told of each client."""
    story: dict[str, list[str]] = {}
    for line in text.splitlines():
        if found := STORY.fullmatch(line):
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


async def test_the_play(tmp_path: Path, autojump_clock: MockClock) -> None:
    began = trio.current_time()
    file = io.StringIO()
    async with trio.open_nursery() as nursery:
        agency = Agency(nursery)
        status = await perform(Screen(file, Style()), agency, tmp_path)
    text = file.getvalue()
    assert status == 0
    assert told(text) == STORIES
    assert "The drain: 2 completed, 1 cancelled, 0 failed, 0 overran." in text
    assert text.count("✓ 0 ") == 5
    assert "✗" not in text
    # Long enough to see something, and not longer than people watch.
    assert 15 < trio.current_time() - began < 20
    progress = {name for name, actor in agency.actors.items() if actor.progress}
    assert progress == {"ada", "gus"}
    assert list((tmp_path / "workspaces").iterdir()) == []


async def test_the_play_on_a_terminal(
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
        assert await perform(screen, Agency(nursery), tmp_path) == 0
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
        r"● active +dave .* tick, tick",
        r"○ idle +ben +",
        r"× terminated +ben .* idle",
        r"● active +fay .* 1 .* call +\d+%",
        r"× terminated +fay .* client closed",
        r"× terminated +cleo .* client closed",
        r"● active +gus .* 1 .* call +\d+%",
        r"× terminated +ada .* shutdown",
    ):
        assert any(re.search(seen, frame) for frame in frames), seen


async def test_a_signal_in_the_middle(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def interrupt() -> None:
        await trio.sleep(5.1)
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    file = io.StringIO()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interrupt)
        status = await perform(Screen(file, Style()), Agency(nursery), tmp_path)
        nursery.cancel_scope.cancel()
    assert status == 1
    text = file.getvalue()
    assert "The play was cut short." in text
    assert text.count("✓ 0 ") == 5
    assert trio.current_time() - began < 5.1 + demo_script.GRACE + 0.1


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
        await perform(Screen(file, Style()), Agency(nursery), tmp_path)
        nursery.cancel_scope.cancel()
    assert file.getvalue().count("✓ 0 ") == 5


async def test_a_client_that_never_comes(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def say_nothing(actor: MemoryActor) -> None:
        assert await actor.connection.lines.rest() == []
        actor.gone.set()

    monkeypatch.setattr(MemoryActor, "live", say_nothing)
    monkeypatch.setattr(demo_script, "PATIENCE", 2)
    with pytest.RaisesGroup(
        pytest.RaisesExc(CommandFailed, match="waited for ada and ben and cleo .* in vain"),
        flatten_subgroups=True,
    ):
        async with trio.open_nursery() as nursery:
            await perform(Screen(io.StringIO(), Style()), Agency(nursery), tmp_path)


async def test_a_client_that_fails(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def launch(name: str) -> MemoryActor:
        actor = await agency(name)
        if name == "ada":
            actor.complaint = "client ada failed"
            actor.kill()
        return actor

    with pytest.RaisesGroup(
        pytest.RaisesExc(CommandFailed, match="client ada failed"), flatten_subgroups=True
    ):
        async with trio.open_nursery() as nursery:
            agency = Agency(nursery)
            await perform(Screen(io.StringIO(), Style()), launch, tmp_path)


async def test_the_summary_tells_what_is_left() -> None:
    stage = Stage(Screen(io.StringIO(), Style()), ProcessLauncher(Path()))
    async with open_session_manager() as stage.manager:
        stage.cast["ada"] = await stage.manager.create_session()
        stage.cast["ben"] = await stage.manager.create_session()
        stage.cast["ada"].terminate(TerminationReason.CRASHED)
        await stage.cast["ada"].wait_terminated()
        left = {"tasks": 0, "workspaces on disk": 2}
        lines = summary(stage, left, Style(unicode=False))
    assert lines == [
        "",
        "How 2 sessions ended",
        "  crashed             1   ada",
        "  The play was cut short.",
        "",
        "What is left of them",
        "  ok 0 tasks",
        "  !! 2 workspaces on disk",
        "",
    ]


def test_every_client_has_a_role_and_a_fate() -> None:
    assert list(ROLES) == list(EXPECTED)


@pytest.mark.parametrize("version", ["2.3", "2.3.0", "2.10.1", "3.0rc1"])
def test_an_sdk_that_will_do(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    assert check_sdk() == version


def test_an_sdk_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.28.1")
    with pytest.raises(CommandFailed, match=r"need a newer SDK than mcp 1.28.1: python") as raised:
        check_sdk()
    assert raised.value.status == 2


def no_sdk(_: str) -> str:
    raise importlib.metadata.PackageNotFoundError


def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", no_sdk)
    with pytest.raises(CommandFailed) as raised:
        demo.run(argparse.Namespace(plain=False))
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
    monkeypatch.setattr(demo, "perform", instead)


@pytest.mark.parametrize("plain, live", [(True, False), (False, True)])
def test_lines_only(plain: bool, live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(screen: Screen) -> int:
        assert screen.style.live is live
        await trio.lowlevel.checkpoint()
        return 7

    monkeypatch.setattr(Terminal, "isatty", lambda _: True)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    perform_instead(monkeypatch, play)
    assert demo.run(argparse.Namespace(plain=plain)) == 7


def raise_instead(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def play(screen: Screen) -> int:
        async with trio.open_nursery():
            raise error

    perform_instead(monkeypatch, play)


def test_a_failure_comes_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_instead(monkeypatch, CommandFailed("a client failed"))
    with pytest.raises(CommandFailed, match="a client failed"):
        demo.run(argparse.Namespace(plain=True))


def test_a_bug_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_instead(monkeypatch, ValueError("a bug"))
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="a bug")):
        demo.run(argparse.Namespace(plain=True))


def script(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


async def test_a_client_process(tmp_path: Path) -> None:
    echo = "import sys; sys.stdout.write(sys.argv[1] + ' ' + sys.stdin.readline())"
    with trio.fail_after(30):
        client = await ProcessLauncher(tmp_path, script(echo))("ada")
        assert client.peer == f"pid {client.process.pid}"
        async with client.stream:
            await client.stream.send_all(b"hello\n")
            assert await client.wait_gone() is None
            assert await client.stream.receive_some() == b"ada hello\n"


async def test_a_client_process_that_fails(tmp_path: Path) -> None:
    with trio.fail_after(30):
        client = await ProcessLauncher(tmp_path, script("raise SystemExit('oh dear')"))("ada")
        async with client.stream:
            assert await client.wait_gone() == "client ada failed with status 1:\noh dear"


async def test_a_client_process_that_is_killed(tmp_path: Path) -> None:
    with trio.fail_after(30):
        client = await ProcessLauncher(tmp_path, script("input()"))("ada")
        async with client.stream:
            client.kill()
            assert await client.wait_gone() is None
            assert client.process.returncode == -signal.SIGKILL


async def test_a_client_process_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PATIENCE", 0)
    with trio.fail_after(30):
        client = await ProcessLauncher(tmp_path, script("input()"))("ada")
        async with client.stream:
            assert await client.wait_gone() == "client ada did not exit"
            assert client.process.returncode == -signal.SIGKILL


async def test_the_lines_that_a_client_reads() -> None:
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


async def test_the_lines_that_a_client_writes() -> None:
    send, receive = trio.testing.memory_stream_one_way_pair()
    writer = _Writer(send)
    await writer.write("é\n")
    await writer.flush()
    assert await receive.receive_some() == "é\n".encode()
