"""The moving picture of the README: how it is made, and that it is of this demo."""

from __future__ import annotations

import importlib
import re
import sys
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from trio_mcp_session.cli.demo.script import EXPECTED

ROOT = Path(__file__).parents[2]


def load() -> Any:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("picture")
    finally:
        sys.path.remove(str(ROOT / "docs"))


picture = load()


def texts(svg: str) -> list[str]:
    """Return the lines of a picture, without their looks."""
    return [unescape(re.sub(r"<.*?>", "", one)) for one in re.findall(r"<text .*?</text>", svg)]


def test_the_picture_is_small_and_of_this_demo() -> None:
    svg = picture.PICTURE.read_text(encoding="utf-8")
    assert len(svg) < 150_000
    ET.fromstring(svg)  # noqa: S314  # it is ours
    said = "\n".join(texts(svg))
    for name, reason in EXPECTED.items():
        assert re.search(rf"{name}\s", said), name
        assert re.search(rf"^  {reason.value} +\d+   .*\b{name}\b", said, re.MULTILINE), name
    assert said.count("✓ 0 ") == 5
    assert "docs/demo.svg" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_terminal_redraws_its_last_lines() -> None:
    terminal = picture.Terminal()
    terminal.write("one\ntwo\nthree\n\x1b[?25l")
    terminal.write("\x1b[2A\r\x1b[J\x1b[1;32mnew\x1b[0m line\n")
    plain, new = ("one", ""), [("new", "Bg"), (" line", "")]
    assert terminal.shown(9) == ((plain,), tuple(new), ())
    assert terminal.shown(2) == (tuple(new), ())


def test_frames_are_few_and_stand_still_for_a_second_at_most() -> None:
    recording = [(0.0, "a"), (0.01, "b"), (0.5, "c"), (60.0, "d"), (60.9, "e"), (62.0, "\x1b[0m")]
    frames = picture.frames_of(recording)
    shown = ["".join(piece.text for piece in frame.lines[0]) for frame in frames]
    assert shown == ["ab", "abc", "abcd", "abcde"]
    assert [frame.at for frame in frames] == [0, 1, 2, 3]
    assert picture.frames_of([]) == []


def test_frames_that_differ_in_their_figures_only_are_shown_faster() -> None:
    frames = picture.frames_of([(0.0, "age 1.5s\n"), (1.0, "\x1b[1A\x1b[Jage 2.5s\n"), (2.0, "b")])
    assert [frame.at for frame in frames] == [0, pytest.approx(0.3), pytest.approx(1.3)]


def test_a_picture_shows_its_frames_one_after_the_other() -> None:
    svg = picture.svg(picture.frames_of([(0.0, "<a>\n"), (1.0, "\x1b[31mb\x1b[0m\n")]))
    ET.fromstring(svg)  # noqa: S314  # it is ours
    assert texts(svg) == ["<a>", "b"]
    assert '<tspan class="r">b</tspan>' in svg
    assert svg.count('<use href="#l0"') == 2
    assert "0.00%{transform:translateY(0px)}" in svg
    assert "prefers-reduced-motion" in svg


def test_a_program_is_recorded_in_a_terminal() -> None:
    command = (sys.executable, "-c", "import sys; print(sys.stdout.isatty())")
    assert "True" in "".join(text for _, text in picture.record(command))
    with pytest.raises(RuntimeError, match="ended with status"):
        list(picture.record((sys.executable, "-c", "raise SystemExit(3)")))
