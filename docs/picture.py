"""Make the moving picture of the README: the demo, as it runs in a terminal.

python docs/picture.py        runs the demo (half a minute, needs the extra 'mcp'), and writes
                              docs/demo.svg
"""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Iterator, Sequence
from fcntl import ioctl
from html import escape
from pathlib import Path
from typing import Final, NamedTuple, final

PICTURE: Final = Path(__file__).with_name("demo.svg")
COMMAND: Final = (sys.executable, "-m", "trio_mcp_session", "demo")
COLUMNS, ROWS = 92, 26
STEP: Final = 0.8
"""Seconds between two frames."""
LONGEST: Final = 1.0
"""Seconds that a frame is shown at most, if it is not the last one."""
LAST: Final = 6.0
"""Seconds that the last frame is shown."""
ESCAPE: Final = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+")
COLOURS: Final = {"31": "r", "32": "g", "33": "y", "34": "b", "35": "m", "36": "c"}
LINE, WIDTH, MARGIN = 18, 8.0, 14


class Piece(NamedTuple):
    """Text of one look in a line."""

    text: str
    looks: str


Line = tuple[Piece, ...]


class Frame(NamedTuple):
    """What the terminal shows from a time on."""

    at: float
    lines: tuple[Line, ...]


@final
class Terminal:
    """As much of a terminal as the demo uses: lines, colours, and redrawing the last lines."""

    def __init__(self) -> None:
        """Begin with an empty screen."""
        self._lines: list[list[Piece]] = [[]]
        self._row = 0
        self._looks = ""

    def write(self, text: str) -> None:
        """Take what a program prints."""
        for match in ESCAPE.finditer(text):
            numbers, kind = match[1], match[2]
            if kind is None:
                self._put(match[0])
            elif kind == "A":
                self._row = max(0, self._row - int(numbers or 1))
            elif kind == "J":
                del self._lines[self._row :]
                self._lines.append([])
            elif kind == "m":
                self._set_looks(numbers)

    def _put(self, text: str) -> None:
        if text == "\n":
            self._row += 1
            if self._row == len(self._lines):
                self._lines.append([])
        elif text != "\r":
            self._lines[self._row].append(Piece(text, self._looks))

    def _set_looks(self, numbers: str) -> None:
        for number in numbers.split(";"):
            if number in ("", "0"):
                self._looks = ""
            else:
                self._looks += COLOURS.get(number, {"1": "B", "2": "d"}.get(number, ""))

    def shown(self, rows: int) -> tuple[Line, ...]:
        """Return the last lines."""
        return tuple(tuple(line) for line in self._lines[-rows:])


def record(command: Sequence[str] = COMMAND) -> Iterator[tuple[float, str]]:
    """Run a program in a terminal; yield what it prints, and when.

    Raises:
        RuntimeError: It failed.
    """
    terminal, program_side = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    with subprocess.Popen(
        command,
        stdin=program_side,
        stdout=program_side,
        stderr=program_side,
        env={**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
    ) as process:
        os.close(program_side)
        begun = time.monotonic()
        while True:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:  # Linux says so at the end
                break
            if not chunk:
                break
            yield time.monotonic() - begun, chunk.decode(errors="replace")
    os.close(terminal)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")


def frames_of(recording: Iterable[tuple[float, str]]) -> list[Frame]:
    """Return the frames of a picture: not too many, and none that stands still for long."""
    terminal, found = Terminal(), list[Frame]()
    shown_until, last = 0.0, None
    for at, text in recording:
        terminal.write(text)
        last = at, terminal.shown(ROWS)
        if at >= shown_until:
            found.append(Frame(at, last[1]))
            shown_until = at + STEP
    if last is not None:
        found.append(Frame(*last))
    # Waiting is cut out.
    now, before, told = 0.0, 0.0, list[Frame]()
    for frame in found:
        if told:
            if frame.lines == told[-1].lines:
                continue
            now += min(LONGEST, frame.at - before)
        told.append(Frame(now, frame.lines))
        before = frame.at
    return told


def svg(frames: Sequence[Frame]) -> str:
    """Return the picture: all frames below each other, of which one is seen at a time."""
    total = frames[-1].at + LAST
    height, width = ROWS * LINE + 2 * MARGIN, COLUMNS * WIDTH + 2 * MARGIN
    lines: dict[Line, int] = {}
    drawn = [
        f'<use href="#l{lines.setdefault(line, len(lines))}" y="{index * height + row * LINE}"/>'
        for index, frame in enumerate(frames)
        for row, line in enumerate(frame.lines)
        if line
    ]
    steps = "".join(
        f"{100 * frame.at / total:.2f}%{{transform:translateY({-index * height}px)}}"
        for index, frame in enumerate(frames)
    )
    texts = "".join(
        f'<text id="l{number}" x="{MARGIN}" y="{MARGIN + 13}">{"".join(map(_span, line))}</text>'
        for line, number in lines.items()
    )
    still = -(len(frames) - 1) * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" '
        f'width="{width:g}" height="{height}" role="img">\n'
        "<title>The demo: one server, eight clients, and how each of their sessions ends</title>\n"
        "<style>"
        "text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#d8dee9;"
        "white-space:pre}"
        ".B{font-weight:bold}.d{fill:#8f9bb3}.r{fill:#ff8080}.g{fill:#8fd694}.y{fill:#ffd479}"
        ".b{fill:#8ab4f8}.m{fill:#d7a6ff}.c{fill:#7fdbda}"
        f"#film{{animation:film {total:.1f}s step-end infinite}}"
        f"@keyframes film{{{steps}}}"
        "@media (prefers-reduced-motion:reduce){#film{animation:none;"
        f"transform:translateY({still}px)}}}}"
        "</style>\n"
        f'<rect width="100%" height="100%" rx="8" fill="#1b1f2a"/>\n<defs>{texts}</defs>\n'
        f'<g id="film">{"".join(drawn)}</g>\n</svg>\n'
    )


def _span(piece: Piece) -> str:
    text = escape(piece.text, quote=False)
    if not piece.looks:
        return text
    return f'<tspan class="{" ".join(dict.fromkeys(piece.looks))}">{text}</tspan>'


def main() -> None:
    """Run the demo, and write the picture."""
    PICTURE.write_text(svg(frames_of(record())), encoding="utf-8")
    print(f"written: {PICTURE.name}, {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
