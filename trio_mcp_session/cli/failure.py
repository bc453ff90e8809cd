"""How a command fails: a message for the user, and an exit status."""

from __future__ import annotations

from typing import Final


class CommandFailed(Exception):
    """The command cannot be completed.

    Args:
        message: The reason, for the user.
        status: The exit status: 2 for wrong usage, else 1.
    """

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status: Final = status


def find_failure(group: BaseExceptionGroup[BaseException]) -> CommandFailed | None:
    """Return the first failure in a group of failures; None if it contains other errors."""
    failures, others = group.split(CommandFailed)
    if failures is None or others is not None:
        return None
    first = failures.exceptions[0]
    return first if isinstance(first, CommandFailed) else find_failure(first)
