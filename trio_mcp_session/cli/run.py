"""`run_stdio` and `run_http`: the last line of a program that serves, and does nothing else."""

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
from .endings import serve_stdio_and_explain
from .signals import Serve, run_program

if TYPE_CHECKING:
    from hypercorn.config import Config

    from ..core.config import SessionConfig
    from ..sessions.application import Application
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
    """Run a program that serves the client at standard input and output, and nothing else.

    It runs Trio and handles signals, so it is for the main thread: the first SIGTERM or SIGINT
    retires and drains, the second cancels. Returns when the client has left or the program was
    drained. Where the session ends for another reason, a clock for example, a line on standard
    error says which. A program with a Trio of its own calls `serve_stdio` instead.

    A third signal ends the process, and so does the end of `CleanupConfig.shutdown_timeout` (9
    seconds unless it is set, from the client's end of file or the beginning of the drain on),
    whatever tasks and threads do; one line on standard error says what did not end.

    Args:
        application: The program to serve; a `Router`, for example.
        config: Limits and clocks.
        hooks: What to call at the turns of the session's life.
        eras: Which revisions are served; what the application says by default.

    Raises:
        SystemExit: A second signal cancelled what was left; the status is 128 and its number.
        ValueError: ``eras`` is none of them.
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
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
) -> None:
    """Run a program that serves clients over Streamable HTTP, and nothing else.

    It runs Trio and handles signals, so it is for the main thread: the first SIGTERM or SIGINT
    retires (`CleanupConfig.retire_grace`) and drains, the second cancels; a third one, or the end
    of `CleanupConfig.shutdown_timeout`, ends the process as `run_stdio` says. Returns when the
    program was drained. A program with a Trio of its own, or with an ASGI application of its own,
    calls `serve_http` instead. The addresses are logged (``trio_mcp_session``, INFO).

    Args:
        application: The program to serve; a `Router`, for example.
        bind: As for `serve_http`; so are the next eight.
        path: The endpoint's path.
        authenticate: Tells on whose behalf each request is made.
        allowed_hosts: What ``Host`` may be.
        allowed_origins: What ``Origin`` may be.
        options: How sessions are served.
        server: Which HTTP server.
        limits: Limits of the built-in server.
        hypercorn_config: Settings of Hypercorn.
        config: Limits and clocks of sessions.
        hooks: What to call at the turns of each session's life.

    Raises:
        OSError: It cannot listen there.
        ImportError: The server is not installed.
        ValueError: An address is malformed, or a setting belongs to the other server.
        SystemExit: A second signal cancelled what was left; the status is 128 and its number.
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
