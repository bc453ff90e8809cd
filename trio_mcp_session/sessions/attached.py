"""Code outside of a session that must not go on without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .session import Session


@contextmanager
def cancelled_with(session: Session) -> Iterator[trio.CancelScope]:
    """Cancel the block as soon as the session is told to end. Not a checkpoint.

    A session has one such block at most: the body of ``open_session``, or its connection's reader.
    """
    with trio.CancelScope() as scope:
        session._body = scope
        if session.termination_reason is not None:
            scope.cancel(reason="session has ended")
        try:
            yield scope
        finally:
            session._body = None
