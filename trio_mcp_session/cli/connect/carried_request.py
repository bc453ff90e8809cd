"""One request of the host on its way: what is still to be answered, and what a failure becomes."""

from __future__ import annotations

from typing import Any, Final, final

import attrs
import trio
from msgspec import UNSET

from ...protocol.error_codes import INTERNAL_ERROR
from ...protocol.jsonrpc import encode_error, read_id
from .messages import HostMessage, Id

LISTEN: Final = "subscriptions/listen"
"""The request that is open for as long as its client wants to listen (2026-07-28)."""


class RequestFailed(Exception):
    """The server has not answered a request, and will not. The text is for the client.

    Args:
        text: The reason.
        code: The number of the error.
        data: Further information.
        status: The HTTP status; 0 without one.
    """

    def __init__(
        self, text: str, *, code: int = INTERNAL_ERROR, data: Any = None, status: int = 0
    ) -> None:
        super().__init__(text)
        self.status: Final = status
        self.code: Final = code
        self.data: Final = data


class SessionOver(RequestFailed):
    """The server no longer knows the session."""


@final
@attrs.define(eq=False)
class Exchange:
    """A request, or a batch with requests, that is carried to the server."""

    message: HostMessage
    kept: list[bytes] | None = None
    """Where its answers are kept; None if they are for the host."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    """Cancelled when the host cancels the request (2026-07-28): closing the stream tells it."""
    done: trio.Event = attrs.field(factory=trio.Event, init=False)
    open_ids: list[Id] = attrs.field(init=False)
    """The ids that are not answered yet."""

    def __attrs_post_init__(self) -> None:
        self.open_ids = list(self.message.ids)

    @property
    def is_finite(self) -> bool:
        """Whether its answer comes by itself."""
        return self.message.method != LISTEN

    def answered(self, answer_id: Id | None) -> None:
        """Note an answer. Not a checkpoint."""
        if answer_id in self.open_ids:
            self.open_ids.remove(answer_id)

    def fail(self, failed: RequestFailed) -> list[bytes]:
        """Return an error for each id that is not answered, and note these. Not a checkpoint."""
        ids, self.open_ids = self.open_ids, []
        known = [UNSET if (one := read_id(found)) is None else one for found in ids]
        return [encode_error(one, failed.code, str(failed), failed.data) for one in known]
