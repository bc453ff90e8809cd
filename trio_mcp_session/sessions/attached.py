"""Code outside of a session that must not go on without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    import trio

    from .session import Session


@final
class cancelled_with:  # noqa: N801  # reads as what it does, in a ``with`` statement
    """Cancel ``scope`` as soon as ``session`` is told to end. Not a checkpoint.

    A session has one such scope at most: that of the body of ``open_session``, or that of its
    connection's reader. (A class, not a generator: every idle connection holds one of these.)
    """

    __slots__ = ("_session",)

    def __init__(self, session: Session, scope: trio.CancelScope) -> None:
        self._session: Final = session
        session._body = scope
        if session.termination_reason is not None:
            scope.cancel(reason="session has ended")

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, *_: object) -> None:
        """Let go of the scope."""
        self._session._body = None
