"""The log records of requests that the endpoint refuses."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Final

from ...protocol.error_codes import UNSUPPORTED_PROTOCOL_VERSION
from ..asgi import Scope
from ..refusal_log import RefusalLog
from .http_error import HttpError
from .trusted_proxies import TrustedProxies

logger: Final = logging.getLogger("trio_mcp_session.http")

ORDINARY: Final = frozenset(
    (
        HTTPStatus.OK,  # an `initialize` that is not valid: HTTP served it
        HTTPStatus.UNAUTHORIZED,  # clients ask without credentials first
        HTTPStatus.NOT_FOUND,  # clients of sessions that have ended
        HTTPStatus.MISDIRECTED_REQUEST,  # proxies do not see each name
        HTTPStatus.METHOD_NOT_ALLOWED,  # clients ask whether there is a stream, or sessions
    )
)
"""Statuses that well-behaved clients get, too: logged as INFO. All others are warnings."""


def report_refusal(
    log: RefusalLog, scope: Scope, error: HttpError, proxies: TrustedProxies | None
) -> None:
    """Log a refused request, or count it. Not a checkpoint.

    An error 500 is not logged here: its traceback is in the log already.
    """
    if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return
    ordinary = error.status in ORDINARY or error.code == UNSUPPORTED_PROTOCOL_VERSION
    if proxies is not None:
        client = proxies.client_of(scope)
    else:
        address = scope.get("client")
        client = str(address[0]) if address else ""
    where = f" from {client}" if client else ""
    log.report(
        f"HTTP {error.status}",
        error.message,
        f"{scope['method']} {scope['path']}{where}",
        value=error.value,
        hint=error.hint,
        level=logging.INFO if ordinary else logging.WARNING,
    )
