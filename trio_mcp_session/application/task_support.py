"""When the calls of a tool become tasks (2026-07-28, tasks extension)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

import attrs

from ..protocol.tasks_extension import not_declared
from ..server.mcp_server import server_of
from ..server.promotion import Promotion

if TYPE_CHECKING:
    from ..server.request import InFlightRequest

TaskMode: TypeAlias = Literal["never", "optional", "required"]
"""When the calls of a tool become tasks; see `Router.tool`."""

PROMOTE_AFTER: Final = 0.5
"""Seconds after which a call of an *optional* task becomes one: most calls are over by then."""


@final
@attrs.frozen
class TaskSupport:
    """When the calls of one tool become tasks."""

    mode: TaskMode
    promote_after: float
    """Seconds after which a call becomes a task by itself; infinite if it does not."""
    at_once: bool
    """Whether a call becomes a task before its function is called."""

    @classmethod
    def of(cls, mode: TaskMode, promote_after: float | None, *, ask_first: bool) -> TaskSupport:
        """Check what a tool was registered with; see `Router.tool`.

        Raises:
            ValueError: ``mode`` is unknown, ``promote_after`` is negative, or an option does not
                belong to the mode.
        """
        if mode not in ("never", "optional", "required"):
            raise ValueError(f"task must be 'never', 'optional' or 'required', not {mode!r}")
        if promote_after is not None and mode != "optional":
            raise ValueError(f"promote_after belongs to task='optional', not to task={mode!r}")
        if ask_first and mode != "required":
            raise ValueError(f"ask_first belongs to task='required', not to task={mode!r}")
        if mode == "never":
            return NEVER
        if mode == "required":
            return cls(mode, inf, not ask_first)
        after = PROMOTE_AFTER if promote_after is None else promote_after
        if not after >= 0:
            raise ValueError(f"promote_after must be 0 or more seconds, not {after!r}")
        return cls(mode, after, at_once=False)

    def prepare(self, request: InFlightRequest) -> None:
        """Let the call of a request become a task. Called before its function. Not a checkpoint.

        Raises:
            McpError: -32021, it has to become one, and its client did not declare the extension.
        """
        if request.promotion is not None:
            return  # Its function is called again.
        server = server_of(request.owner.manager)
        request.promotion = Promotion(
            request, self.promote_after, server.subscriptions.task_changed
        )
        if self.mode == "required" and request.is_modern and not request.promotion.is_possible:
            raise not_declared()
        request.promotion.start_timer()


NEVER: Final = TaskSupport("never", inf, at_once=False)
