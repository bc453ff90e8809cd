"""`serve_http`: the endpoint on addresses of its own."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final, Literal, final

import attrs
import trio

from ...protocol.eras import Eras
from ..asgi import ASGIApplication
from ..exposure import warn_if_exposed
from ..extras import needs_extra
from ..http1.limits import HttpServerLimits
from ..http1.listeners import (
    BoundAddress,
    bound_address,
    given_listeners,
    open_listeners,
)
from ..unix_sockets import DEFAULT_MODE, UnixSocketAccess
from .authentication import Authenticate
from .health_pages import with_health_pages
from .http_app import hook_for, http_app
from .http_options import HttpOptions
from .hypercorn import serve_with_hypercorn

if TYPE_CHECKING:
    from hypercorn.config import Config

    from ...sessions.manager import SessionManager


DEFAULT_BIND: Final = "127.0.0.1:8000"

WAYS_OUT: Final = (
    "set authenticate, or listen on 127.0.0.1, or let only an authenticating proxy reach it"
)


async def serve_http(  # noqa: ASYNC128  # handed on
    manager: SessionManager,
    bind: str | Sequence[str] = DEFAULT_BIND,
    *,
    path: str | None = "/mcp",
    authenticate: Authenticate | None = None,
    allowed_hosts: Collection[str] | None = None,
    allowed_origins: Collection[str] | None = None,
    options: HttpOptions | None = None,
    eras: Eras | None = None,
    health_pages: bool = False,
    app: ASGIApplication | None = None,
    server: Literal["builtin", "hypercorn"] = "builtin",
    limits: HttpServerLimits | None = None,
    hypercorn_config: Config | None = None,
    unix_mode: int = DEFAULT_MODE,
    unix_owner: str | int | None = None,
    unix_group: str | int | None = None,
    reuse_port: bool = False,
    listeners: Sequence[trio.SocketListener | socket.socket] | None = None,
    task_status: trio.TaskStatus[tuple[BoundAddress, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve sessions over Streamable HTTP, until the manager is drained, or until cancelled.

    Startable; a checkpoint. `SessionManager.drain` ends every session and with it every stream
    properly; after that this returns. When cancelled, connections are cut at once, and sessions
    stay open.

    Args:
        manager: The manager that opens the sessions.
        bind: Where to listen: ``HOST:PORT``, ``[HOST]:PORT`` or ``unix:PATH``, or several. Port 0
            lets the system choose one, which ``started()`` tells. ``fd:NUMBER`` is the descriptor
            of a socket that listens already, and ``fd:LISTEN_FDS`` are all that a service manager
            has passed to this process (socket activation, as systemd does it).
        path: As for `http_app`; so are the next five.
        authenticate: Returns the principal of each request.
        allowed_hosts: What ``Host`` may be.
        allowed_origins: What ``Origin`` may be.
        options: How sessions are served.
        eras: The revisions that are served; by default as the application says.
        health_pages: Whether to answer ``/health`` and ``/ready``, see `with_health_pages`.
        app: An ASGI application to serve instead, which has `http_app` mounted somewhere in it,
            or stands in front of it.
        server: ``builtin``: HTTP/1.1, small and fast; needs the extra ``http``. ``hypercorn``:
            also TLS and HTTP/2; needs the extra ``hypercorn``.
        limits: Limits of the built-in server.
        hypercorn_config: Settings of Hypercorn, such as certificates; addresses in it are not
            used.
        unix_mode: The file permissions of Unix sockets: they decide which users may connect.
        unix_owner: The user that Unix sockets belong to, by name or id; by default that of the
            process. Only a privileged process can give them to another user.
        unix_group: The group that they belong to, by name or id.
        reuse_port: Whether other processes may listen on the same TCP ports (``SO_REUSEPORT``): the
            system chooses one for each connection, so any process gets any request. Therefore
            `SessionConfig.node` has to be set, or no sessions are served.
        listeners: Sockets that listen already, in place of ``bind``. They are closed when this
            ends, unless another setting is refused. The permissions of a Unix socket, and removing
            its file, are left to the code that made it.
        task_status: Told the addresses, as soon as clients may connect.

    Raises:
        OSError: It cannot listen there.
        ImportError: The server is not installed.
        ValueError: An address is malformed, a socket does not listen, the user or group is unknown,
            or a setting belongs to the other server or to ``http_app``, or is given together with
            ``listeners``. Or ``reuse_port`` is set, and neither is the node, nor are sessions
            switched off.
    """
    if reuse_port and manager.config.node is None and not _without_sessions(app, options, eras):
        raise ValueError(
            "with reuse_port any process gets any request: set SessionConfig.node, or serve "
            "without sessions (HttpOptions.stateless)"
        )
    if app is None:
        app = http_app(
            manager,
            path=path,
            authenticate=authenticate,
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
            options=options,
            eras=eras,
        )
        is_open = hook_for(manager, authenticate) is None
    elif (path, authenticate, allowed_hosts, allowed_origins, options, eras) != (
        "/mcp",
        *[None] * 5,
    ):
        raise ValueError("an application of your own takes the settings of http_app itself")
    else:
        is_open = False  # Nothing is known of it.
    if health_pages:
        app = with_health_pages(manager, app)
    serve = _chosen_server(manager, app, server, limits, hypercorn_config)
    access = UnixSocketAccess(mode=unix_mode, owner=unix_owner, group=unix_group)
    if listeners is None:
        opening = open_listeners(bind, unix_access=access, reuse_port=reuse_port)
    elif (bind, access, reuse_port) != (DEFAULT_BIND, UnixSocketAccess(), False):
        raise ValueError(
            "listeners listen already: bind, reuse_port and the settings of Unix sockets "
            "are not used"
        )
    else:
        opening = given_listeners(listeners)
    async with opening as opened:
        secure = hypercorn_config is not None and hypercorn_config.ssl_enabled
        addresses = tuple(attrs.evolve(bound_address(one), secure=secure) for one in opened)
        if is_open:
            warn_if_exposed(opened, WAYS_OUT)
        # No nursery, which would put what the server raises into a group.
        await serve(opened, task_status=_Telling(task_status, addresses))


