"""`serve`: serve an application on the chosen transports, until a signal or the client ends it."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from ..admin.serve_admin import serve_admin
from ..core.errors import ServerLifespanFailed, SessionRejected
from ..protocol.eras import ERAS
from ..transports.extras import MissingExtra
from ..transports.http.http_options import HttpOptions
from ..transports.http.serve_http import serve_http
from ..transports.http.trusted_proxies import read_proxies
from ..transports.stdio_guard import GuardedStdio, guard_program_stdio
from ..transports.stream import serve_tcp, serve_unix
from ..transports.unix_sockets import unix_peer
from . import admin, http_security, nodes, reload, workers
from .endings import serve_stdio_and_explain
from .failure import CommandFailed, find_failure
from .loading import load_application
from .log_format import FORMATS
from .logs import LEVELS, LOGGING, logger, start_logging
from .options import add_settings, chosen_settings
from .process import prepare_process
from .screen import SHOW_CURSOR, Screen
from .signals import run_program
from .unused import wait_unused
from .watch import Watch

if TYPE_CHECKING:
    from ..server.application import Application
    from ..sessions.manager import SessionManager
    from ..transports.http.authentication import Authenticate
    from .shutdown import Shutdown

MAX_PORT: Final = 0xFFFF
LOOPBACK: Final = "127.0.0.1"
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")


@attrs.frozen
class Address:
    """A TCP address to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``HOST:PORT``, ``[HOST]:PORT``, or ``PORT`` on loopback."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or (":" in text and not host):
        # `::1:80` is ambiguous, and `:80` must not mean all interfaces.
        raise argparse.ArgumentTypeError(f"must be HOST:PORT or [HOST]:PORT, not {text!r}")
    if not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
        raise argparse.ArgumentTypeError(f"must be HOST:PORT with a port number, not {text!r}")
    return Address(host or LOOPBACK, int(port))


def parse_proxy(text: str) -> str:
    """Check the address of a proxy."""
    try:
        read_proxies([text])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def parse_http_address(text: str) -> Address | str:
    """Read an address of HTTP: as `parse_address` does, or ``unix:PATH``, or ``fd:NUMBER``."""
    if text.startswith(("unix:", "fd:")) and not text.endswith(":"):
        return text
    return parse_address(text)


