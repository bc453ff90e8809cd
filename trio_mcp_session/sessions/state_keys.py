"""Typed state that hangs off a session."""

from __future__ import annotations

from typing import Final, Generic, TypeVar, final

T = TypeVar("T")


@final
class StateKey(Generic[T]):
    """Names a value of type ``T`` that a session may hold.

    Two keys are never the same, whatever their names, so libraries cannot collide::

        DATABASE = StateKey[Connection]("database")
        session.set_state(DATABASE, connection)
        session.get_state(DATABASE)  # a Connection, to type checkers too

    Args:
        name: What to call it in error messages.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name: Final = name

    def __repr__(self) -> str:
        return f"StateKey({self.name!r})"
