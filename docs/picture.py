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
SETTLED: Final = 0.05
"""Seconds without output after which a drawing is whole."""
LONGEST: Final = 1.0
"""Seconds that a frame is shown, if it is not the last one."""
FAST: Final = 0.3
"""Seconds that a frame is shown before another one that differs in its figures only."""
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
    for at, text in recording:
        # What was printed a moment ago may be half of a drawing. The last frame of a step is kept.
        half = found and at - found[-1].at < SETTLED
        if half or (len(found) > 1 and at - found[-2].at < STEP):
            del found[-1]
        terminal.write(text)
        found.append(Frame(at, terminal.shown(ROWS)))
    # Waiting is cut out, and what changes only in its figures is shown faster.
    now, told = 0.0, list[Frame]()
    for frame in found:
        if told and frame.lines == told[-1].lines:
            continue
        if told:
            now += FAST if _words(frame) == _words(told[-1]) else LONGEST
        told.append(Frame(now, frame.lines))
    return told


def _words(frame: Frame) -> str:
    return re.sub(
        r"[\d.·]+| +", " ", "\n".join(piece.text for line in frame.lines for piece in line)
    )


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
