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
    """Return the failure in a group of errors, if it is all that there is in it."""
    match group.exceptions:
        case (CommandFailed() as failure,):
            return failure
        case (BaseExceptionGroup() as inner,):
            return find_failure(inner)
        case _:
            return None
