"""Keys of typed values that a session stores, and the mark for no value."""

from __future__ import annotations

import enum
from typing import Final, Generic, TypeVar, final

T = TypeVar("T")


@final
class StateKey(Generic[T]):
    """A key for a value of type ``T`` in the state of a session.

    Two keys are never equal, even with the same name, so libraries cannot collide::

        DATABASE = StateKey[Connection]("database")
        session.set_state(DATABASE, connection)
        session.get_state(DATABASE)  # a Connection, to type checkers too

    Args:
        name: Its name in error messages.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name: Final = name

    def __repr__(self) -> str:
        return f"StateKey({self.name!r})"


class Absent(enum.Enum):
    """The type of `ABSENT`."""

    ABSENT = "no value"


ABSENT: Final = Absent.ABSENT
"""What `Session.compare_and_set` expects if a value must not exist yet."""
