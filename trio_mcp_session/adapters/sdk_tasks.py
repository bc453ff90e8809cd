"""Which tools of another library's application become tasks: a rule outside of the application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, final

import attrs

from ..application.task_support import NEVER, TaskSupport

if TYPE_CHECKING:
    from ..application.task_support import TaskMode

EVERY_OTHER: Final = "*"
"""The name in a rule that stands for all tools without one of their own."""


@final
@attrs.frozen
class TaskRules:
    """When calls become tasks, by the name of the tool."""

    _by_name: Mapping[str, TaskSupport]
    _others: TaskSupport = NEVER

    @classmethod
    def of(cls, modes: Mapping[str, TaskMode] | None) -> TaskRules:
        """Check the rule of a program; see `sdk_application`.

        Raises:
            ValueError: A mode is unknown.
        """
        found = {
            name: TaskSupport.of(mode, None, ask_first=False)
            for name, mode in (modes or {}).items()
        }
        others = found.pop(EVERY_OTHER, NEVER)
        return cls(found, others)

    @property
    def have_tasks(self) -> bool:
        """Whether calls of any tool can become tasks."""
        return any(one is not NEVER for one in (*self._by_name.values(), self._others))

    def of_tool(self, name: object) -> TaskSupport:
        """Return when calls of a tool become tasks. Not a checkpoint."""
        return self._by_name.get(name, self._others) if isinstance(name, str) else NEVER
