"""What the headers of a request may refuse it for."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from ...core.errors import McpError
from ...protocol.eras import BOTH, ServedEras
from ...protocol.error_codes import METHOD_NOT_FOUND
from ...protocol.jsonrpc import RequestId, is_object
from ...protocol.media_types import accepts
from ...protocol.revisions import HANDSHAKE_REVISIONS
from .headers import RequestHeaders
from .http_error import HttpError


def check_version(headers: RequestHeaders, eras: ServedEras = BOTH) -> None:
    """Refuse revisions that are not spoken here (2025-06-18 and 2025-11-25, *Streamable HTTP*).

    Where there is no header the session knows; where it differs from what the session negotiated,
    the session's own counts.

    Raises:
        HttpError: 400.
    """
    version = headers.protocol_version
    if version is not None and version not in HANDSHAKE_REVISIONS:
        raise http_error_of(eras.unsupported(version))


def http_error_of(
    error: McpError, request_id: RequestId | UnsetType = UNSET, method: str | None = None
) -> HttpError:
    """Return the HTTP error for an error of the protocol (2026-07-28).

    Args:
        error: The error.
        request_id: The request's id.
        method: The request's method, for the log.
    """
    requested = error.data.get("requested") if is_object(error.data) else None
    return HttpError(
        404 if error.code == METHOD_NOT_FOUND else 400,
        error.message,
        code=error.code,
        data=error.data,
        request_id=request_id,
        value=method if requested is None else str(requested),
    )


def check_accept(headers: RequestHeaders, *media_types: str) -> None:
    """Refuse clients that could not read the answer.

    Raises:
        HttpError: 406.
    """
    accept = "*/*" if headers.accept is None else headers.accept
    if not all(accepts(accept, media_type) for media_type in media_types):
        raise HttpError(
            406,
            f"Not acceptable: the client must accept {' and '.join(media_types)}",
            value=accept,
        )
