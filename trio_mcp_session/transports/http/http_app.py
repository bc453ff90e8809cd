"""`http_app`: sessions over Streamable HTTP, for any ASGI server that runs on Trio."""

from __future__ import annotations

from collections.abc import Collection
from inspect import getattr_static
from typing import TYPE_CHECKING, Any

from ...protocol.eras import Eras, served_eras
from ...server.mcp_server import server_of
from ..asgi import ASGIApplication
from .authentication import Authenticate
from .delete import serve_delete
from .endpoint import Endpoint
from .get import serve_get
from .http_options import HttpOptions
from .origin import OriginPolicy
from .post import serve_post

if TYPE_CHECKING:
    from ...sessions.manager import SessionManager


def http_app(
    manager: SessionManager,
    *,
    path: str | None = "/mcp",
    authenticate: Authenticate | None = None,
    allowed_hosts: Collection[str] | None = None,
    allowed_origins: Collection[str] | None = None,
    options: HttpOptions | None = None,
    eras: Eras | None = None,
) -> ASGIApplication:
    """Return an ASGI 3 application that serves sessions over Streamable HTTP.

    It speaks the revisions 2025-03-26 to 2025-11-25 (each, *Streamable HTTP*) on one endpoint:
    POST for messages, GET for streams, DELETE to end the session; and 2026-07-28, POST only, beside
    them. Sessions live in the manager,
    not in the application or its server: mount it anywhere, but on Trio, and leave the manager's
    block after the server has stopped. Not a checkpoint.

    Args:
        manager: The manager that opens the sessions.
        path: The endpoint's path below where the application is mounted; None for any.
        authenticate: Returns the principal of each request. Without it, the hook of the
            application decides, if it has one (see `Application`); else the principal is
            ``scope["user"]``, if middleware has set that.
        allowed_hosts: What ``Host`` may be; patterns such as ``*.example.com``. None: the names
            of loopback where the server listens on loopback; elsewhere any, and in requests of web
            pages, which have an ``Origin``, IP addresses and the names of loopback.
        allowed_origins: What ``Origin`` may be besides the server's own; patterns such as
            ``https://*.example.com``. Pages of these origins get CORS headers, and their
            preflights are answered. None: the pages of this machine where the server listens on
            loopback, without CORS.
        options: How it is served.
        eras: The revisions that are served here; by default as the application says.

    Raises:
        ValueError: ``path`` does not begin with a slash, or ``eras`` is not a value of `Eras`.
    """
    return Endpoint(
        manager,
        path=path,
        authenticate=hook_for(manager, authenticate),
        origins=OriginPolicy(allowed_hosts, allowed_origins),
        options=HttpOptions() if options is None else options,
        eras=served_eras(server_of(manager).application, eras),
        methods={"POST": serve_post, "GET": serve_get, "DELETE": serve_delete},
    )


def hook_for(manager: SessionManager, given: Authenticate | None) -> Authenticate | None:
    """Return the hook of an endpoint: the given one, or that of the application.

    So an application that wants tokens is not served without them. Not a checkpoint.
    """
    application: Any = server_of(manager).application
    # Not with a default: an AttributeError in a property must not mean that there is no hook.
    if given is not None or getattr_static(application, "authenticate", None) is None:
        return given
    own: Authenticate | None = application.authenticate
    return own
