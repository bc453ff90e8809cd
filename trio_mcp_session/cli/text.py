"""Text for a terminal: its width, and escaped control characters.

Names that clients send are shown on the terminal. They are cut, and every character that is not a
plain visible one is escaped: a name must not move the cursor, add a line or clear the screen.
"""

from __future__ import annotations

import os
import textwrap
import unicodedata
from math import inf
from typing import Final, TextIO

import attrs

LONGEST: Final = 512
"""Most characters of one text that are read; a peer can send millions."""

THOUSAND: Final = 1000
MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
UNITS: Final = ((MINUTE, "m", 1, "s"), (HOUR, "h", MINUTE, "m"), (DAY, "d", HOUR, "h"))

ESCAPES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


def visible(text: str) -> str:
    """Return the beginning of a text on one line, with all control characters escaped."""
    return escape(unicodedata.normalize("NFC", text[:LONGEST]))


def escape(text: str) -> str:
    """Return ``text`` with all invisible characters escaped, line ends too."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _is_plain(char) else ascii(char)[1:-1] for char in text)


def _is_plain(char: str) -> bool:
    # Selectors of variations change the width of what is before them.
    return char.isprintable() and not "\ufe00" <= char <= "\ufe0f"


def indented(text: str) -> str:
    """Return escaped lines with an indentation, so that they look like no log record."""
    return "\n".join(f"    {escape(line)}" for line in text.splitlines())


def width_of(text: str) -> int:
    """Return how many columns a visible text takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def clip(text: str, width: int, ellipsis: str = "…") -> str:
    """Cut a visible text to ``width`` columns, with an ellipsis at the cut."""
    if width_of(text) <= width:
        return text
    left = width - width_of(ellipsis)
    if left < 0:
        return ""
    end = 0
    while (left := left - _columns(text[end])) >= 0:
        end += 1
    return text[:end] + ellipsis


def fit(text: str, width: int, *, right: bool = False, ellipsis: str = "…") -> str:
    """Cut or pad a visible text to exactly ``width`` columns."""
    text = clip(text, width, ellipsis)
    padding = " " * (width - width_of(text))
    return padding + text if right else text + padding


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Break a visible text into lines, those after the first with ``indent``."""
    if width <= len(indent):
        return [clip(text, width)]
    return textwrap.wrap(text, width, subsequent_indent=indent) or [""]


def seconds(value: float) -> str:
    """Return a duration in at most six columns."""
    if value == inf:
        return "never"
    if value < MINUTE - 0.05:
        return f"{max(value, 0.0):.1f}s"
    whole = round(value)
    for size, unit, smaller_size, smaller_unit in UNITS:
        if whole < 100 * size:
            return f"{whole // size}{unit}{whole % size // smaller_size:02}{smaller_unit}"
    return f"{whole // DAY}d"


def count(value: int) -> str:
    """Return a count in at most four columns."""
    if value < 10 * THOUSAND:
        return str(value)
    for unit in "kMGTP":
        value //= THOUSAND
        if value < THOUSAND:
            return f"{value}{unit}"
    return "lots"


@attrs.frozen(kw_only=True)
class Style:
    """What a terminal can show."""

    color: bool = False
    """Whether to use colours."""

    live: bool = False
    """Whether lines can be redrawn."""

    unicode: bool = True
    """Whether it shows characters beyond ASCII."""

    @property
    def ellipsis(self) -> str:
        """The sign for text that was cut off."""
        return "…" if self.unicode else "~"

    def paint(self, text: str, looks: str) -> str:
        """Colour a text; ``looks`` are names of `ESCAPES`, with spaces between them."""
        if not self.color or not looks or not text.strip():
            return text
        return f"\x1b[{';'.join(ESCAPES[look] for look in looks.split())}m{text}\x1b[0m"

    def encodable(self, text: str) -> str:
        """Return a visible text; on an ASCII terminal with all other characters escaped."""
        return text if self.unicode else text.encode("ascii", "backslashreplace").decode()


def style_of(stream: TextIO) -> Style:
    """Return what a stream can show. ``NO_COLOR`` and ``TERM=dumb`` are respected."""
    live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    encoding = (stream.encoding or "ascii").lower().replace("-", "")
    return Style(
        color=live and not os.environ.get("NO_COLOR"), live=live, unicode=encoding.startswith("utf")
    )
