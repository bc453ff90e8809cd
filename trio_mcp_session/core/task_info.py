"""What is known of a task: its status, and a description for programs that list tasks."""

from __future__ import annotations

import enum
from datetime import datetime

import attrs

from .identity import Principal
from .ids import SessionId, beginning_of


class TaskStatus(enum.Enum):
    """The status of a task (the tasks extension of 2026-07-28). The last three are final."""

    WORKING = "working"
    """Its handler runs."""

    INPUT_REQUIRED = "input_required"
    """Its handler runs, and waits for an answer of the client."""

    COMPLETED = "completed"
    """It has a result, perhaps one with ``isError``."""

    FAILED = "failed"
    """It has a JSON-RPC error instead of a result."""

    CANCELLED = "cancelled"
    """It was cancelled before it had a result."""

    @property
    def is_final(self) -> bool:
        """Whether the status never changes again."""
        return self not in (TaskStatus.WORKING, TaskStatus.INPUT_REQUIRED)


@attrs.frozen(kw_only=True)
class TaskInfo:
    """One task at one moment; see `SessionManager.list_tasks`."""

    task_id: SessionId = attrs.field(repr=lambda task_id: f"{beginning_of(task_id)}…")
    """Its id, which is also the id of its session. Treat it as a secret where there is no
    authentication: ``repr`` shows its beginning only."""

    name: str
    """What runs in it, such as ``tool 'build'``."""

    status: TaskStatus
    """Its status."""

    status_message: str | None
    """What clients are told about the status; None for nothing."""

    principal: Principal | None
    """The principal that it belongs to; None without authentication."""

    created: datetime
    """When it became a task (wall-clock time, UTC)."""

    age: float
    """Seconds since then."""

    time_left: float
    """Seconds until it is removed, if nothing changes."""

    questions: tuple[str, ...]
    """The keys of its open questions to the client."""
