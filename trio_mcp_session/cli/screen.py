"""A terminal with a block of lines at its end that is redrawn; other lines scroll above it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TextIO, final

from .text import Style, style_of

HIDE_CURSOR: Final = "\x1b[?25l"
SHOW_CURSOR: Final = "\x1b[?25h"
CLEAR_BELOW: Final = "\x1b[J"


@final
class Screen:
    """Prints lines, and redraws a block of lines below them on a live terminal.

    As a context manager it shows the cursor again at the end.

    Args:
        stream: The terminal, or a file.
        style: What it can show; detected by default.
    """

    def __init__(self, stream: TextIO, style: Style | None = None) -> None:
        self._stream: Final = stream
        self.style: Final = style_of(stream) if style is None else style
        self._block: list[str] = []
        self._columns: int = 80

    def __enter__(self) -> Self:
        if self.style.live:
            self._write(HIDE_CURSOR)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._block = []
        if self.style.live:
            self._write(SHOW_CURSOR)

    def size(self) -> tuple[int, int]:
        """Return columns and rows."""
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return size.columns or 80, size.lines or 24

    def print(self, *lines: str) -> None:
        """Print lines above the block."""
        text = "".join(f"{line}\n" for line in lines)
        self._write(self._erased() + text + "".join(f"{line}\n" for line in self._block))

    def draw(self, lines: Sequence[str]) -> None:
        """Draw the block: lines no wider than the terminal. Does nothing if it is not live."""
        if not self.style.live:
            return
        erased = self._erased()
        self._columns, rows = self.size()
        # The cursor is below the block, and lines that scrolled away cannot be redrawn.
        self._block = list(lines)[: max(0, rows - 1)]
        self._write(erased + "".join(f"{line}\n" for line in self._block))

    def _erased(self) -> str:
        if not self._block:
            return ""
        columns, _ = self.size()
        if columns < self._columns:
            # The terminal wrapped the lines when it became narrower: clear all of it.
            return f"\x1b[2J\x1b[H{CLEAR_BELOW}"
        return f"\x1b[{len(self._block)}A\r{CLEAR_BELOW}"

    def _write(self, text: str) -> None:
        if not self.style.unicode:
            text = text.encode("ascii", "backslashreplace").decode()
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # The terminal is closed. That must not end a session, and the rest of the buffer
            # must not fail at the end of the program.
            with suppress(OSError, ValueError):
                _redirect_to_devnull(self._stream.fileno())


def _redirect_to_devnull(fd: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    os.close(nowhere)
