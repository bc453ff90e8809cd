"""Options of ``serve`` for the admin address."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..admin.serve_admin import check_token
from ..telemetry.prometheus_metrics import PrometheusMetrics
from ..transports.exposure import is_exposed
from .failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.instrumentation import Instrumentation


def add_arguments(parser: argparse.ArgumentParser, parse_address: Callable[[str], object]) -> None:
    """Add the options of this group."""
    admin = parser.add_argument_group("admin address", "for operators, beside the transports")
    admin.add_argument(
        "--admin",
        type=parse_address,
        metavar="HOST:PORT",
        help="serve metrics for Prometheus at http://HOST:PORT/metrics (without HOST: loopback); "
        "never on an address of clients; needs the extra 'http'",
    )
    admin.add_argument(
        "--admin-token-file",
        metavar="PATH",
        help="a file with the token that --admin needs where other machines can reach it: "
        "Authorization: Bearer TOKEN",
    )


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other.

    Raises:
        CommandFailed: A token without an address, or an address for other machines without one.
    """
    if options.admin is None:
        if options.admin_token_file is not None:
            raise CommandFailed("--admin-token-file is for --admin", status=2)
    elif options.admin_token_file is None and is_exposed(options.admin.host):
        raise CommandFailed(
            f"other machines can reach --admin {options.admin}: it needs --admin-token-file, "
            "or listen on 127.0.0.1",
            status=2,
        )


def load_token(options: argparse.Namespace) -> str | None:
    """Return the token of the admin address; None without one.

    Raises:
        CommandFailed: The file cannot be read, or has no token. No error shows the token.
    """
    path = options.admin_token_file
    if path is None:
        return None
    try:
        token = Path(path).read_text("utf-8").strip()
        check_token(token)
    except OSError as error:
        why = f"--admin-token-file: cannot read {path}: {error.strerror}"
        raise CommandFailed(why) from error
    except ValueError as error:
        is_text = not isinstance(error, UnicodeDecodeError)
        why = str(error) if is_text else "it is not UTF-8"
        # Not from the error: that of the decoder has the bytes.
        raise CommandFailed(f"--admin-token-file: {path}: {why}") from None
    return token


def instrumentation(options: argparse.Namespace) -> tuple[Instrumentation, ...]:
    """Return what counts for the admin address."""
    return () if options.admin is None else (PrometheusMetrics(),)
