"""Options of ``serve`` for authentication, TLS and Unix sockets."""

from __future__ import annotations

import argparse
import inspect
import ssl
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ..transports.extras import MissingExtra, needs_extra
from ..transports.http.bearer_auth import BearerAuth
from ..transports.unix_sockets import DEFAULT_MODE, UnixSocketAccess
from .failure import CommandFailed
from .loading import describe, load_object
from .token_file import read_token_file

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager
    from ..transports.http.authentication import Authenticate

_MAX_MODE: Final = 0o777


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of these groups."""
    access = parser.add_argument_group("authentication and encryption", "of --http")
    access.add_argument(
        "--authenticate",
        metavar="MODULE:NAME",
        help="an async function that returns the principal of a request, or a BearerAuth",
    )
    access.add_argument(
        "--token-file",
        metavar="PATH",
        help="a file with the bearer tokens of clients: one on each line, and behind it, if "
        "wanted, the subject and the scopes; it is read at the start",
    )
    access.add_argument(
        "--tls-cert",
        metavar="PATH",
        help="serve HTTPS with this certificate chain (PEM); needs the extra 'hypercorn'",
    )
    access.add_argument(
        "--tls-key",
        metavar="PATH",
        help="the private key of the certificate (default: the file of --tls-cert)",
    )
    unix = parser.add_argument_group("Unix sockets", "of --unix and of --http unix:PATH")
    unix.add_argument(
        "--unix-mode",
        type=parse_mode,
        default=DEFAULT_MODE,
        metavar="MODE",
        help="the file permissions of the sockets, in octal (default: 600): which users may "
        "connect",
    )
    unix.add_argument(
        "--unix-owner",
        type=parse_owner,
        default=(None, None),
        metavar="USER[:GROUP]",
        help="the user and the group that own the sockets, by name or id; :GROUP sets the group "
        "only",
    )
    unix.add_argument(
        "--unix-peers",
        action="store_true",
        help="the principal of a client of --unix is the user that it runs as (Linux)",
    )


def parse_mode(text: str) -> int:
    """Read file permissions in octal."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _MAX_MODE:
        raise argparse.ArgumentTypeError(f"must be octal permissions, such as 660, not {text!r}")
    return mode


def parse_owner(text: str) -> tuple[str | int | None, str | int | None]:
    """Read ``USER``, ``USER:GROUP`` or ``:GROUP``, and check that they exist."""
    user, _, group = text.partition(":")
    owner, owning_group = _name_or_id(user), _name_or_id(group)
    if owner is None and owning_group is None:
        raise argparse.ArgumentTypeError(f"must be USER, USER:GROUP or :GROUP, not {text!r}")
    try:
        UnixSocketAccess(owner=owner, group=owning_group).ids()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return owner, owning_group


def _name_or_id(text: str) -> str | int | None:
    return int(text) if text.isascii() and text.isdigit() else text or None


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that would have no effect, or that contradict each other.

    Raises:
        CommandFailed: Options have no effect or contradict each other, or the certificate cannot be
            used.
    """
    for name in ("authenticate", "token_file", "tls_cert", "tls_key"):
        if getattr(options, name) is not None and not options.http:
            flag = name.replace("_", "-")
            raise CommandFailed(f"--{flag} is for --http: other transports ignore it", status=2)
    if options.unix_peers and not options.unix:
        raise CommandFailed(
            "--unix-peers is for --unix: other transports ignore it; for HTTP use "
            "--authenticate trio_mcp_session:authenticate_unix_peer",
            status=2,
        )
    if options.authenticate is not None and options.token_file is not None:
        raise CommandFailed("choose one of --authenticate and --token-file", status=2)
    if options.tls_key is not None and options.tls_cert is None:
        raise CommandFailed("--tls-key needs --tls-cert", status=2)
    if options.tls_cert is not None:
        _check_certificate(options)


def _check_certificate(options: argparse.Namespace) -> None:
    try:
        with needs_extra("hypercorn", "hypercorn", "--tls-cert"):
            import_module("hypercorn")
    except MissingExtra as error:
        raise CommandFailed(str(error)) from error
    key = options.tls_key or options.tls_cert
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(options.tls_cert, key)
    except OSError as error:  # `ssl.SSLError` is one
        raise CommandFailed(
            f"--tls-cert: cannot use {options.tls_cert} with the key in {key}: "
            f"{error.strerror or error}"
        ) from error


def load_authenticate(options: argparse.Namespace) -> Authenticate | None:
    """Return the hook that the options name, if any.

    Raises:
        CommandFailed: It cannot be loaded, or is not a hook.
    """
    if options.token_file is not None:
        return BearerAuth(read_token_file(options.token_file))
    if options.authenticate is None:
        return None
    found: Any = load_object(options.authenticate, "MODULE:NAME")
    if not any(map(inspect.iscoroutinefunction, (found, type(found).__call__))):
        raise CommandFailed(
            f"{options.authenticate} is {describe(found)}, not an async function or a BearerAuth",
            status=2,
        )
    hook: Authenticate = found
    return hook


def server_settings(options: argparse.Namespace, manager: SessionManager) -> dict[str, Any]:
    """Return the arguments of `serve_http` for TLS and for Unix sockets."""
    owner, group = options.unix_owner
    settings: dict[str, Any] = {
        "unix_mode": options.unix_mode,
        "unix_owner": owner,
        "unix_group": group,
    }
    if options.tls_cert is not None:
        from ..transports.http.hypercorn import default_config  # noqa: PLC0415  # an extra

        config = default_config(manager)
        config.certfile = options.tls_cert
        config.keyfile = options.tls_key or options.tls_cert
        settings |= {"server": "hypercorn", "hypercorn_config": config}
    return settings
