"""A check that the tables of a store agree with its sessions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..core.errors import InvalidSession
from ..core.ids import SessionKind
from ..core.lifecycle_states import LIVE_STATES, SessionState

if TYPE_CHECKING:
    from ..core.errors import SessionError
    from .store import SessionStore


def validate_sessions(store: SessionStore) -> list[SessionError]:
    """Return where the tables of a store disagree with its sessions; an empty list if nowhere.

    Not a checkpoint. It is meant for tests and for diagnosis: it looks at every session.
    """
    errors: list[SessionError] = []
    indexed = {session for held in store._principals.values() for session in held}
    for session in store:
        connection = session._connection
        requests = 0 if connection is None else connection.in_flight + connection.queued
        problems: list[str] = []
        if session.state is SessionState.TERMINATED:
            problems.append("has ended, but is still in the table")
        if (session.principal is not None) != (session in indexed):
            problems.append("is not indexed under its principal")
        if requests > session._busy:
            problems.append("has requests that are not counted as work")
        # A parked handler rests while its client is asked; that of a task does not.
        if session.kind is SessionKind.TASK and len(session._borrowers or ()) > session._busy:
            problems.append("has a handler that is not counted as work")
        if session._busy < 0:
            problems.append("has finished more work than it began")
        if (session.termination_reason is None) != (session.state in LIVE_STATES):
            problems.append("has a reason to end and lives, or the other way round")
        errors += [InvalidSession(f"{session!r} {problem}") for problem in problems]
    errors += [
        InvalidSession(f"{session!r} is indexed, but not in the table")
        for session in indexed.difference(store)
    ]
    handles = Counter(s._handle_kind for s in store if s._handle_kind is not None)
    if store._handle_counts != handles:
        counts = f"{dict(store._handle_counts)}, and there are {dict(handles)}"
        errors.append(InvalidSession(f"handles are counted as {counts}"))
    held = Counter((s.principal, s.kind) for s in store if s.principal is not None)
    if store._principal_counts != held:
        counts = f"{dict(store._principal_counts)}, and there are {dict(held)}"
        errors.append(InvalidSession(f"sessions of principals are counted as {counts}"))
    return errors
