"""Log lines, once for each manager, if an application needs sessions and a client has none.

Requests of 2026-07-28 belong to no session. By default, an application that was written for
sessions is also served to such clients: then some of its tools fail, or its lifespan is never
entered. This is logged once, not for each request.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

import attrs

from ..sessions.error_log import write_log

if TYPE_CHECKING:
    from .application import Application

MAX_NAME: Final = 64
"""How many characters of a name a record shows."""
DECLINE: Final = 'decline such clients: Router(eras="legacy")'
INSTEAD: Final = "serve sessions: HttpOptions(stateless=False)"


@final
@attrs.define(eq=False)
class EraNotices:
    """Writes one record for each manager. None of its methods is a checkpoint."""

    _application: Application | None
    _written: bool = attrs.field(default=False, init=False)
    _told_sessionless: bool = attrs.field(default=False, init=False)

    def modern_client_came(self) -> None:
        """Log that the lifespan of a session is not entered for this client."""
        application = self._application
        if self._written or application is None or not getattr(application, "needs_sessions", True):
            return
        if application.lifespan is not None:
            self._write(
                f"a client of 2026-07-28 has no session, so the lifespan of {self._name()} is not "
                "entered for it"
            )

    def session_missed(self, method: str, name: object) -> None:
        """Log that a handler used the session of a request that has none.

        Args:
            method: The method of the request.
            name: The name of the tool, if the request calls one.
        """
        if not self._written:
            self._write(
                f"{_called(method, name)} of {self._name()} used ctx.session, and a request of "
                "2026-07-28 has no session"
            )

    def served_without_session(self) -> None:
        """Log that clients up to 2025-11-25 are served without sessions, as the option says."""
        if self._told_sessionless:
            return
        self._told_sessionless = True
        write_log(
            logging.INFO,
            "clients up to 2025-11-25 are served without sessions (HttpOptions.stateless): GET "
            "and DELETE, questions to the client, subscriptions, log levels and ctx.session are "
            "refused",
        )
        application = self._application
        if application is None or not getattr(application, "needs_sessions", True):
            return
        if application.lifespan is not None:
            self._write(
                f"sessions are not served (HttpOptions.stateless), so the lifespan of "
                f"{self._name()} is not entered",
                INSTEAD,
            )

    def session_missed_without_sessions(self, method: str, name: object) -> None:
        """Log that a handler used the session of a request, and sessions are not served."""
        if not self._written:
            self._write(
                f"{_called(method, name)} of {self._name()} used ctx.session, and sessions are not "
                "served (HttpOptions.stateless)",
                INSTEAD,
            )

    def _write(self, what: str, instead: str = DECLINE) -> None:
        self._written = True
        write_log(
            logging.WARNING,
            "%s; keep what outlives a request behind a handle (HandleKind), or %s",
            what,
            instead,
        )

    def _name(self) -> str:
        return _cut(None if self._application is None else self._application.server_info.name)


def _called(method: str, name: object) -> str:
    return f"tool {_cut(name)}" if name is not None else f"handler of {method}"


def _cut(name: object) -> str:
    text = repr(name)
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}…"
