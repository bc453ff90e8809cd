"""Decoding of server-sent events, within bounds (HTML, *Server-sent events*)."""

from __future__ import annotations

from typing import Final, final

import attrs

MAX_ID: Final = 1024
"""The longest id of an event that is kept, in bytes: it is sent back in a header."""


@final
@attrs.frozen
class ReceivedEvent:
    """One event. Its data can be empty: then it only sets the id."""

    data: bytes
    """Its lines, joined with newlines."""

    too_long: bool = False
    """Whether its data exceeded the limit, and were dropped."""


@final
@attrs.define(eq=False)
class EventDecoder:
    """Turns the pieces of a response into events.

    Args:
        max_size: The most bytes of one event.
    """

    _max_size: int
    last_event_id: str | None = attrs.field(default=None, init=False)
    """The id of the newest complete event, to resume after; None if it has none."""
    retry: float | None = attrs.field(default=None, init=False)
    """Seconds after which to reconnect, if the server has said so."""
    _line: bytearray = attrs.field(factory=bytearray, init=False)
    _data: list[bytes] = attrs.field(factory=list[bytes], init=False)
    _size: int = attrs.field(default=0, init=False)
    _id: str | None = attrs.field(default=None, init=False)
    _after_return: bool = attrs.field(default=False, init=False)
    _is_event: bool = attrs.field(default=False, init=False)

    @property
    def held(self) -> int:
        """Bytes of the event that is not complete."""
        return self._size + len(self._line)

    @property
    def _too_long(self) -> bool:
        return self._size > self._max_size

    def feed(self, piece: bytes) -> list[ReceivedEvent]:
        """Take a piece, and return the events that it completes, oldest first."""
        if self._after_return and piece.startswith(b"\n"):
            piece = piece[1:]
        if piece:
            self._after_return = piece.endswith(b"\r")
        *lines, rest = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events: list[ReceivedEvent] = []
        for line in lines:
            self._add(line)
            whole, self._line = bytes(self._line), bytearray()
            event = self._take(whole)
            if event is not None:
                events.append(event)
        self._add(rest)
        return events

    def _add(self, part: bytes) -> None:
        """Add a part of a line, unless the event is too long already."""
        if len(self._line) + self._size + len(part) > self._max_size + MAX_ID:
            self._drop_data()
            # Enough to tell its field.
            part = part[: max(0, MAX_ID - len(self._line))]
            del self._line[MAX_ID:]
        self._line += part

    def _drop_data(self) -> None:
        self._data, self._size = [], self._max_size + 1

    def _take(self, line: bytes) -> ReceivedEvent | None:
        """Take a line; return the event that an empty one ends."""
        if not line:
            return self._end_event()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._is_event = True
                if self._size + len(value) > self._max_size:
                    self._drop_data()
                else:
                    self._data.append(value)
                    self._size += len(value)
            case b"id" if b"\0" not in value:
                self._is_event = True
                usable = len(value) <= MAX_ID and value.isascii() and value
                self._id = value.decode("ascii") if usable else None
            case b"retry" if value.isdigit() and len(value) < 10:  # noqa: PLR2004  # of 32 bits
                self.retry = int(value) / 1000
            case _:
                pass  # A comment, the name of the event, or a field that is not known.
        return None

    def _end_event(self) -> ReceivedEvent | None:
        is_event, self._is_event = self._is_event, False
        # An event that is cut is sent again: its id counts from its end on.
        self.last_event_id = self._id
        too_long, data = self._too_long, b"\n".join(self._data)
        self._data, self._size = [], 0
        return ReceivedEvent(data, too_long) if is_event or too_long else None
