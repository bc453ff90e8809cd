"""Functions for a single session: check its health, attach hooks to it, change its state."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs
import trio

from ..core.errors import InvalidTransition, McpError, QuestionError, QuestionTimeout
from ..core.lifecycle_states import SessionState, can_move
from ..core.reasons import TerminationReason

if TYPE_CHECKING:
    from .hooks import SessionHooks
    from .session import Session


class SessionHealth(enum.Enum):
    """The result of pinging a client."""

    ANSWERED = "answered"
    """The client answered the ping."""

    NO_ANSWER = "no answer"
    """The client did not answer in time. It may still be alive: some clients ignore pings."""

    NO_CHANNEL = "no channel"
    """The client cannot be pinged now, so its health is unknown."""


async def check_session_health(session: Session) -> SessionHealth:
    """Ping a session's client (``ping``, all revisions with sessions).

    A checkpoint. The ping does not count as activity, and its result changes nothing. The call
    waits up to `CleanupConfig.ping_timeout` seconds for the answer. When cancelled, the client is
    sent ``notifications/cancelled``.

    Raises:
        SessionTerminated: The session ends or has ended.
    """
    try:
        await session.ask("ping", timeout=session._clocks.ping_timeout)
    except QuestionTimeout:
        return SessionHealth.NO_ANSWER
    except QuestionError:
        await trio.lowlevel.checkpoint()
        return SessionHealth.NO_CHANNEL  # Nothing was sent.
    except McpError:
        return SessionHealth.ANSWERED  # The client is there: an error is an answer, too.
    return SessionHealth.ANSWERED


async def monitor_session(session: Session, hooks: SessionHooks) -> TerminationReason:
    """Attach hooks to one session until it has ended.

    They are called after the manager's hooks. ``on_session_created`` is called for the existing
    session, and cannot refuse it. A checkpoint. When cancelled, the hooks are detached.

    Returns:
        Why the session ended.

    Raises:
        SessionTerminated: The session ends or has ended already.
        RuntimeError: The session itself runs the calling task.
    """
    session._check_live()
    session._check_not_inside()
    hooks = attrs.evolve(hooks)  # A distinct copy, since it is removed by identity.
    session._hooks = (*session._hooks, hooks)
    if hooks.on_session_created is not None and session._created:
        session._post_hook("on_session_created", hooks.on_session_created)
    try:
        return await session.wait_terminated()
    finally:
        session._hooks = tuple(one for one in session._hooks if one is not hooks)


def update_session_state(
    session: Session,
    state: SessionState,
    *,
    reason: TerminationReason = TerminationReason.REQUESTED,
) -> None:
    """Move a session to another state. Not a checkpoint.

    Moving to *terminating* is `Session.terminate`; to *active* is activity.

    Args:
        session: The session.
        state: The new state; the transition table defines the allowed moves.
        reason: Why, for *terminating*.

    Raises:
        InvalidTransition: The table does not allow the move, or ``state`` is *terminated*, which a
            session reaches only when it has ended. Nothing was changed.
    """
    if not can_move(session.state, state) or state is SessionState.TERMINATED:
        raise InvalidTransition(session.state, state)
    if state is SessionState.TERMINATING:
        session.terminate(reason)
    elif state is SessionState.ACTIVE:
        session.touch()
        session._handshake_done()
    else:
        session._move(state)
