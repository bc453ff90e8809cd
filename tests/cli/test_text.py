from __future__ import annotations

import io
import unicodedata
from math import inf

import pytest
from hypothesis import given, strategies as st

from trio_mcp_session.cli.text import (
    LONGEST,
    Style,
    clip,
    count,
    escape,
    fit,
    seconds,
    style_of,
    visible,
    width_of,
    wrap,
)


@given(st.text())
def test_nothing_is_left_that_a_terminal_would_obey(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert not any(unicodedata.category(char).startswith("C") for char in shown)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain", "plain"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("e\u0301", "\u00e9"),
        ("heart\ufe0f", "heart\\ufe0f"),
        ("日本", "日本"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_only_the_beginning_of_a_text_is_looked_at() -> None:
    assert visible("x" * 10_000_000) == "x" * LONGEST


def test_all_of_a_text_is_escaped() -> None:
    assert escape("é" * 2_000 + "\n") == "é" * 2_000 + "\\n"


@pytest.mark.parametrize("text, width", [("abc", 3), ("日本", 4), ("a\u0323\u0301", 1), ("", 0)])
def test_width(text: str, width: int) -> None:
    assert width_of(text) == width


@given(st.text(), st.integers(0, 30), st.booleans())
def test_fitted_text_has_the_width(text: str, width: int, right: bool) -> None:
    fitted = fit(visible(text), width, right=right)
    assert width_of(fitted) == width


@given(st.text(), st.integers(0, 30))
def test_clipped_text_is_the_beginning_of_it(text: str, width: int) -> None:
    text = visible(text)
    clipped = clip(text, width)
    assert width_of(clipped) <= width
    assert clipped == text or text.startswith(clipped.removesuffix("…"))


@pytest.mark.parametrize(
    "text, width, clipped",
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("日本", 3, "日…"),
        ("日本", 2, "…"),
        ("ab", 0, ""),
    ],
)
def test_clip(text: str, width: int, clipped: str) -> None:
    assert clip(text, width) == clipped


def test_alignment() -> None:
    assert fit("1", 3, right=True) == "  1"
    assert fit("1", 3) == "1  "


@pytest.mark.parametrize(
    "text, width, lines",
    [
        ("one two three", 9, ["one two", "  three"]),
        ("one two", 2, ["o…"]),
        ("", 9, [""]),
    ],
)
def test_wrap(text: str, width: int, lines: list[str]) -> None:
    assert wrap(text, width, indent="  ") == lines


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0.0s"),
        (-0.001, "0.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (61, "1m01s"),
        (99 * 60 + 59, "99m59s"),
        (6000, "1h40m"),
        (100 * 3600, "4d04h"),
        (100 * 86400, "100d"),
        (inf, "never"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text


@given(st.floats(0, 99_999 * 86400))
def test_seconds_take_six_columns(value: float) -> None:
    assert len(seconds(value)) <= 6


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (9_999, "9999"),
        (10_000, "10k"),
        (999_999, "999k"),
        (10**6, "1M"),
        (10**18, "lots"),
    ],
)
def test_count(value: int, text: str) -> None:
    assert count(value) == text


@given(st.integers(0))
def test_counts_take_four_columns(value: int) -> None:
    assert len(count(value)) <= 4


def test_paint() -> None:
    style = Style(color=True)
    assert style.paint("x", "bold red") == "\x1b[1;31mx\x1b[0m"
    assert style.paint("  ", "red") == "  "
    assert style.paint("x", "") == "x"
    assert Style().paint("x", "bold red") == "x"


def test_ascii() -> None:
    assert Style(unicode=False).encodable("é…") == "\\xe9\\u2026"
    assert Style().encodable("é…") == "é…"
    assert (Style().ellipsis, Style(unicode=False).ellipsis) == ("…", "~")


class Stream(io.TextIOWrapper):
    def __init__(self, *, tty: bool, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding)
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


@pytest.mark.parametrize(
    "stream, environment, style",
    [
        (Stream(tty=True), {"TERM": "xterm"}, Style(color=True, live=True)),
        (Stream(tty=True), {"TERM": "xterm", "NO_COLOR": "1"}, Style(live=True)),
        (Stream(tty=True), {"TERM": "xterm", "NO_COLOR": ""}, Style(color=True, live=True)),
        (Stream(tty=True), {"TERM": "dumb"}, Style()),
        (Stream(tty=True), {}, Style()),
        (Stream(tty=False), {"TERM": "xterm"}, Style()),
        (Stream(tty=False, encoding="ascii"), {"TERM": "xterm"}, Style(unicode=False)),
        (io.StringIO(), {"TERM": "xterm"}, Style(unicode=False)),
    ],
)
def test_what_a_stream_can_do(
    stream: io.TextIOBase,
    environment: dict[str, str],
    style: Style,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert style_of(stream) == style  # type: ignore[arg-type]  # all of these are text
