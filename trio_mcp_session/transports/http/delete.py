"""DELETE: the client ends its session."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ...core.reasons import TerminationReason
from .checks import check_version
from .json_response import respond

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .http_request import HttpRequest


async def serve_delete(endpoint: Endpoint, request: HttpRequest) -> None:
    """End the session that the request names. A checkpoint.

    Raises:
        HttpError: The session does not exist.
    """
    check_version(request.headers, endpoint.eras)
    endpoint.session_of(request).terminate(TerminationReason.CLIENT_CLOSED)
    with suppress(OSError):  # The client may have left.
        await respond(request.send, 204)