def _without_sessions(
    app: ASGIApplication | None, options: HttpOptions | None, eras: Eras | None
) -> bool:
    """Return whether clients get no sessions; of an application of the user's it is not known."""
    return app is None and (eras == "modern" or (options is not None and options.stateless))


@final
@attrs.frozen
class _Telling:
    """Tells the addresses, when the server tells that it is ready."""

    _task_status: trio.TaskStatus[tuple[BoundAddress, ...]]
    _addresses: tuple[BoundAddress, ...]

    def started(self, _value: None = None) -> None:
        self._task_status.started(self._addresses)


def _chosen_server(
    manager: SessionManager,
    app: ASGIApplication,
    server: str,
    limits: HttpServerLimits | None,
    hypercorn_config: Config | None,
) -> Callable[..., Awaitable[None]]:
    """Return what serves the application on listeners, checked for settings of the other one."""
    match server:
        case "builtin":
            with needs_extra("http", "httptools", "the built-in HTTP server"):
                from ..http1.server import serve_asgi  # noqa: PLC0415
            if hypercorn_config is not None:
                raise ValueError("hypercorn_config is for server='hypercorn'")
            return partial(
                serve_asgi,
                app,
                limits=HttpServerLimits() if limits is None else limits,
                stop=manager._drained,
                stop_budget=manager.config.cleanup.flush_budget,
            )
        case "hypercorn":
            # Where it is not there, that is found out before it listens.
            with needs_extra("hypercorn", "hypercorn", "server='hypercorn'"):
                import_module("hypercorn.trio")
            if limits is not None:
                raise ValueError("limits are the built-in server's; see hypercorn_config")
            return partial(serve_with_hypercorn, manager, app, hypercorn_config)
        case _:
            raise ValueError(f"server must be 'builtin' or 'hypercorn', not {server!r}")
