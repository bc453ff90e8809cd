"""The live table: snapshots of a manager's sessions, and of those that ended recently."""

from __future__ import annotations

from collections.abc import Callable
from heapq import nlargest
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from ..core.ids import SessionId, SessionKind
from ..core.lifecycle_states import SessionState
from ..server.task import task_of
from .screen import Screen
from .table import SessionPicture, describe_task, render_table, render_totals

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session

FRAME: Final = 0.2
"""Seconds between two drawings."""

NoteOf = Callable[["Session"], str]
"""Returns what a session is working on, as text for the table."""


def picture_of(session: Session, note: str = "") -> SessionPicture:
    """Return a snapshot of a session. Not a checkpoint.

    Args:
        session: The session.
        note: What it is working on; by default of a task, what that is and its status.
    """
    metrics = session.metrics
    in_flight = metrics.in_flight + metrics.queued
    return SessionPicture(
        client=name_of(session),
        state=session.state,
        age=session.age,
        idle=session.idle_time,
        in_flight=in_flight,
        tasks=max(0, session._busy - in_flight),
        received=metrics.messages_received,
        sent=metrics.messages_sent,
        note=note or _task_note(session),
        reason=session.termination_reason,
    )


def _task_note(session: Session) -> str:
    task = task_of(session) if session.kind is SessionKind.TASK else None
    return "" if task is None else describe_task(task.info())


def name_of(session: Session) -> str:
    """Return the name of a session's client, or else its address or transport."""
    if session.client is not None and session.client.client_id:
        return session.client.client_id
    return session.transport.peer or session.transport.name


@final
@attrs.define(eq=False)
class Watch:
    """Takes snapshots, and keeps ended sessions for a while.

    Args:
        manager: The manager of the sessions.
        note_of: Returns what a session is working on.
        linger: Seconds that an ended session is still shown.
        most: Most sessions to show: the most recently active ones.
    """

    manager: SessionManager
    note_of: NoteOf = attrs.field(default=lambda _: "", kw_only=True)
    linger: float = attrs.field(default=5.0, kw_only=True)
    most: int = attrs.field(default=100, kw_only=True)
    _seen: dict[SessionId, Session] = attrs.field(factory=dict[SessionId, "Session"], init=False)
    # By id: the time when its end was noticed, the time of its opening, its last snapshot.
    _ended: dict[SessionId, tuple[float, float, SessionPicture]] = attrs.field(
        factory=dict[SessionId, tuple[float, float, SessionPicture]], init=False
    )

    def look(self) -> tuple[list[SessionPicture], int]:
        """Return snapshots, the oldest session first, and the number of further sessions."""
        now = trio.current_time()
        table = self.manager.sessions()
        chosen = nlargest(self.most, table, key=lambda session: session._last_active)
        listed = {session.session_id: session for session in chosen}
        for session_id, session in self._seen.items():
            if session.state is SessionState.TERMINATED:
                self._ended[session_id] = (now, session._opened_at, picture_of(session))
        self._seen = listed
        for session_id, (since, *_) in list(self._ended.items()):
            if now - since >= self.linger:
                del self._ended[session_id]
        born = [(one._opened_at, picture_of(one, self.note_of(one))) for one in chosen]
        born += [(born_at, picture) for _, born_at, picture in self._ended.values()]
        born.sort(key=lambda item: item[0])
        return [picture for _, picture in born], len(table) - len(chosen)

    def draw(self, screen: Screen) -> None:
        """Draw the table, with the totals below it."""
        width, height = screen.size()
        pictures, hidden = self.look()
        # Leave some lines for the output above the table.
        room = max(2, height - 8)
        lines = render_table(pictures, width, screen.style, max_rows=room, hidden=hidden)
        totals = render_totals(self.manager.statistics(), width, screen.style)
        screen.draw(["", *lines, "", totals])

    async def run(self, screen: Screen) -> None:
        """Redraw the table until cancelled; the last one stays."""
        try:
            while True:
                self.draw(screen)
                await trio.sleep(FRAME)
        finally:
            self.draw(screen)
