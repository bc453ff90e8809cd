"""A terminal for tests: as much of one as `Screen` speaks to."""

from __future__ import annotations

import io
import os
import re

TOKEN = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|([^\x1b])")


class Terminal(io.StringIO):
    """Collects what is written, and knows what a terminal of this size would show of it."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        super().__init__()
        self.columns = columns
        self.rows = rows
        self.lines = [""]
        self.row = 0
        self.cursor_visible = True

    def size(self) -> os.terminal_size:
        return os.terminal_size((self.columns, self.rows))

    def write(self, text: str) -> int:
        for code, letter, char in TOKEN.findall(text):
            if char:
                self._put(char)
            else:
                self._obey(code, letter)
        return super().write(text)

    def _put(self, char: str) -> None:
        if char == "\n":
            self.row += 1
            self.lines[self.row :] = [""]
        elif char != "\r":  # It is only sent where the cursor is at the beginning anyway.
            self.lines[self.row] += char

    def _obey(self, code: str, letter: str) -> None:
        match letter:
            case "h" | "l":
                assert code == "?25"
                self.cursor_visible = letter == "h"
            case "J" if code == "2":
                self.lines, self.row = [""], 0
            case "J":
                self.lines[self.row :] = [""]
            case "A":
                assert int(code) < self.rows, "what has scrolled away is out of reach"
                self.row -= int(code)
                self.lines[self.row :] = [""]
            case other:
                assert other in "mH", "colours, and the top of an empty screen"
