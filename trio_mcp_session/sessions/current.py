"""Which session the running task belongs to."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio

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


def runs_in(tasks: AbstractSet[trio.lowlevel.Task]) -> bool:
    """Tell whether one of ``tasks`` runs the current one, directly or through its nurseries."""
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    while task is not None:
        if task in tasks:
            return True
        task = None if task.parent_nursery is None else task.parent_nursery.parent_task
    return False
