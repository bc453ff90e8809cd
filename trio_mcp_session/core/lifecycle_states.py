"""The states of a session, the moves between them, and what triggers each move.

::

    initializing ──► active ◄──► idle
         │             │          │
         └─────────────┴──────────┴──► terminating ──► terminated

Why one machine, of these five states:

A session has many facts of its own: whether its client is connected, whether a request runs,
whether it drains, why it ends. Each is stored once, in a field or a counter of its own, and can
change at any time, independently of the others. The product of all of them would be a machine
that no reader can check. A fact became a *state* here only if it passes this test: other code must
act differently, and a person who looks at a list of sessions wants to see it.

- *Initializing* is a state, because the server must not send the client notifications before the
  handshake, and because the clock of the handshake runs instead of the one of idle sessions.
- *Active* and *idle* are two states, because an idle session gives back the tasks that its requests
  ran in, and because operators want to know how many sessions are unused. The move between them
  costs an event and a hook call, so it is not made for each message: a message writes a timestamp,
  and the watcher makes the move to *idle* when the timestamp is `CleanupConfig.idle_after` old.
- *Terminating* is a state, because an ending takes time, and the session must not be found or used
  meanwhile. *Terminated* says that the clean-up is done.
- *Connected* is not a state. A session over HTTP loses and gains connections all the time, and the
  server treats it alike in between.
- *Draining* is not a state. A draining session is still active or idle, and its clients may still
  send answers and cancellations; it refuses new requests.
- The *reason* to end is not part of the state. All reasons lead through the same two states, in
  the same order, so that no way to end can skip the clean-up. `TerminationReason` names them.

Three properties follow from the table, and tests walk it to prove them. Each live state can move to
*terminating*, so any session can be ended at any time. *Terminating* can only move to
*terminated*, so an ending cannot be undone. Nothing follows *terminated*.

`TRIGGERS` is the only statement of which moves exist. `TRANSITIONS` is made from it; the library
asks it before each move, tests walk it, and the diagram in the documentation is drawn from it.
Each move is made in one place (`Session._move`), which changes the field, emits
`StateChanged` and calls the hooks. A trigger that finds the move made already does nothing: two
reasons to end, or two messages to an idle session, are ordinary.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final


class SessionState(enum.Enum):
    """The stage of a session's life."""

    if not TYPE_CHECKING:
        # Each request looks one up, and the hash of `enum.Enum` is a Python function.
        __hash__ = object.__hash__

    INITIALIZING = "initializing"
    """Opened, but its handshake is not complete, or its lifespan is not entered yet."""

    ACTIVE = "active"
    """In use."""

    IDLE = "idle"
    """Without activity for `CleanupConfig.idle_after`; the next activity makes it active again."""

    TERMINATING = "terminating"
    """It has a `TerminationReason`, cannot be looked up, and is being cleaned up."""

    TERMINATED = "terminated"
    """Its clean-up is done: no task and no open context is left."""


_S = SessionState

TRIGGERS: Final[Mapping[tuple[SessionState, SessionState], str]] = MappingProxyType(
    {
        (_S.INITIALIZING, _S.ACTIVE): (
            "The client sends ``notifications/initialized`` or its first request; without a "
            "handshake, as soon as the lifespan is entered."
        ),
        (_S.ACTIVE, _S.IDLE): (
            "The watcher finds no activity for `CleanupConfig.idle_after`, and no request, work "
            "task or lease."
        ),
        (_S.IDLE, _S.ACTIVE): (
            "A message that counts as activity, `Session.touch`, or a request, work task or lease "
            "that begins."
        ),
        (_S.INITIALIZING, _S.TERMINATING): (
            "The opening fails, is refused by a hook or takes longer than its clock allows; or as "
            "for *active*."
        ),
        (_S.ACTIVE, _S.TERMINATING): (
            "`Session.terminate`, called by the application or by the library: the client left, a "
            "timeout expired, a task crashed, the session was evicted or revoked, or the manager "
            "shuts down."
        ),
        (_S.IDLE, _S.TERMINATING): "As for *active*; also `CleanupConfig.max_idle_time`.",
        (_S.TERMINATING, _S.TERMINATED): (
            "The session's own task has joined all others and left the lifespan. Then the session "
            "leaves the table, and its last hooks run."
        ),
    }
)
"""What causes each move that a session can make: from which state, to which."""

TRANSITIONS: Final[Mapping[SessionState, frozenset[SessionState]]] = MappingProxyType(
    {old: frozenset(after for before, after in TRIGGERS if before is old) for old in SessionState}
)
"""The states that may follow each state."""

LIVE_STATES: Final = frozenset({_S.INITIALIZING, _S.ACTIVE, _S.IDLE})
"""The states in which a session can be looked up and used."""


def can_move(old: SessionState, new: SessionState) -> bool:
    """Return whether a session may move from ``old`` to ``new``."""
    return new in TRANSITIONS[old]
