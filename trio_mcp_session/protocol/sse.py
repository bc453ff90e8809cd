"""Encoding of server-sent events (all revisions since 2025-03-26, *Streamable HTTP*)."""

from __future__ import annotations

from typing import Final

COMMENT: Final = b":\r\n\r\n"
"""A comment, which clients ignore. It keeps a stream without events open."""

FORGET_ID: Final = b"id: \n\n"
"""An empty id, and no event: nothing is left to come back to (HTML, *Server-sent events*)."""

CONTENT_TYPE: Final = b"text/event-stream"
"""The media type of an event stream."""


def encode_event(frame: bytes, event_id: str | None) -> bytes:
    """Encode one message as an event.

    Args:
        frame: The message, encoded as JSON.
        event_id: The id with which the client can resume after this event; None without resuming.
    """
    if b"\n" in frame or b"\r" in frame:
        # In JSON they are only whitespace between tokens: inside of strings they are escaped.
        frame = frame.replace(b"\r", b" ").replace(b"\n", b" ")
    if event_id is None:
        return b"event: message\ndata: %b\n\n" % frame
    return b"id: %b\nevent: message\ndata: %b\n\n" % (event_id.encode(), frame)


def encode_priming(event_id: str, retry: float) -> bytes:
    """Encode the empty event at the beginning of a stream (2025-11-25).

    Args:
        event_id: The id with which the client can resume from the beginning.
        retry: Seconds after which the client should reconnect if the stream is closed.
    """
    return b"id: %b\nretry: %d\ndata: \n\n" % (event_id.encode(), _milliseconds(retry))


def encode_retry(retry: float) -> bytes:
    """Encode an event that only sets after how many seconds the client should reconnect."""
    return b"retry: %d\n\n" % _milliseconds(retry)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