def _positive_seconds(text: str) -> float:
    """Read a time."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text!r}")
    return seconds


def parse_descriptors(text: str) -> list[str]:
    """Read the numbers of inherited sockets, as addresses of HTTP."""
    return [f"fd:{number}" for number in text.split(",") if number]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "application",
        metavar="MODULE:APP",
        help="the application, for example a Router, an MCPServer or a FastMCP: its module, which "
        "can be in the current directory, and its name there; MODULE:MAKE_APP() calls a function "
        "that returns it",
    )
    ways = parser.add_argument_group("transports", "can be combined; without any: --stdio")
    ways.add_argument(
        "--stdio",
        action="store_true",
        help="serve the client at standard input and output; the program ends when it leaves",
    )
    ways.add_argument(
        "--tcp",
        action="append",
        default=[],
        type=parse_address,
        metavar="HOST:PORT",
        help="listen on a TCP port (port 0: a free one; without HOST: loopback); no encryption, no "
        "authentication",
    )
    ways.add_argument(
        "--http",
        action="append",
        default=[],
        type=parse_http_address,
        metavar="HOST:PORT",
        help="serve Streamable HTTP at http://HOST:PORT/mcp (port 0: a free one; without HOST: "
        "loopback), or with unix:PATH on a Unix socket, or with fd:NUMBER on a socket that listens "
        "already (fd:LISTEN_FDS: all of a service manager); with /health and /ready beside it; "
        "encryption and authentication have options of their own; needs the extra 'http'",
    )
    ways.add_argument(
        "--http-host",
        action="append",
        metavar="NAME",
        help="a host name that HTTP clients can use for this server, besides the loopback names; "
        "for example its public name behind a proxy; '*' stands for any text (can be repeated)",
    )
    ways.add_argument(
        "--http-origin",
        action="append",
        metavar="ORIGIN",
        help="an origin whose web pages can use this server, besides the server's own (CORS); for "
        "example https://app.example.com (can be repeated)",
    )
    ways.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        type=parse_proxy,
        metavar="ADDRESS",
        help="a proxy, or a network of proxies, whose headers X-Forwarded-Host and Forwarded "
        "name the host that an HTTP request was for; the proxy must set them (can be repeated)",
    )
    ways.add_argument(
        "--stateless",
        action="store_true",
        help="serve HTTP clients of protocol versions up to 2025-11-25 without sessions: each "
        "request for itself, so that any process can answer it; what needs a session is refused",
    )
    ways.add_argument(
        "--unix", action="append", default=[], metavar="PATH", help="listen on a Unix socket"
    )
    parser.add_argument(
        "--eras",
        choices=ERAS,
        help="protocol versions to serve: legacy (with sessions, up to 2025-11-25), modern "
        "(stateless requests, 2026-07-28), or both (default: the application's choice; for a "
        "Router its argument 'eras')",
    )
    http_security.add_arguments(parser)
    nodes.add_arguments(parser)
    workers.add_arguments(parser)
    admin.add_arguments(parser, parse_address)
    parser.add_argument(
        "--reload",
        action="store_true",
        help="for development: restart the server when a Python file of the application changes; "
        "not with --stdio",
    )
    parser.add_argument(
        "--end-when-unused",
        type=_positive_seconds,
        metavar="SECONDS",
        help="end when there was no client for this time: no session, and no request without one; "
        "for a server that clients start on demand; not with --stdio",
    )
    # What a server that is restarted inherits: the descriptors of its HTTP sockets.
    parser.add_argument("--reloaded", type=parse_descriptors, help=argparse.SUPPRESS)
    parser.add_argument(
        "--gc-freeze",
        action="store_true",
        help="keep collections of garbage short, for servers that hold thousands of sessions: what "
        "has survived one is not looked at again; the application must leave no circles of "
        "references, which would stay in memory",
    )
    output = parser.add_argument_group("output", "on standard error")
    output.add_argument(
        "--log-level",
        choices=LEVELS,
        default="info",
        help="the lowest level to log (default: info)",
    )
    output.add_argument(
        "--log-format",
        choices=FORMATS,
        default="text",
        help="how to write the log: text, or json for one JSON object on each line (default: text)",
    )
    output.add_argument(
        "--report-tasks",
        action="store_true",
        help="log the tree of all tasks, with their ages and sessions, at every SIGUSR1; to see "
        "why a server hangs",
    )
    output.add_argument(
        "--watch",
        action="store_true",
        help="show a live table of the sessions, if standard error is a terminal",
    )
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until the client at stdio has left or a signal comes; return the exit status.

    Raises:
        CommandFailed: The application cannot be loaded, its server lifespan failed, or an address
            cannot be listened on.
    """
    options.stdio = options.stdio or not (options.tcp or options.unix or options.http)
    if options.stdio and options.end_when_unused is not None:
        raise CommandFailed(
            "--end-when-unused is not for --stdio: that server ends with its client", status=2
        )
    http_security.check_options(options)
    admin.check_options(options)
    nodes.check_options(options)
    workers.check_options(options)
    if options.print_proxy is not None:
        sys.stdout.write(workers.proxy_config(options))
        return 0
    if options.worker is not None:
        workers.become_worker(options, options.worker)
    elif options.workers is not None:
        return workers.run(options)
    if options.reload:
        reload.check_options(options)
        if options.reloaded is None:
            return reload.run(options)
        options.http = [*options.reloaded, *filter(reload.is_made_anew, options.http)]
    prepare_process(stdio=options.stdio)
    with ExitStack() as guard:
        # Before the module is imported: what it prints must not get into the protocol.
        stdio = _guard_stdio(guard) if options.stdio else None
        return _run(options, load_application(options.application), stdio)


def _guard_stdio(guard: ExitStack) -> GuardedStdio:
    try:
        return guard.enter_context(guard_program_stdio())
    except OSError as error:
        why = f"--stdio needs standard input and output: {error.strerror}"
        raise CommandFailed(why) from error


def _run(options: argparse.Namespace, application: Application, stdio: GuardedStdio | None) -> int:
    authenticate = http_security.load_authenticate(options)
    config = nodes.with_settings(chosen_settings(options), options)
    admin_token = admin.load_token(options)
    server = Server(options, Screen(sys.stderr), stdio, authenticate, admin_token)
    start_logging(options.log_level, server.screen, options.log_format)
    try:
        with server.screen:
            return run_program(
                application,
                server.serve,
                config=config,
                hooks=LOGGING,
                instrumentation=admin.instrumentation(options),
                ends_process=True,
                last_words=SHOW_CURSOR if server.screen.style.live else "",
                report_tasks=options.report_tasks,
                gc_freeze=options.gc_freeze,
            )
    except ServerLifespanFailed as failed:
        trace = "".join(traceback.format_exception(failed.__cause__)).rstrip()
        raise CommandFailed(f"{failed}:\n{trace}") from failed
    except BaseExceptionGroup as group:
        failure = find_failure(group)
        if failure is None:
            raise
        raise failure from failure.__cause__


