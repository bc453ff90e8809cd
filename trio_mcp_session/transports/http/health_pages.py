"""Pages for load balancers and orchestrators, in front of an ASGI application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..asgi import ASGIApplication, Receive, Scope, Send
from .json_response import Header, respond

if TYPE_CHECKING:
    from ...sessions.manager import SessionManager

HEALTH_PATH: Final = "/health"
READY_PATH: Final = "/ready"

_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", b"text/plain"),
    (b"cache-control", b"no-store"),
)


def with_health_pages(manager: SessionManager, app: ASGIApplication) -> ASGIApplication:
    """Return an ASGI 3 application that has health pages, and passes everything else to another.

    ``GET /health`` is answered with 200 as long as the event loop runs. ``GET /ready`` is answered
    with 200 as long as the server admits new sessions (`SessionManager.ready`), and with 503 from
    the beginning of `SessionManager.retire` or `SessionManager.drain` on. Both need no
    authentication, have no effect, and accept any ``Host``, because load balancers use addresses.
    Not a checkpoint.

    Args:
        manager: The manager whose state ``/ready`` tells.
        app: What answers all other paths; for example `http_app`.
    """

    async def app_with_health_pages(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in (HEALTH_PATH, READY_PATH):
            await app(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await respond(send, 405, headers=[(b"allow", b"GET, HEAD")])
        elif scope["path"] == READY_PATH and not manager.ready:
            await respond(send, 503, b"draining\n", _HEADERS)
        else:
            await respond(send, 200, b"ok\n", _HEADERS)

    return app_with_health_pages
