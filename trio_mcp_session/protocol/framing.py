"""Newline framing: bytes in, whole lines out, whatever the pieces they arrive in."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, final

import attrs

from ..core.byte_budget import FREE
from .unread_messages import SCANNED

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget


class Loss(enum.Enum):
    """Why a line could not be delivered."""

    TOO_LONG = "too long"
    """The line exceeded the size limit; its content was dropped."""

    NO_ROOM = "no room"
    """The budget that counts the line had no room; its content was dropped."""

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
        """Return what stands for a line that is too long."""
        return cls(Loss.TOO_LONG, line[:SCANNED], line[-SCANNED:])


Frame: TypeAlias = bytes | BadFrame
"""One line without its newline, or a `BadFrame` in place of a lost line."""


class HasByteBudget(Protocol):
    """A session, which makes its budget on first use."""

    def _byte_budget(self) -> ByteBudget:
        """Return the budget."""
        ...


@final
@attrs.define(eq=False, repr=False, weakref_slot=False)
class LineDecoder:
    """Splits a byte stream into lines at 0x0A, and at nothing else.

    One trailing carriage return belongs to the line ending. Empty lines are skipped.
    A line longer than ``max_size``, or than what the session's budget has room for, is dropped
    while it streams in, except for the first and last bytes of it. It is reported once, at its end:
    there may be the id of the request that it is. So no more than ``max_size`` and one piece of the
    stream are ever held.

    Args:
      max_size: The longest line that is delivered, in bytes, without its line ending.
    """

    max_size: int
    _pending: bytearray = attrs.field(factory=bytearray, init=False)
    _skipped: tuple[Loss, bytes, bytes] | None = attrs.field(default=None, init=False)
    """Why a line is being dropped, and its first and last bytes."""
    _session: HasByteBudget | None = attrs.field(default=None, init=False)
    """What counts the bytes of a line that is not complete."""

    def count_for(self, session: HasByteBudget) -> None:
        """Let a session's budget count a line that is not complete. Not a checkpoint."""
        self._session = session

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next piece of the stream and return the lines it completes, oldest first."""
        frames: list[Frame] = []
        if self._skipped is not None:
            loss, head, tail = self._skipped
            end = data.find(b"\n")
            rest_of_line = data if end < 0 else data[:end]
            tail = (tail + rest_of_line[-SCANNED:])[-SCANNED:]
            if end < 0:
                self._skipped = loss, head, tail
                return frames
            self._skipped = None
            frames.append(BadFrame(loss, head, tail))
            data = data[end + 1 :]
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._pending:
            lines[0] = b"".join((self._pending, lines[0]))
            self._drop_pending()
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
                self._skip(Loss.TOO_LONG, len(rest))
            elif len(self._pending) > FREE and not self._count(len(rest)):
                self._skip(Loss.NO_ROOM, len(rest))
        return frames

    def _skip(self, loss: Loss, uncounted: int) -> None:
        """Drop the line, and what will come of it, except for its ends."""
        self._skipped = loss, bytes(self._pending[:SCANNED]), bytes(self._pending[-SCANNED:])
        self._drop_pending(uncounted)

    def _count(self, new: int) -> bool:
        """Count the last bytes of the line; return whether there was room."""
        if self._session is None:
            return True
        return self._session._byte_budget().claim(self._counted() - self._counted(new))

    def _drop_pending(self, uncounted: int = 0) -> None:
        """Forget the line; its last bytes were not counted."""
        counted = self._counted(uncounted)
        if self._session is not None and counted:
            self._session._byte_budget().release(counted)
        self._pending = bytearray()

    def _counted(self, uncounted: int = 0) -> int:
        """Return how many bytes of the line are counted, without the last ones."""
        return max(0, len(self._pending) - uncounted - FREE)

    def close(self) -> list[Frame]:
        """End the stream: return a `BadFrame` if that cut a line short."""
        cut_short = bytes(self._pending[:SCANNED].removesuffix(b"\r"))
        skipped, self._skipped = self._skipped, None
        self._drop_pending()
        if skipped is not None:
            return [BadFrame(*skipped)]
        return [BadFrame(Loss.TRUNCATED, cut_short)] if cut_short else []
