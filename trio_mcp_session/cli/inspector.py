"""`inspect`: starts the MCP Inspector, which starts the server over stdio."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

from .failure import CommandFailed
from .loading import load_application

PACKAGE: Final = "@modelcontextprotocol/inspector"

NEEDS_NODE: Final = (
    "inspect needs npx, a part of Node.js (22.19 or newer), which is not on the PATH; install it "
    "from https://nodejs.org"
)

Parse = Callable[[Sequence[str]], argparse.Namespace]
"""Reads a command line of this program; wrong usage ends the program."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "-e",
        "--env",
        action="append",
        default=[],
        type=_variable,
        metavar="NAME=VALUE",
        help="an environment variable of the server: the Inspector passes on only a few (can be "
        "repeated)",
    )
    parser.add_argument(
        "--inspector-version",
        metavar="VERSION",
        default="latest",
        help="the version of the Inspector, as npm knows it (default: latest)",
    )
    parser.add_argument("application", metavar="MODULE:APP", help="the application, as for serve")
    parser.add_argument(
        "serve_options",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="options of serve, except those for other transports",
    )


def run(options: argparse.Namespace, parse: Parse) -> NoReturn:
    """Become the Inspector: the process runs npx from then on.

    Args:
        options: The options of the command.
        parse: Reads a command line, to check the options of ``serve``.

    Raises:
        CommandFailed: The application cannot be loaded, npx is missing, or the options are for
            another transport.
    """
    serve = parse(["serve", options.application, *options.serve_options])
    if serve.http or serve.tcp or serve.unix or serve.reload:
        raise CommandFailed(
            "inspect serves over stdio: leave out --http, --tcp, --unix and --reload. To connect "
            f"the Inspector to a server that runs: npx {PACKAGE} --server-url URL --transport http",
            status=2,
        )
    # Here its error is seen: the Inspector shows only that the server has ended.
    load_application(options.application)
    npx = shutil.which("npx")
    if npx is None:
        raise CommandFailed(NEEDS_NODE)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(npx, [npx, *inspector_command(options, os.environ)])  # noqa: S606  # no shell


def inspector_command(options: argparse.Namespace, environ: Mapping[str, str]) -> list[str]:
    """Return the arguments of npx.

    Args:
        options: The options of the command.
        environ: The environment, of which the server needs ``PYTHONPATH``, too.
    """
    variables = list(options.env)
    if "PYTHONPATH" in environ:
        variables.insert(0, f"PYTHONPATH={environ['PYTHONPATH']}")
    command = ["--yes", f"{PACKAGE}@{options.inspector_version}"]
    for variable in variables:
        command += ["-e", variable]
    # What comes after the two dashes belongs to the server.
    command += ["--", sys.executable, "-m", "trio_mcp_session"]
    return [*command, "serve", options.application, *options.serve_options]


def _variable(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    return text
