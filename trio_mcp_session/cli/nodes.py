"""Options of ``serve`` for one of several processes: its label, and what they share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from ..core.config import SessionConfig
from ..core.node import LABEL
from ..core.signing_keys import RequestStateKeys
from ..transports.http.http_options import HttpOptions
from .failure import CommandFailed

NODE_VARIABLE: Final = "TRIO_MCP_SESSION_NODE"
"""The environment variable for the label."""

_DESCRIPTOR: Final = "fd:"
_RULE: Final = "1 to 32 small letters, digits and hyphens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this group."""
    nodes = parser.add_argument_group(
        "several processes", "of --http; see the page 'Several processes' of the documentation"
    )
    nodes.add_argument(
        "--node",
        type=parse_label,
        metavar="LABEL",
        help="the label of this process, 1 to 32 small letters, digits and hyphens: session ids, "
        "handles and task ids begin with it, and requests that name another node get 421 "
        f"(default: the environment variable {NODE_VARIABLE}, or none)",
    )
    nodes.add_argument(
        "--wrong-node-header",
        type=parse_header,
        metavar="NAME: VALUE",
        help="a header of the answer 421, by which the proxy finds the node; {node} stands for its "
        "label; for nginx 'X-Accel-Redirect: @{node}'",
    )
    nodes.add_argument(
        "--request-state-key-file",
        metavar="PATH",
        help="a file with the keys that sign requestState, the same for all processes: one of at "
        "least 16 characters on each line; the first one signs, all are recognised; it is read at "
        "the start (default: a random key)",
    )
    nodes.add_argument(
        "--reuse-port",
        action="store_true",
        help="several processes listen on one port, and the system chooses one for each "
        "connection; needs --node or --stateless",
    )


def parse_label(text: str) -> str:
    """Check the label of a node."""
    if LABEL.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"must be {_RULE}, not {text!r}")
    return text


def parse_header(text: str) -> tuple[str, str]:
    """Read ``NAME: VALUE``, with ``{node}`` in the value."""
    name, _, value = text.partition(":")
    try:
        HttpOptions(wrong_node_header=(name, value.strip()))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be NAME: VALUE, with {{node}} in the value, not {text!r}"
        ) from None
    return name, value.strip()


def check_options(options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> None:
    """Take the label from the environment, and refuse options that would have no effect.

    Raises:
        CommandFailed: The label in the environment is malformed, or an option has no effect.
    """
    if options.node is None and (text := environ.get(NODE_VARIABLE)):
        if LABEL.fullmatch(text) is None:
            raise CommandFailed(f"{NODE_VARIABLE} must be {_RULE}, not {text!r}", status=2)
        options.node = text
    if options.wrong_node_header is not None and options.node is None and not options.workers:
        raise CommandFailed("--wrong-node-header needs --node", status=2)
    if options.reuse_port:
        if not options.http:
            raise CommandFailed("--reuse-port is for --http", status=2)
        if options.node is None and not options.stateless and options.eras != "modern":
            raise CommandFailed(
                "with --reuse-port any process gets any request: it needs --node, or --stateless",
                status=2,
            )


def with_settings(config: SessionConfig, options: argparse.Namespace) -> SessionConfig:
    """Return a configuration with the label and the keys that the options name.

    Raises:
        CommandFailed: The key file cannot be read, or a key is too short.
    """
    changes: dict[str, Any] = {"node": options.node}
    if options.request_state_key_file is not None:
        changes["request_state_keys"] = read_keys(options.request_state_key_file)
    return attrs.evolve(config, **changes)


def read_keys(path: str) -> RequestStateKeys:
    """Read the keys in a file: one on each line, ``#`` for comments.

    Args:
        path: The file; or ``fd:NUMBER``, the descriptor of an inherited one.

    Raises:
        CommandFailed: It cannot be read, has no key, or a key is too short. No error shows a key.
    """
    try:
        text = _read(path).decode("utf-8")
    except OSError as error:
        why = f"--request-state-key-file: cannot read {path}: {error.strerror}"
        raise CommandFailed(why) from error
    except ValueError:
        # Not from the error: that of the decoder has the bytes.
        raise CommandFailed(f"--request-state-key-file: {path}: it is not UTF-8") from None
    lines = [line.strip() for line in text.splitlines()]
    keys = [line.encode() for line in lines if line and not line.startswith("#")]
    if not keys:
        raise CommandFailed(f"--request-state-key-file: {path} has no key")
    try:
        return RequestStateKeys(*keys)
    except ValueError as error:
        raise CommandFailed(f"--request-state-key-file: {path}: {error}") from error


def _read(path: str) -> bytes:
    number = path.removeprefix(_DESCRIPTOR)
    if number == path or not (number.isascii() and number.isdigit()):
        return Path(path).read_bytes()
    # From the beginning, whatever other processes have read of it.
    return os.pread(int(number), os.fstat(int(number)).st_size, 0)
