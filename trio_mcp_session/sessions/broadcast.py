"""One notification to many clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from .session import Session


@attrs.frozen(kw_only=True)
class BroadcastReport:
    """Whom a broadcast reached."""

    sent: int
    """Sessions that it was sent to."""

    dropped: int
    """Sessions whose client is too slow: there was no room for it."""

    listeners: int = 0
    """Subscriptions (2026-07-28) that it was sent to, or is kept for until there is room."""


def broadcast(sessions: Iterable[Session], frame: bytes, listeners: int = 0) -> BroadcastReport:
    """Send a message to every established client among ``sessions`` that has room for it.

    Args:
        sessions: Whom to send it to.
        frame: The message.
        listeners: How many others hear of it.
    """
    sent = dropped = 0
    for session in sessions:
        if session._is_reachable():
            assert session._outlet is not None
            if session._offer(session._outlet, frame):
                sent += 1
            else:
                dropped += 1
    return BroadcastReport(sent=sent, dropped=dropped, listeners=listeners)
