"""`run_stdio` and `run_http`: run a program that only serves."""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Literal, final

import attrs
import trio

from ..adapters.recognise import AnyApplication, as_application
from ..protocol.eras import Eras, served_eras
from ..sessions.hooks import SessionHooks
from ..transports.http.authentication import Authenticate
from ..transports.http.http_options import HttpOptions
from ..transports.http.serve_http import DEFAULT_BIND, serve_http
from ..transports.http1.limits import HttpServerLimits
from ..transports.http1.listeners import BoundAddress
from ..transports.stdio_guard import guard_program_stdio
from ..transports.unix_sockets import DEFAULT_MODE
from .endings import serve_stdio_and_explain
from .log_format import LogFormat
from .logs import ProgramLogLevel, configure_logging
from .process import prepare_process
from .signals import Serve, run_program

if TYPE_CHECKING:
    from hypercorn.config import Config

    from ..core.config import SessionConfig
    from ..core.instrumentation import Instrumentation
    from ..server.application import Application
    from ..sessions.manager import SessionManager
    from .shutdown import Shutdown

logger: Final = logging.getLogger("trio_mcp_session")


def run_stdio(
    application: AnyApplication,
    *,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
    instrumentation: Instrumentation | Iterable[Instrumentation] = (),
    eras: Eras | None = None,
    log_level: ProgramLogLevel | None = None,
    log_format: LogFormat | None = None,
    report_tasks: bool = False,
    gc_freeze: bool = False,
) -> None:
    """Serve the client at standard input and output. For programs that do nothing else.

    It runs Trio and handles signals, so call it in the main thread. The first SIGTERM, SIGINT or
    SIGHUP retires and drains, the second SIGTERM or SIGINT cancels. Returns when the client has
    left or the program is drained. If the session ends for another reason, such as a clock, a line
    on standard error says which. In a program that already runs Trio, call `serve_stdio` instead.

    A third signal ends the process, even if tasks or threads do not end. So does the end of
    `CleanupConfig.shutdown_timeout`, which is 9 seconds by default, counted from the client's end
    of file or from the beginning of the drain. One line on standard error then says what did not
    end.

    Only the protocol uses standard input and output: ``print`` writes to standard error, also what
    was printed before and is still in Python's buffer. With ``PYTHONUNBUFFERED`` or ``python -u``
    text is written at once, so print nothing before this call. Nothing on standard error blocks,
    until the process ends: see `bounded_stderr`. Every log record gets the session and the request
    that it belongs to: see `LogContextFilter`.

    Args:
        application: The application to serve: a `Router` or another `Application`, or an
            ``MCPServer``, ``FastMCP`` or low-level ``Server`` of the official SDK.
        config: Limits and clocks.
        hooks: Called at the events of the session's life.
        instrumentation: Called when requests and sessions begin and end, such as `OpenTelemetry`.
        eras: Which protocol versions to serve; by default the application's choice.
        log_level: The lowest level of the root logger. None leaves it as it is.
        log_format: How log records are written: ``"text"``, or ``"json"`` for one JSON object on
            each line (`JsonLogFormatter`). None leaves logging as the program has configured it.
        report_tasks: Whether SIGUSR1 logs the tree of all tasks
            (`SessionManager.describe_tasks`).
        gc_freeze: Whether to keep collections of garbage short, with `gc.freeze`: see "Pauses" on
            the page "Operating a server". For servers that hold much, and whose own code leaves no
            circles of references.

    Raises:
        SystemExit: A second signal cancelled the remaining work; the status is 128 plus its
            number. Or standard input or output is not open; the status is 1.
        ServerLifespanFailed: The application's ``server_lifespan`` failed while it was entered, so
            no client was served; or it failed later. Its error is the cause.
        ValueError: ``eras``, ``log_level`` or ``log_format`` is not one of the allowed values.
        TypeError: ``application`` is something else.
        CannotServe: A part of an application of another library does not run on Trio.
        UnsupportedVersion: The installed version of another library is not supported.
    """
    application = as_application(
        application
    )  # Not from within Trio: the error would be in a group.
    served_eras(application, eras)
    # Before the event loop opens descriptors, which would get the numbers of closed ones.
    prepare_process(stdio=True)
    configure_logging(log_level, log_format)
    with ExitStack() as guard:
        try:
            stdio = guard.enter_context(guard_program_stdio())
        except OSError as error:
            raise SystemExit(
                f"trio_mcp_session: run_stdio() needs standard input and output: {error.strerror}"
            ) from error

        async def serve(manager: SessionManager, shutdown: Shutdown) -> None:
            leaves = shutdown.client_leaves
            await serve_stdio_and_explain(manager, eras=eras, on_ending=leaves, guarded=stdio)

        _run(
            application,
            serve,
            config,
            hooks,
            instrumentation,
            report_tasks=report_tasks,
            gc_freeze=gc_freeze,
        )


