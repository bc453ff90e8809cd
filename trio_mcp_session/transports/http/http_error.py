"""Requests that reach no session: a status, and the protocol's own error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgspec import UNSET, UnsetType

from ...core.rate_limit import whole_seconds
from ...protocol import jsonrpc
from ...protocol.error_codes import INTERNAL_ERROR, INVALID_REQUEST
from ..asgi import Send
from .json_response import JSON, Header, respond

MEMORY_OPTIONS: Final = (
    "the options: SessionLimits.max_session_bytes, SessionLimits.max_party_bytes, "
    "SessionLimits.max_bytes"
)
"""The hint for what is refused because too many bytes are in memory."""


class HttpError(Exception):
    """The request is answered with this, and goes no further.

    Args:
        status: The HTTP status.
        message: One sentence for people, in words of this library only.
        code: The JSON-RPC error number.
        data: What else programs should know.
        request_id: The JSON-RPC request's id, where it could be read.
        headers: Further headers of the response.
        value: For the log only: what was refused, as the client sent it.
        hint: For the log only: what the operator can do, such as the option that accepts it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: int = INVALID_REQUEST,
        data: Any = None,
        request_id: jsonrpc.RequestId | UnsetType = UNSET,
        headers: Iterable[Header] = (),
        value: str | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(status, message)
        self.status: Final = status
        self.message: Final = message
        self.code: Final = code
        self.value: Final = value
        self.hint: Final = hint
        self.headers: Final[tuple[Header, ...]] = tuple(headers)
        self._request_id = request_id
        self._error: Final = code, message, data

    @property
    def body(self) -> bytes:
        """The JSON-RPC error."""
        return jsonrpc.encode_error(self._request_id, *self._error)

    def name_request(self, request_id: jsonrpc.RequestId | UnsetType) -> None:
        """Set the id of the request that it answers, if it has none yet."""
        if self._request_id is UNSET:
            self._request_id = request_id

    async def send(self, send: Send) -> None:
        """Answer with it."""
        await respond(send, self.status, self.body, (JSON, *self.headers))


def too_often(why: str, wait: float, request_id: jsonrpc.RequestId | UnsetType) -> HttpError:
    """Return the error of a request that a rate limit refuses: 429, and when to try again."""
    return HttpError(
        429,
        why,
        code=INTERNAL_ERROR,
        request_id=request_id,
        headers=[(b"retry-after", b"%d" % whole_seconds(wait))],
    )
