"""Session kinds and session ids."""

from __future__ import annotations

import enum
import hashlib
import secrets
from typing import TYPE_CHECKING, Final, NewType

SessionId = NewType("SessionId", str)
"""The id of a session: visible ASCII, with 192 random bits."""

ID_BYTES: Final = 24
"""Random bytes in an id: 192 bits, where 128 are enough against guessing."""

MAX_ID_LENGTH: Final = 128
"""The longest text that is looked up as an id; longer text cannot be one."""


class SessionKind(enum.Enum):
    """How a session is opened and reached. Each kind is limited and looked up separately."""

    if not TYPE_CHECKING:
        # Each request looks one up, and the hash of `enum.Enum` is a Python function.
        __hash__ = object.__hash__

    CONNECTION = "connection"
    """Opened by a stdio, byte-stream or in-memory connection, and reached through it."""

    HEADER = "header"
    """Opened by ``initialize`` over Streamable HTTP, reached by the ``Mcp-Session-Id`` header."""

    HANDLE = "handle"
    """Opened by the application, reached by an ordinary argument that holds its id."""

    PARKED = "parked"
    """Opened for a handler that waits for its client to send the request again, with answers."""

    TASK = "task"
    """Work that outlives its request, reached by a task id."""


def new_session_id(prefix: str = "", node: str | None = None) -> SessionId:
    """Return a fresh id of 192 bits from `secrets`, in URL-safe base64 (visible ASCII).

    Args:
        prefix: Put in front, with an underscore, so that people can tell ids apart. It adds
            nothing to the security of the id.
        node: The label of the process, put between the two with a full stop: see ``node.py``.
    """
    random = secrets.token_urlsafe(ID_BYTES)
    if node is not None:
        random = f"{node}.{random}"
    return SessionId(f"{prefix}_{random}" if prefix else random)


def beginning_of(session_id: str) -> str:
    """Return the first 6 characters of an id, for logs; with the node before them, if it has one.

    A part: the whole id can give access.
    """
    return session_id[: session_id.find(".") + 7]


SHORT: Final = 8
"""Hexadecimal digits of `short_hash`: enough to tell apart what one log holds."""


def short_hash(text: str) -> str:
    """Return a short name for a secret or personal text, for logs: the beginning of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:SHORT]


def is_session_id(text: str) -> bool:
    """Return whether ``text`` can be an id: short enough, and visible ASCII only.

    Text of a peer is looked up only if it passes this check.
    """
    # Printable ASCII without the space is visible.
    return (
        0 < len(text) <= MAX_ID_LENGTH and text.isascii() and text.isprintable() and " " not in text
    )
