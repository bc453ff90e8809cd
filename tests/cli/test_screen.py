from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal
from trio_mcp_session.cli.screen import Screen
from trio_mcp_session.cli.text import Style

LIVE = Style(live=True)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(terminal, "fileno", lambda: -1)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: terminal.size())
    return terminal


def test_the_block_is_drawn_over(terminal: Terminal) -> None:
    screen = Screen(terminal, LIVE)
    screen.draw(["a", "b", "c"])
    screen.draw(["d"])
    assert terminal.lines == ["d", ""]


def test_what_is_printed_stays_above_the_block(terminal: Terminal) -> None:
    screen = Screen(terminal, LIVE)
    screen.print("one")
    screen.draw(["a", "b"])
    screen.print("two", "three")
    screen.draw(["c", "d"])
    assert terminal.lines == ["one", "two", "three", "c", "d", ""]


def test_the_cursor_is_hidden_meanwhile_and_the_last_block_stays(terminal: Terminal) -> None:
    screen = Screen(terminal, LIVE)
    visible = []
    with screen:
        visible.append(terminal.cursor_visible)
        screen.draw(["a"])
    visible.append(terminal.cursor_visible)
    assert visible == [False, True]
    screen.print("after")
    assert terminal.lines == ["a", "after", ""]


def test_a_block_is_cut_to_the_height(terminal: Terminal) -> None:
    terminal.rows = 4
    screen = Screen(terminal, LIVE)
    screen.draw([str(number) for number in range(9)])
    assert terminal.lines == ["0", "1", "2", ""]


def test_a_narrower_terminal_is_drawn_anew(terminal: Terminal) -> None:
    screen = Screen(terminal, LIVE)
    screen.draw(["x" * 80])
    terminal.columns = 40
    screen.draw(["y" * 40])
    assert terminal.lines == ["y" * 40, ""]
    terminal.columns = 100
    screen.draw(["z"])
    assert terminal.lines == ["z", ""]


def test_a_terminal_that_tells_no_size(terminal: Terminal) -> None:
    terminal.columns = terminal.rows = 0
    assert Screen(terminal, LIVE).size() == (80, 24)


def test_a_file_gets_lines_only() -> None:
    file = io.StringIO()
    screen = Screen(file)
    with screen:
        screen.draw(["table"])
        screen.print("…", "two")
    assert file.getvalue() == "\\u2026\ntwo\n"
    assert screen.size() == (80, 24)


def test_a_closed_terminal_raises_nothing(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        screen = Screen(pipe)
        screen.print("into the void")
        screen.print("and again")
    # Closing flushed what was in the buffer, which would have failed.


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("gone")


def test_a_stream_without_a_descriptor_is_gone() -> None:
    Screen(Broken()).print("into the void")
