"""Pictures of a manager's sessions, moment by moment, with those that ended a moment ago."""

from __future__ import annotations

from collections.abc import Callable
from heapq import nlargest
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from ..core.ids import SessionId
from ..core.state import SessionState
from .screen import Screen
from .table import SessionPicture, render_table, render_totals

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session

FRAME: Final = 0.2
"""Seconds between two drawings."""

NoteOf = Callable[["Session"], str]
"""Tells what a session is doing, for people."""


def picture_of(session: Session, note: str = "") -> SessionPicture:
    """Return how a session looks now. Not a checkpoint."""
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
        note=note,
        reason=session.termination_reason,
    )


def name_of(session: Session) -> str:
    """Return what to call a session's client: its own name, or by what it is connected."""
    if session.client is not None and session.client.client_id:
        return session.client.client_id
    return session.transport.peer or session.transport.name


@final
@attrs.define(eq=False)
class Watch:
    """Remembers sessions for a while after they have ended.

    Args:
        manager: Whose sessions to look at.
        note_of: Tells what a session is doing.
        linger: Seconds for which an ended session is still shown.
        most: Sessions that are looked at; the most recently active ones.
    """

    manager: SessionManager
    note_of: NoteOf = attrs.field(default=lambda _: "", kw_only=True)
    linger: float = attrs.field(default=5.0, kw_only=True)
    most: int = attrs.field(default=100, kw_only=True)
    _seen: dict[SessionId, Session] = attrs.field(factory=dict[SessionId, "Session"], init=False)
    # When it was found to have ended, when it was opened, and how it looked then.
    _ended: dict[SessionId, tuple[float, float, SessionPicture]] = attrs.field(
        factory=dict[SessionId, tuple[float, float, SessionPicture]], init=False
    )

    def look(self) -> tuple[list[SessionPicture], int]:
        """Return pictures of the sessions, the oldest first, and how many more there are."""
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
        # Some lines stay for what is printed above.
        room = max(2, height - 8)
        lines = render_table(pictures, width, screen.style, max_rows=room, hidden=hidden)
        totals = render_totals(self.manager.statistics(), width, screen.style)
        screen.draw(["", *lines, "", totals])

    async def run(self, screen: Screen) -> None:
        """Draw the table again and again, until cancelled; the last drawing stays."""
        try:
            while True:
                self.draw(screen)
                await trio.sleep(FRAME)
        finally:
            self.draw(screen)
