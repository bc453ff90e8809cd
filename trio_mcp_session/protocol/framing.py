"""Newline framing: bytes in, whole lines out, whatever the pieces they arrive in."""

from __future__ import annotations

import enum
from typing import Self, TypeAlias, final

import attrs

from .unread_messages import SCANNED


class Loss(enum.Enum):
    """Why a line could not be delivered."""

    TOO_LONG = "too long"
    """The line exceeded the size limit; its content was dropped."""

    TRUNCATED = "truncated"
    """The peer ended the stream in the middle of the line."""


@final
@attrs.frozen
class BadFrame:
    """Stands in a batch for a line that could not be delivered. Its ends are not compared."""

    loss: Loss
    """Why the line was lost."""

    head: bytes = attrs.field(default=b"", eq=False, repr=False)
    """The first bytes of the line: they may say which request it is."""

    tail: bytes = attrs.field(default=b"", eq=False, repr=False)
    """The last bytes of the line; empty if the peer did not send its end."""

    @classmethod
    def too_long(cls, line: bytes) -> Self:
        """Stand for a line that is too long."""
        return cls(Loss.TOO_LONG, line[:SCANNED], line[-SCANNED:])


Frame: TypeAlias = bytes | BadFrame
"""One line without its newline, or what stands for one that was lost."""


@final
@attrs.define(eq=False, repr=False)
class LineDecoder:
    """Splits a byte stream into lines at 0x0A, and at nothing else.

    One trailing carriage return belongs to the line ending. Empty lines are skipped.
    A line longer than ``max_size`` is dropped while it streams in, except for the first and last
    bytes of it. It is reported once, at its end: there may be the id of the request that it is. So
    no more than ``max_size`` and one piece of the stream are ever held.

    Args:
      max_size: The longest line that is delivered, in bytes, without its line ending.
    """

    max_size: int
    _pending: bytearray = attrs.field(factory=bytearray, init=False)
    _skipped: tuple[bytes, bytes] | None = attrs.field(default=None, init=False)
    """The first and last bytes of a line that is being dropped."""

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next piece of the stream and return the lines it completes, oldest first."""
        frames: list[Frame] = []
        if self._skipped is not None:
            head, tail = self._skipped
            end = data.find(b"\n")
            rest_of_line = data if end < 0 else data[:end]
            tail = (tail + rest_of_line[-SCANNED:])[-SCANNED:]
            if end < 0:
                self._skipped = head, tail
                return frames
            self._skipped = None
            frames.append(BadFrame(Loss.TOO_LONG, head, tail))
            data = data[end + 1 :]
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._pending:
            lines[0] = b"".join((self._pending, lines[0]))
            self._pending = bytearray()
        for line in lines:
            content = line[:-1] if line.endswith(b"\r") else line
            if len(content) > self.max_size:
                frames.append(BadFrame.too_long(content))
            elif content:
                frames.append(content)
        if rest:
            self._pending += rest
            # A carriage return may turn out to be part of the line ending.
            if len(self._pending) > self.max_size + self._pending.endswith(b"\r"):
                line = bytes(self._pending)
                self._pending = bytearray()
                self._skipped = line[:SCANNED], line[-SCANNED:]
        return frames

    def close(self) -> list[Frame]:
        """End the stream: return a `BadFrame` if that cut a line short."""
        cut_short = bytes(self._pending.removesuffix(b"\r"))
        skipped, self._skipped = self._skipped, None
        self._pending = bytearray()
        if skipped is not None:
            return [BadFrame(Loss.TOO_LONG, *skipped)]
        return [BadFrame(Loss.TRUNCATED, cut_short[:SCANNED])] if cut_short else []
