"""What the headers of a request may refuse it for."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from ...core.errors import McpError, shown
from ...protocol.eras import BOTH, ServedEras
from ...protocol.error_codes import METHOD_NOT_FOUND
from ...protocol.jsonrpc import RequestId, is_object
from ...protocol.media_types import ALL_FORMS, Forms, accepts, forms_of, is_json
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
        raise http_error_of(eras.unsupported_header(version))


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


def check_content(headers: RequestHeaders) -> None:
    """Refuse bodies that are not JSON, or not sent as they are.

    Raises:
        HttpError: 415.
    """
    if not is_json(headers.content_type or ""):
        raise HttpError(415, "Content-Type must be application/json", value=headers.content_type)
    coding = headers.content_encoding
    if coding and any(one.strip().lower() != "identity" for one in coding.split(",")):
        raise HttpError(
            415,
            f"Content-Encoding {shown(coding)} is not supported: send the body without an encoding",
            headers=[(b"accept-encoding", b"identity")],
            value=coding,
        )


def accepted_forms(headers: RequestHeaders) -> Forms:
    """Return in which forms a POST can be answered.

    Clients should accept both (2025-03-26 and later, *Streamable HTTP*). One that names only one is
    answered in that form.

    Raises:
        HttpError: 406, the client accepts neither.
    """
    accept = headers.accept
    if accept is None:
        return ALL_FORMS
    forms = forms_of(accept)
    if not (forms.json or forms.events):
        raise HttpError(
            406,
            "Not acceptable: the client must accept application/json or text/event-stream",
            value=accept,
        )
    return forms


def check_events_accepted(headers: RequestHeaders) -> None:
    """Refuse clients that could not read a stream of events.

    Raises:
        HttpError: 406.
    """
    if headers.accept is not None and not accepts(headers.accept, "text/event-stream"):
        raise HttpError(
            406, "Not acceptable: the client must accept text/event-stream", value=headers.accept
        )
