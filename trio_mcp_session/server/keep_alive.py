"""Keep-alive pings of a session's client (``ping``, revisions with sessions)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, final

import attrs

from ..core.errors import McpError, QuestionError, QuestionTimeout, SessionTerminated
from ..core.reasons import TerminationReason

if TYPE_CHECKING:
    from ..sessions.session import Session


@final
@attrs.define(eq=False)
class KeepAlive:
    """The time of the last ping, and the number of unanswered pings in a row."""

    last_ping: float = -inf
    missed: int = 0

    async def ping(self, session: Session) -> None:
        """Ping the client; end the session when it has missed too many in a row. A checkpoint."""
        clocks = session._clocks
        try:
            await session.ask("ping", timeout=clocks.ping_timeout)
        except McpError:
            pass  # The client is there: an error is an answer, too.
        except QuestionTimeout:
            self.missed += 1
            if self.missed >= clocks.ping_strikes and not session.busy:
                session.terminate(TerminationReason.UNRESPONSIVE)
            return
        except (QuestionError, SessionTerminated):
            return  # Nothing was sent, or the session ended for another reason.
        self.missed = 0
