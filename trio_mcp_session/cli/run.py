"""`run_stdio` and `run_http`: run a program that only serves."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import trio

from ..protocol.eras import Eras, served_eras
from ..sessions.hooks import SessionHooks
from ..transports.http.authentication import Authenticate
from ..transports.http.http_options import HttpOptions
from ..transports.http.serve_http import serve_http
from ..transports.http1.limits import HttpServerLimits
from ..transports.unix_sockets import DEFAULT_MODE
from .endings import serve_stdio_and_explain
from .signals import Serve, run_program

if TYPE_CHECKING:
    from hypercorn.config import Config

    from ..core.config import SessionConfig
    from ..server.application import Application
    from ..sessions.manager import SessionManager
    from .shutdown import Shutdown

logger: Final = logging.getLogger("trio_mcp_session")


def run_stdio(
    application: Application,
    *,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
    eras: Eras | None = None,
) -> None:
    """Serve the client at standard input and output. For programs that do nothing else.

    It runs Trio and handles signals, so call it in the main thread. The first SIGTERM or SIGINT
    retires and drains, the second cancels. Returns when the client has left or the program is
    drained. If the session ends for another reason, such as a clock, a line on standard error
    says which. In a program that already runs Trio, call `serve_stdio` instead.

    A third signal ends the process, even if tasks or threads do not end. So does the end of
    `CleanupConfig.shutdown_timeout`, which is 9 seconds by default, counted from the client's end
    of file or from the beginning of the drain. One line on standard error then says what did not
    end.

    Args:
        application: The application to serve; for example a `Router`.
        config: Limits and clocks.
        hooks: Called at the events of the session's life.
        eras: Which protocol versions to serve; by default the application's choice.

    Raises:
        SystemExit: A second signal cancelled the remaining work; the status is 128 plus its
            number.
        ValueError: ``eras`` is not one of the allowed values.
    """
    served_eras(application, eras)  # Not from within Trio, where it would be in a group.

    async def serve(manager: SessionManager, shutdown: Shutdown) -> None:
        await serve_stdio_and_explain(manager, eras=eras, on_ending=shutdown.client_leaves)

    _run(application, serve, config, hooks)


def run_http(
    application: Application,
    bind: str | Sequence[str] = "127.0.0.1:8000",
    *,
    path: str | None = "/mcp",
    authenticate: Authenticate | None = None,
    allowed_hosts: Collection[str] | None = None,
    allowed_origins: Collection[str] | None = None,
    options: HttpOptions | None = None,
    server: Literal["builtin", "hypercorn"] = "builtin",
    limits: HttpServerLimits | None = None,
    hypercorn_config: Config | None = None,
    unix_mode: int = DEFAULT_MODE,
    unix_owner: str | int | None = None,
    unix_group: str | int | None = None,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
) -> None:
    """Serve clients over Streamable HTTP. For programs that do nothing else.

    It runs Trio and handles signals, so call it in the main thread. The first SIGTERM or SIGINT
    retires (`CleanupConfig.retire_grace`) and drains, the second cancels. A third one, or the end
    of `CleanupConfig.shutdown_timeout`, ends the process, as with `run_stdio`. Returns when the
    program is drained. In a program that already runs Trio, or that has its own ASGI application,
    call `serve_http` instead. The addresses are logged (``trio_mcp_session``, INFO).

    Args:
        application: The application to serve; for example a `Router`.
        bind: As for `serve_http`, like all arguments down to ``unix_group``.
        path: The path of the endpoint.
        authenticate: Returns the principal of each request.
        allowed_hosts: Allowed values of ``Host``.
        allowed_origins: Allowed values of ``Origin``.
        options: How sessions are served.
        server: Which HTTP server to use.
        limits: Limits of the built-in server.
        hypercorn_config: Settings of Hypercorn.
        unix_mode: The file permissions of Unix sockets.
        unix_owner: The user that they belong to.
        unix_group: The group that they belong to.
        config: Limits and clocks of sessions.
        hooks: Called at the events of each session's life.

    Raises:
        OSError: The address cannot be listened on.
        ImportError: The server is not installed.
        ValueError: An address is malformed, or a setting belongs to the other server.
        SystemExit: A second signal cancelled the remaining work; the status is 128 plus its
            number.
    """

    async def serve(manager: SessionManager, _: Shutdown) -> None:
        serve_here = partial(
            serve_http,
            path=path,
            authenticate=authenticate,
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
            options=options,
            server=server,
            limits=limits,
            hypercorn_config=hypercorn_config,
            unix_mode=unix_mode,
            unix_owner=unix_owner,
            unix_group=unix_group,
        )
        async with trio.open_nursery() as nursery:
            for address in await nursery.start(serve_here, manager, bind):
                logger.info("listening on %s%s", address.url, path or "")

    _run(application, serve, config, hooks)


def _run(
    application: Application,
    serve: Serve,
    config: SessionConfig | None,
    hooks: SessionHooks | Iterable[SessionHooks],
) -> None:
    status = run_program(application, serve, config=config, hooks=hooks)
    if status:
        raise SystemExit(status)
