"""Session kinds and session ids."""

from __future__ import annotations

import enum
import secrets
from typing import Final, NewType

SessionId = NewType("SessionId", str)
"""An unguessable name of one session: visible ASCII, at least 128 random bits."""

ID_BYTES: Final = 24
"""Random bytes in an id (192 bits): well over the 128 that keep it out of reach of guessing."""

MAX_ID_LENGTH: Final = 128
"""Longest text that is looked up at all; anything longer is unknown without a look."""


class SessionKind(enum.Enum):
    """How a session is opened and reached. Limits, look-up and eviction are per kind."""

    CONNECTION = "connection"
    """Opened by a stdio, byte-stream or in-memory connection, and reached through it."""

    HEADER = "header"
    """Opened by ``initialize`` over Streamable HTTP, reached by the ``Mcp-Session-Id`` header."""

    HANDLE = "handle"
    """Opened by the application, reached by an ordinary argument that holds its id."""

    PARKED = "parked"
    """A handler that asked its client something and waits for the client's next request."""

    TASK = "task"
    """Work that outlives its request, reached by a task id."""


def new_session_id(prefix: str = "") -> SessionId:
    """Return a fresh id of 192 bits from `secrets`, in URL-safe base64 (visible ASCII).

    Args:
        prefix: What to put before it and an underscore, for people to tell ids apart; it says
            nothing that an attacker could use.
    """
    random = secrets.token_urlsafe(ID_BYTES)
    return SessionId(f"{prefix}_{random}" if prefix else random)


def is_session_id(text: str) -> bool:
    """Tell whether ``text`` could be an id at all: short enough, and visible ASCII only.

    Peers choose what they send; whatever fails this is never looked up.
    """
    # ASCII that is printable and no space is what is visible.
    return (
        0 < len(text) <= MAX_ID_LENGTH and text.isascii() and text.isprintable() and " " not in text
    )
