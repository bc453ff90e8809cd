"""`serve_admin`: pages for operators, on an address of their own."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

import trio

from ..core.peer import join_host_port
from ..transports.exposure import is_exposed
from ..transports.extras import needs_extra
from ..transports.http1.limits import HttpServerLimits
from ..transports.http1.listeners import BoundAddress, bound_address, open_listeners
from .admin_app import AdminApp
from .metrics_page import METRICS_PATH, metrics_page

if TYPE_CHECKING:
    from ..sessions.manager import SessionManager

MIN_TOKEN: Final = 16
"""The fewest characters of a token: with 16 random ones, 96 bits cannot be guessed."""

LIMITS: Final = HttpServerLimits(max_connections=64)
"""Few programs read these pages; their connections must not use up the files of the process."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


async def serve_admin(  # noqa: ASYNC128  # handed on
    manager: SessionManager,
    bind: str | Sequence[str] = "127.0.0.1:9000",
    *,
    token: str | None = None,
    allowed_hosts: Collection[str] | None = None,
    limits: HttpServerLimits = LIMITS,
    task_status: trio.TaskStatus[tuple[BoundAddress, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``GET /metrics`` of a manager, until that is drained, or until cancelled.

    Startable; a checkpoint. It has an address of its own, never that of MCP clients. Calls of tools
    are counted if the manager was opened with `PrometheusMetrics`. The pages show no session id, no
    token and nothing that a client sent. It needs the extra ``http``.

    Args:
        manager: The manager.
        bind: Where to listen, as for `serve_http`.
        token: What clients have to send as ``Authorization: Bearer TOKEN``. It is needed where
            other machines can reach the address. There the token is readable on the way: put a
            proxy with TLS before it, or use a network of your own.
        allowed_hosts: What ``Host`` may be, as for `http_app`; by default the names of loopback on
            a loopback address, and any name elsewhere.
        limits: Limits of the HTTP server.
        task_status: Told the addresses, as soon as clients may connect.

    Raises:
        OSError: It cannot listen there.
        ImportError: The extra is not installed.
        ValueError: An address is malformed; or other machines can reach it, and there is no token;
            or the token is shorter than 16 characters, or has others than a header may have.
    """
    with needs_extra("http", "httptools", "the admin address"):
        from ..transports.http1.server import serve_asgi  # noqa: PLC0415  # an extra
    if token is not None:
        check_token(token)
    app = AdminApp({METRICS_PATH: metrics_page(manager)}, token=token, allowed_hosts=allowed_hosts)
    async with open_listeners(bind) as listeners:
        addresses = tuple(bound_address(one) for one in listeners)
        if token is None:
            _check_loopback(addresses)
        await serve_asgi(
            app,
            listeners,
            limits=limits,
            stop=manager._drained,
            stop_budget=manager.config.cleanup.flush_budget,
            task_status=_Telling(task_status, addresses),
        )


def check_token(token: str) -> None:
    """Check a token. Not a checkpoint.

    Raises:
        ValueError: It is too short, or has characters that a header may not have. The error does
            not show it.
    """
    if len(token) < MIN_TOKEN:
        raise ValueError(f"the admin token needs at least {MIN_TOKEN} characters")
    if not _TOKEN.fullmatch(token):
        raise ValueError("the admin token may have letters, digits and -._~+/ only, and end with =")


def _check_loopback(addresses: Sequence[BoundAddress]) -> None:
    """Refuse addresses that other machines can reach. A Unix socket has file permissions."""
    for one in addresses:
        if one.unix_path is None and is_exposed(one.host):
            raise ValueError(
                f"the admin address {join_host_port(one.host, one.port)} can be reached by other "
                "machines: set a token, or listen on 127.0.0.1"
            )


class _Telling(trio.TaskStatus[None]):
    """Tells the addresses, when the server tells that it is ready."""

    def __init__(
        self,
        task_status: trio.TaskStatus[tuple[BoundAddress, ...]],
        addresses: tuple[BoundAddress, ...],
    ) -> None:
        self._task_status: Final = task_status
        self._addresses: Final = addresses

    def started(self, value: None = None) -> None:
        del value
        self._task_status.started(self._addresses)
