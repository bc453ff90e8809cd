"""What a manager says once in its log, where an application needs sessions and a client has none.

From 2026-07-28 on requests stand for themselves. An application that was written for sessions may
be served to such clients by default: some of its tools fail, or its lifespan is never entered. That
is for the operator to know, and not once for each request.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .application import Application
    from .manager import SessionManager
    from .requests import InFlightRequest

logger: Final = logging.getLogger("trio_mcp_session")
MAX_NAME: Final = 64
"""Characters of a name that a record repeats, at most."""


def modern_client_came(manager: SessionManager, application: Application) -> None:
    """Say that the lifespan of a session is not entered for this client. Not a checkpoint."""
    if not manager._told_of_eras and application.lifespan is not None:
        _tell(
            manager,
            f"a client of 2026-07-28 has no session, so the lifespan of {_name(manager)} is not "
            "entered for it",
        )


def session_missed(request: InFlightRequest) -> None:
    """Say that a handler asked a request for its session, and there was none. Not a checkpoint."""
    manager = request.owner._manager
    if not manager._told_of_eras:
        called = request.params.get("name") if request.method == "tools/call" else None
        what = f"tool {_cut(called)}" if called is not None else f"handler of {request.method}"
        _tell(
            manager,
            f"{what} of {_name(manager)} used ctx.session, and a request of 2026-07-28 has no "
            "session",
        )


def _tell(manager: SessionManager, what: str) -> None:
    manager._told_of_eras = True
    logger.warning(
        "%s; keep what outlives a request behind a handle (HandleKind), or decline such clients: "
        'Router(eras="legacy")',
        what,
    )


def _name(manager: SessionManager) -> str:
    return _cut(manager._served().server_info.name)


def _cut(name: object) -> str:
    text = repr(name)
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}…"
