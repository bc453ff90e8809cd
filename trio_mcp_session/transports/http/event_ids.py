"""Event ids: ``LOG.STREAM.NUMBER``, and ``LOG.STREAM.NUMBER.last`` for the last event of a stream.

``LOG`` is a random text for each session. ``NUMBER`` 0 is the beginning of the stream, before its
first event. The mark of the last event saves a list of the streams that have ended.
"""

from __future__ import annotations

from typing import Final, final

import attrs

from .event_store import UnknownEvent

MAX_EVENT_ID_LENGTH: Final = 100
"""Characters of the longest text that is read as an event id."""

_LAST: Final = ".last"


@final
@attrs.frozen
class EventId:
    """The place of an event in a session."""

    stream: int
    """The number of its stream."""
    number: int
    """Its number on the stream."""
    is_last: bool = False
    """Whether the stream ends with it."""

    def encode(self, log: str) -> str:
        """Return the id as clients see it."""
        return f"{log}.{self.stream}.{self.number}{_LAST if self.is_last else ''}"


def read_event_id(text: str, log: str) -> EventId:
    """Read an id that a client sent.

    Args:
        text: What the client sent: any text.
        log: The name of its session's log.

    Raises:
        UnknownEvent: The text is not an event id of this session.
    """
    # The length comes first: the conversion of a long text to a number is slow.
    if len(text) > MAX_EVENT_ID_LENGTH:
        raise UnknownEvent
    place = text.removesuffix(_LAST)
    parts = place.split(".")
    if len(parts) != 3 or parts[0] != log or not all(map(_is_number, parts[1:])):  # noqa: PLR2004
        raise UnknownEvent
    return EventId(int(parts[1]), int(parts[2]), is_last=place != text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
