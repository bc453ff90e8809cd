"""Reads server-sent events from the pieces of a response (HTML, *Server-sent events*)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import attrs


@final
@attrs.define(eq=False)
class EventParser:
    """The events of one response."""

    last_event_id: str | None = attrs.field(default=None, init=False)
    """The id of the newest event, to resume after; None if it has none."""

    retry: float = attrs.field(default=0.0, init=False)
    """Seconds after which to reconnect."""

    _rest: bytes = attrs.field(default=b"", init=False)
    _data: list[bytes] = attrs.field(factory=list[bytes], init=False)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take a piece, and yield the data of the events that are complete."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            name, colon, value = line.rstrip(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            match name:
                case b"data":
                    self._data.append(value)
                case b"id":
                    self.last_event_id = value.decode() or None
                case b"retry":
                    self.retry = int(value) / 1000
                case b"" if not colon:
                    data, self._data = b"\n".join(self._data), []
                    if data:
                        yield data
                case _:
                    pass  # A comment, or the name of the event.
