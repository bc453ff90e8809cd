"""Waiting for the client of a request to leave."""

from __future__ import annotations

import logging

from ...sessions.error_log import write_log
from ..asgi import Receive


async def wait_client_left(receive: Receive) -> None:
    """Wait until the client has left, or reading from it fails. A checkpoint.

    An error of ``receive`` is logged: it must not end the nursery that this runs in.

    Args:
        receive: The request's ``receive``, after its body.
    """
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except Exception as error:  # noqa: BLE001  # it is logged
        text = "reading from a client failed; it counts as disconnected"
        write_log(logging.ERROR, text, error=error)
