"""Server-sent events: messages to bytes (all revisions since 2025-03-26, *Streamable HTTP*)."""

from __future__ import annotations

from typing import Final

COMMENT: Final = b":\r\n\r\n"
"""Says nothing, and so keeps a stream open that is silent."""

FORGET_ID: Final = b"id: \n\n"
"""An empty id, and no event: nothing is left to come back to (HTML, *Server-sent events*)."""

CONTENT_TYPE: Final = b"text/event-stream"
"""What a stream of events is."""


def encode_event(frame: bytes, event_id: str | None) -> bytes:
    """Encode one message as an event.

    Args:
        frame: The message, encoded as JSON.
        event_id: What the client names to come back to this point; None if it cannot.
    """
    if b"\n" in frame or b"\r" in frame:
        # They are whitespace between tokens: JSON escapes them everywhere else.
        frame = frame.replace(b"\r", b" ").replace(b"\n", b" ")
    if event_id is None:
        return b"event: message\ndata: %b\n\n" % frame
    return b"id: %b\nevent: message\ndata: %b\n\n" % (event_id.encode(), frame)


def encode_priming(event_id: str, retry: float) -> bytes:
    """Encode the empty event that a stream begins with (2025-11-25).

    Args:
        event_id: What the client names to come back to the beginning.
        retry: Seconds after which it should come back when the stream is closed.
    """
    return b"id: %b\nretry: %d\ndata: \n\n" % (event_id.encode(), _milliseconds(retry))


def encode_retry(retry: float) -> bytes:
    """Encode after how many seconds the client should come back, and nothing else."""
    return b"retry: %d\n\n" % _milliseconds(retry)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
