"""Which batches are served over HTTP (2025-03-26)."""

from __future__ import annotations

from ...protocol.envelope import is_modern
from ...protocol.jsonrpc import Batch, Invalid, Notification, Request
from ...protocol.revisions import HANDSHAKE_REVISIONS
from .http_error import HttpError


def check_batch(version: str | None, batch: Batch) -> None:
    """Refuse a batch as a whole where any of it is wrong.

    Args:
        version: The revision of its client; None before the handshake.
        batch: The batch.

    Raises:
        HttpError: 400.
    """
    if version is None or not HANDSHAKE_REVISIONS[version].batches:
        raise HttpError(400, "Batches are not part of this session's protocol version")
    for message in batch.messages:
        if isinstance(message, Invalid):
            raise HttpError(400, f"The batch contains an invalid message: {message.what}")
        if isinstance(message, Request) and message.method == "initialize":
            raise HttpError(400, "initialize must not be part of a batch")
        if isinstance(message, (Request, Notification)) and is_modern(message.params):
            raise HttpError(400, "Messages of 2026-07-28 must not be part of a batch")
