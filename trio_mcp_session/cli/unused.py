"""`serve --end-when-unused`: the server ends after some time without clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from ..server.mcp_server import server_of

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager

LOOKS: Final = 10
"""How often the manager is looked at in that time."""


async def wait_unused(manager: SessionManager, seconds: float) -> None:
    """Wait until a manager had no client for some time. A checkpoint.

    A client is a session of any kind, or a request without a session. The time is measured in
    steps of a tenth, so it can be that much longer.

    Args:
        manager: The manager.
        seconds: The time.
    """
    looks, seen = 0, -1
    while looks < LOOKS:
        await trio.sleep(seconds / LOOKS)
        server = server_of(manager)
        opened, served = manager._counters.opened, server.stateless.counters.requests
        in_use = len(manager._store) or manager._admission.reserved or server.is_busy
        looks = 0 if in_use or opened + served != seen else looks + 1
        seen = opened + served
