"""Newline framing: bytes in, whole lines out, whatever the pieces they arrive in."""

from __future__ import annotations

import enum
from typing import TypeAlias, final

import attrs


class BadFrame(enum.Enum):
    """Stands in a batch for a line that could not be delivered."""

    TOO_LONG = "too long"
    """The line exceeded the size limit; its content was dropped."""

    TRUNCATED = "truncated"
    """The peer ended the stream in the middle of the line."""


Frame: TypeAlias = bytes | BadFrame
"""One line without its newline, or the marker for one that was lost."""


@final
@attrs.define(eq=False, repr=False)
class LineDecoder:
    """Splits a byte stream into lines at 0x0A, and at nothing else.

    One trailing carriage return belongs to the line ending. Empty lines are skipped.
    A line longer than ``max_size`` is dropped while it streams in and reported once, as soon as it
    is known to be too long; decoding resumes behind its newline. So no more than ``max_size`` and
    one piece of the stream are ever held.

    Args:
      max_size: The longest line that is delivered, in bytes, without its line ending.
    """

    max_size: int
    _pending: bytearray = attrs.field(factory=bytearray, init=False)
    _skipping: bool = attrs.field(default=False, init=False)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next piece of the stream and return the lines it completes, oldest first."""
        if self._skipping:
            end = data.find(b"\n")
            if end < 0:
                return []
            self._skipping = False
            data = data[end + 1 :]
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._pending:
            lines[0] = b"".join((self._pending, lines[0]))
            self._pending = bytearray()
        frames: list[Frame] = []
        for line in lines:
            content = line[:-1] if line.endswith(b"\r") else line
            if content:
                frames.append(content if len(content) <= self.max_size else BadFrame.TOO_LONG)
        if rest:
            self._pending += rest
            # A carriage return may turn out to be part of the line ending.
            if len(self._pending) > self.max_size + self._pending.endswith(b"\r"):
                self._pending = bytearray()
                self._skipping = True
                frames.append(BadFrame.TOO_LONG)
        return frames

    def close(self) -> list[Frame]:
        """End the stream: return `BadFrame.TRUNCATED` if that cut a line short."""
        cut_short = self._pending.removesuffix(b"\r")
        self._pending = bytearray()
        self._skipping = False
        return [BadFrame.TRUNCATED] if cut_short else []
