"""``python -m trio_mcp_session``: the commands and their exit statuses."""

from __future__ import annotations

import argparse
import platform
import signal
import sys
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final, NoReturn

from ..transports.extras import DISTRIBUTION
from . import inspector as inspector_command, serve as serve_command
from .connect import run_connect
from .demo import command as demo_command
from .failure import CommandFailed

SCRIPT: Final = "trio-mcp-session"
"""The script that pip installs, see pyproject.toml."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=_program_name(),
        description="Serve an MCP server on Trio, or watch a demo of its sessions.",
    )
    parser.add_argument(
        "--version", action=_ShowVersion, nargs=0, help="show the version, and exit"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve an application over stdio, HTTP, TCP or Unix sockets",
        usage="%(prog)s MODULE:APP [--stdio] [--http HOST:PORT] [--tcp HOST:PORT] [--unix PATH] "
        "[--reload] [options]",
        description="Serve an application. The first SIGTERM or SIGINT drains: running work can "
        "finish, then all sessions end. The second cancels the remaining work. The third ends the "
        "process.",
    )
    demo = commands.add_parser(
        "demo",
        help="show how sessions of real clients begin, work and end (20 seconds)",
        description="Run a server and eight client processes with the official SDK, connected by "
        "pipes. Their sessions open, work, expire, crash, are evicted and drained, and a live "
        "table shows them. Needs the extra 'mcp'.",
    )
    inspector = commands.add_parser(
        "inspect",
        help="start the MCP Inspector on an application (needs Node.js)",
        usage="%(prog)s [-e NAME=VALUE] [--inspector-version VERSION] MODULE:APP "
        "[options of serve]",
        description="Start the MCP Inspector, a web page to try a server. It starts the "
        "application with the command serve, over stdio. npx downloads the Inspector.",
    )
    connect = commands.add_parser(
        "connect",
        help="connect a host's standard input and output to a server that other hosts share",
        usage="%(prog)s ADDRESS [--start COMMAND] [options]",
        description="A bridge from standard input and output to a server at a Unix socket, a TCP "
        "port or an HTTP endpoint, which many hosts can use at the same time. Hosts start it as "
        "they start a server. An address of HTTP needs the extra 'connect'.",
    )
    serve_command.add_arguments(serve)
    run_connect.add_arguments(connect)
    connect.set_defaults(run=run_connect.run)
    serve.set_defaults(run=serve_command.run)
    inspector_command.add_arguments(inspector)
    inspector.set_defaults(run=partial(inspector_command.run, parse=parser.parse_args))
    demo_command.add_arguments(demo)
    demo.set_defaults(run=demo_command.run)
    return parser


class _ShowVersion(argparse.Action):
    """Looks up the version only when it is printed: that reads files."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print the versions that matter in a bug report, and exit."""
        print(
            f"trio_mcp_session {_version_of(DISTRIBUTION)} "
            f"(trio {_version_of('trio')}, Python {platform.python_version()})"
        )
        parser.exit()


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _program_name() -> str:
    """Return how the program was started: as a module, or as the script that pip installs."""
    name = Path(sys.argv[0]).stem
    return SCRIPT if name == SCRIPT else "python -m trio_mcp_session"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for wrong usage, 1 for any other failure."""
    options = make_parser().parse_args(arguments)
    options.command_line = tuple(sys.argv[1:] if arguments is None else arguments)
    try:
        status: int = options.run(options)
    except CommandFailed as failure:
        print(f"trio_mcp_session: {failure}", file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status
