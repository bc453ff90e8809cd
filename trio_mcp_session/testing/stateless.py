"""Stateless requests (2026-07-28) for a client in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from .client import Client
from .client_eras import with_envelope

_CAPABILITIES: Final[Mapping[str, Any]] = {"elicitation": {}, "sampling": {}, "roots": {}}


def modern(
    params: Mapping[str, Any] | None = None, *, capabilities: Mapping[str, Any] = _CAPABILITIES
) -> dict[str, Any]:
    """Return the parameters of a stateless request (2026-07-28).

    ::

        result = await client.request("tools/call", modern({"name": "add"}))

    The ``_meta`` of such a request has what a client sends in the handshake of earlier revisions.
    Members that ``params`` already has in ``_meta`` are kept. Not a checkpoint.

    Args:
        params: The parameters of the method.
        capabilities: The capabilities that the client declares; by default elicitation, sampling
            and roots.
    """
    return with_envelope(params, capabilities)


async def call_and_answer(
    client: Client[Any],
    name: str,
    arguments: Mapping[str, Any],
    answer: Callable[[str, dict[str, Any]], Awaitable[Mapping[str, Any]]],
) -> dict[str, Any]:
    """Call a tool as clients of 2026-07-28 do, and answer what the server asks.

    As long as the result is ``input_required``, the request is sent again, with an answer to
    each input request and with the server's ``requestState``. A checkpoint. When cancelled, the
    request that is open is cancelled.

    Args:
        client: A client in memory.
        name: The tool's name.
        arguments: The tool's arguments.
        answer: Called with the key of an input request and with that request; returns the result
            to send.

    Returns:
        The final result.

    Raises:
        McpError: An answer of the server is an error.
        ConnectionEnded: The connection was closed before the answer.
    """
    call: dict[str, Any] = {"name": name, "arguments": arguments}
    result: dict[str, Any] = await client.request("tools/call", modern(call))
    while result["resultType"] == "input_required":
        requests: dict[str, Any] = result.get("inputRequests", {})
        responses = {key: await answer(key, request) for key, request in requests.items()}
        retry = {**call, "inputResponses": responses}
        if "requestState" in result:
            retry["requestState"] = result["requestState"]
        result = await client.request("tools/call", modern(retry))
    return result
