"""How a command fails: a line for people, and an exit status."""

from __future__ import annotations

from typing import Final


class CommandFailed(Exception):
    """The command cannot do what it was asked for.

    Args:
        message: Why, for people.
        status: The exit status: 2 where the command was used wrongly, else 1.
    """

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status: Final = status


def find_failure(group: BaseExceptionGroup[BaseException]) -> CommandFailed | None:
    """Return the failure in a group of errors, or the first of several; None if not all are."""
    failures, others = group.split(CommandFailed)
    if failures is None or others is not None:
        return None
    first = failures.exceptions[0]
    return first if isinstance(first, CommandFailed) else find_failure(first)
