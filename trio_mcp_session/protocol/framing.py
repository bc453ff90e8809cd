"""Newline framing: bytes in, whole lines out, whatever the pieces they arrive in."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

import attrs

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget


class BadFrame(enum.Enum):
    """Stands in a batch for a line that could not be delivered."""

    TOO_LONG = "too long"
    """The line exceeded the size limit; its content was dropped."""

    NO_ROOM = "no room"
    """The budget that counts the line had no room; its content was dropped."""

    TRUNCATED = "truncated"
    """The peer ended the stream in the middle of the line."""


Frame: TypeAlias = bytes | BadFrame
"""One line without its newline, or the marker for one that was lost."""


FREE: Final = 4096
"""Bytes of a line that are not counted, so that usual messages cost nothing. 10,000 connections
hold 40 MiB of such lines at most.
"""


class HasByteBudget(Protocol):
    """A session, which has a budget once it needs one."""

    def _byte_budget(self) -> ByteBudget:
        """Return the budget."""
        ...


@final
@attrs.define(eq=False, repr=False, weakref_slot=False)
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
    _session: HasByteBudget | None = attrs.field(default=None, init=False)
    """What counts the bytes of a line that is not complete."""

    def count_for(self, session: HasByteBudget) -> None:
        """Let a session's budget count a line that is not complete. Not a checkpoint."""
        self._session = session

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
            self._drop_pending()
        frames: list[Frame] = []
        for line in lines:
            content = line[:-1] if line.endswith(b"\r") else line
            if content:
                frames.append(content if len(content) <= self.max_size else BadFrame.TOO_LONG)
        if rest:
            self._pending += rest
            # A carriage return may turn out to be part of the line ending.
            if len(self._pending) > self.max_size + self._pending.endswith(b"\r"):
                self._drop_pending(len(rest))
                self._skipping = True
                frames.append(BadFrame.TOO_LONG)
            elif len(self._pending) > FREE and not self._count(len(rest)):
                self._drop_pending(len(rest))
                self._skipping = True
                frames.append(BadFrame.NO_ROOM)
        return frames

    def _count(self, new: int) -> bool:
        """Count the last bytes of the line; return whether there was room."""
        if self._session is None:
            return True
        return self._session._byte_budget().claim(self._counted() - self._counted(new))

    def _drop_pending(self, uncounted: int = 0) -> None:
        """Forget the line, of which the last bytes are not counted."""
        counted = self._counted(uncounted)
        if self._session is not None and counted:
            self._session._byte_budget().release(counted)
        self._pending = bytearray()

    def _counted(self, uncounted: int = 0) -> int:
        """Return how many bytes of the line are counted, without the last ones."""
        return max(0, len(self._pending) - uncounted - FREE)

    def close(self) -> list[Frame]:
        """End the stream: return `BadFrame.TRUNCATED` if that cut a line short."""
        cut_short = self._pending.removesuffix(b"\r")
        self._drop_pending()
        self._skipping = False
        return [BadFrame.TRUNCATED] if cut_short else []
