"""`current_session`: the session that the running task belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session import Session

running_in: ContextVar[Session] = ContextVar("trio_mcp_session.session")


def current_session() -> Session:
    """Return the session that the calling task belongs to. Not a checkpoint.

    It is set in everything that a session runs: its lifespan, handlers, tasks, held contexts and
    hooks.

    Raises:
        LookupError: The task belongs to no session.
    """
    return running_in.get()