def run_http(
    application: AnyApplication,
    bind: str | Sequence[str] = DEFAULT_BIND,
    *,
    path: str | None = "/mcp",
    authenticate: Authenticate | None = None,
    allowed_hosts: Collection[str] | None = None,
    allowed_origins: Collection[str] | None = None,
    options: HttpOptions | None = None,
    eras: Eras | None = None,
    server: Literal["builtin", "hypercorn"] = "builtin",
    limits: HttpServerLimits | None = None,
    hypercorn_config: Config | None = None,
    health_pages: bool = True,
    unix_mode: int = DEFAULT_MODE,
    unix_owner: str | int | None = None,
    unix_group: str | int | None = None,
    listeners: Sequence[trio.SocketListener | socket.socket] | None = None,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
    instrumentation: Instrumentation | Iterable[Instrumentation] = (),
    log_level: ProgramLogLevel | None = None,
    log_format: LogFormat | None = None,
    report_tasks: bool = False,
    gc_freeze: bool = False,
) -> None:
    """Serve clients over Streamable HTTP. For programs that do nothing else.

    ::

        run_http(router, "127.0.0.1:8000")

    It runs Trio and handles signals, so call it in the main thread. The first SIGTERM, SIGINT or
    SIGHUP retires (`CleanupConfig.retire_grace`) and drains, the second SIGTERM or SIGINT cancels.
    A third one, or the end
    of `CleanupConfig.shutdown_timeout`, ends the process, as with `run_stdio`. Returns when the
    program is drained. In a program that already runs Trio, or that has its own ASGI application,
    call `serve_http` instead. The addresses are logged (``trio_mcp_session``, INFO). Standard
    error, also standard output, and log records are as with `run_stdio`: printing does not block.

    Args:
        application: The application to serve: a `Router` or another `Application`, or an
            ``MCPServer``, ``FastMCP`` or low-level ``Server`` of the official SDK.
        bind: As for `serve_http`, like all arguments down to ``listeners``.
        path: The path of the endpoint.
        authenticate: Returns the principal of each request; by default the application's own
            hook, such as the token verifier of an ``MCPServer``.
        allowed_hosts: Allowed values of ``Host``.
        allowed_origins: Allowed values of ``Origin``.
        options: How sessions are served.
        eras: Which protocol versions to serve; by default the application's choice.
        server: Which HTTP server to use.
        limits: Limits of the built-in server.
        hypercorn_config: Settings of Hypercorn.
        health_pages: Whether to answer ``/health`` and ``/ready``, for load balancers.
        unix_mode: The file permissions of Unix sockets.
        unix_owner: The user that they belong to.
        unix_group: The group that they belong to.
        listeners: Sockets that listen already, in place of ``bind``.
        config: Limits and clocks of sessions.
        hooks: Called at the events of each session's life.
        instrumentation: Called when requests and sessions begin and end, such as `OpenTelemetry`.
        log_level: The lowest level of the root logger. None leaves it as it is; *info*, if the
            program has not configured logging.
        log_format: How log records are written, as for `run_stdio`. If the program has not
            configured logging, ``"text"`` by default.
        report_tasks: Whether SIGUSR1 logs the tree of all tasks.
        gc_freeze: Whether to keep collections of garbage short, as for `run_stdio`.

    Raises:
        OSError: The address cannot be listened on.
        ImportError: The server is not installed.
        ValueError: An address is malformed, a setting belongs to the other server, or ``eras``,
            ``log_level`` or ``log_format`` is not one of the allowed values.
        SystemExit: A second signal cancelled the remaining work; the status is 128 plus its
            number.
        ServerLifespanFailed: As for `run_stdio`; the addresses are not listened on.
        TypeError: As for `run_stdio`; so are ``CannotServe`` and ``UnsupportedVersion``.
    """
    application = as_application(application)  # Not from within Trio.
    served_eras(application, eras)
    prepare_process(stdio=False)
    if log_level is None and log_format is None and not logging.getLogger().handlers:
        log_level = "info"
    configure_logging(log_level, log_format)

    async def serve(manager: SessionManager, _: Shutdown) -> None:
        await serve_http(
            manager,
            bind,
            path=path,
            authenticate=authenticate,
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
            options=options,
            eras=eras,
            server=server,
            limits=limits,
            hypercorn_config=hypercorn_config,
            health_pages=health_pages,
            unix_mode=unix_mode,
            unix_owner=unix_owner,
            unix_group=unix_group,
            listeners=listeners,
            task_status=_LogAddresses(path),
        )

    _run(
        application,
        serve,
        config,
        hooks,
        instrumentation,
        report_tasks=report_tasks,
        gc_freeze=gc_freeze,
    )


@final
@attrs.frozen
class _LogAddresses(trio.TaskStatus[tuple[BoundAddress, ...]]):
    """Logs the addresses that a server listens on."""

    _path: str | None

    def started(self, value: tuple[BoundAddress, ...] | None = None) -> None:
        for address in value or ():
            logger.info("listening on %s%s", address.url, self._path or "")


def _run(
    application: Application,
    serve: Serve,
    config: SessionConfig | None,
    hooks: SessionHooks | Iterable[SessionHooks],
    instrumentation: Instrumentation | Iterable[Instrumentation],
    *,
    report_tasks: bool,
    gc_freeze: bool,
) -> None:
    status = run_program(
        application,
        serve,
        config=config,
        hooks=hooks,
        instrumentation=instrumentation,
        report_tasks=report_tasks,
        gc_freeze=gc_freeze,
    )
    if status:
        raise SystemExit(status)
