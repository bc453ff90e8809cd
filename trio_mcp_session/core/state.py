"""The states of a session and the table of its moves.

::

    initializing ──► active ◄──► idle
         │             │          │
         └─────────────┴──────────┴──► terminating ──► terminated

The table is the only statement of what may follow what: code asks it, tests walk it, and the
diagram in the documentation is drawn from it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


class SessionState(enum.Enum):
    """Where a session stands in its life."""

    INITIALIZING = "initializing"
    """Opened, but the handshake (or the lifespan) is not through yet."""

    ACTIVE = "active"
    """In use."""

    IDLE = "idle"
    """Nothing happened for `CleanupConfig.idle_after`; the next message makes it active again."""

    TERMINATING = "terminating"
    """It has a `TerminationReason`, is unknown to peers, and is being cleaned up."""

    TERMINATED = "terminated"
    """Nothing of it is left."""


_S = SessionState

TRANSITIONS: Final[Mapping[SessionState, frozenset[SessionState]]] = MappingProxyType(
    {
        _S.INITIALIZING: frozenset({_S.ACTIVE, _S.TERMINATING}),
        _S.ACTIVE: frozenset({_S.IDLE, _S.TERMINATING}),
        _S.IDLE: frozenset({_S.ACTIVE, _S.TERMINATING}),
        _S.TERMINATING: frozenset({_S.TERMINATED}),
        _S.TERMINATED: frozenset(),
    }
)
"""The states that may follow each state."""

LIVE_STATES: Final = frozenset({_S.INITIALIZING, _S.ACTIVE, _S.IDLE})
"""The states in which a session is known to peers."""


def can_move(old: SessionState, new: SessionState) -> bool:
    """Tell whether `TRANSITIONS` allows to move from ``old`` to ``new``."""
    return new in TRANSITIONS[old]