@final
@attrs.frozen
class Server:
    """Serves an application on the transports of the command line."""

    options: argparse.Namespace
    screen: Screen
    stdio: GuardedStdio | None = None
    authenticate: Authenticate | None = None
    admin_token: str | None = None

    def say(self, line: str) -> None:
        """Print a line; in a log of JSON it is a record."""
        if self.options.log_format == "json":
            logger.info("%s", line)
        else:
            self.screen.print(line)

    async def serve(self, manager: SessionManager, shutdown: Shutdown) -> None:
        """Serve on all transports: with stdio until its client has left, else for ever."""
        options = self.options
        async with trio.open_nursery() as nursery:
            if options.watch and self.screen.style.live:
                nursery.start_soon(Watch(manager).run, self.screen)
            if options.reload or options.worker is not None:
                nursery.start_soon(reload.drain_without_parent)
            for address in options.tcp:
                serve = partial(serve_tcp, host=address.host, eras=options.eras)
                await self._listen(nursery, manager, serve, address.port, f"tcp {address}")
            for path in options.unix:
                owner, group = options.unix_owner
                serve = partial(
                    serve_unix,
                    mode=options.unix_mode,
                    owner=owner,
                    group=group,
                    principal_of=unix_peer if options.unix_peers else None,
                    eras=options.eras,
                )
                await self._listen(nursery, manager, serve, path, f"unix {path}")
            for address in options.http:
                await self._serve_http(nursery, manager, str(address))
            if options.admin is not None:
                await self._serve_admin(nursery, manager, str(options.admin))
            if options.worker is not None:
                options.worker.tell_ready()
            if options.end_when_unused is not None:
                await wait_unused(manager, options.end_when_unused)
                self.say(f"no client for {options.end_when_unused:g} s; the server ends")
                await manager.drain()
                nursery.cancel_scope.cancel(reason="no client uses the server")
            if options.stdio:
                await self._serve_stdio(manager, shutdown)
                await manager.drain()
                nursery.cancel_scope.cancel(reason="the client at standard input has left")

    async def _listen(
        self,
        nursery: trio.Nursery,
        manager: SessionManager,
        serve: Callable[..., Any],
        where: int | str,
        name: str,
    ) -> None:
        listeners = await self._start(nursery, serve, manager, where, name)
        for listener in listeners:
            bound = listener.socket.getsockname()
            told = f"unix {bound}" if isinstance(bound, str) else f"tcp {Address(*bound[:2])}"
            self.say(f"listening on {told}")

    async def _serve_http(self, nursery: trio.Nursery, manager: SessionManager, where: str) -> None:
        hosts, origins = self.options.http_host, self.options.http_origin
        serve = partial(
            serve_http,
            allowed_hosts=None if hosts is None else [*LOOPBACK_NAMES, *hosts],
            allowed_origins=origins,
            authenticate=self.authenticate,
            eras=self.options.eras,
            options=HttpOptions(
                stateless=self.options.stateless,
                trusted_proxies=self.options.trusted_proxy,
                wrong_node_header=self.options.wrong_node_header,
            ),
            health_pages=True,
            reuse_port=self.options.reuse_port,
            **http_security.server_settings(self.options, manager),
        )
        try:
            for bound in await self._start(nursery, serve, manager, where, f"http {where}"):
                self.say(f"listening on {bound.url}/mcp")
        except MissingExtra as error:
            raise CommandFailed(str(error)) from error
        except ValueError as error:  # A descriptor that is something else.
            raise CommandFailed(f"cannot listen on http {where}: {error}") from error

    async def _serve_admin(
        self, nursery: trio.Nursery, manager: SessionManager, where: str
    ) -> None:
        serve = partial(serve_admin, token=self.admin_token)
        try:
            for bound in await self._start(nursery, serve, manager, where, f"admin {where}"):
                self.say(f"admin pages on {bound.url}/metrics")
        except MissingExtra as error:
            raise CommandFailed(str(error)) from error

    @staticmethod
    async def _start(
        nursery: trio.Nursery,
        serve: Callable[..., Any],
        manager: SessionManager,
        where: int | str,
        name: str,
    ) -> Any:
        try:
            return await nursery.start(serve, manager, where)
        except OSError as error:
            raise CommandFailed(f"cannot listen on {name}: {error.strerror or error}") from error

    async def _serve_stdio(self, manager: SessionManager, shutdown: Shutdown) -> None:
        if self.stdio is not None and self.stdio.is_terminal:
            self.say("serving standard input: one JSON-RPC message per line; Ctrl-D ends it")
        # The client gets the error, as the answer to its first request.
        with suppress(SessionRejected):
            await serve_stdio_and_explain(
                manager,
                self.say,
                eras=self.options.eras,
                on_ending=shutdown.client_leaves,
                guarded=self.stdio,
            )
