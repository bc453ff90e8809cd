"""The client capability that each request of a server to its client needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..core.errors import CapabilityMissing
from ..core.identity import ClientInfo
from .jsonrpc import is_object

NEEDED: Final = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""The capability that the client must declare, by method. Other methods need none."""


def without_sessions(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a server can offer of its capabilities to clients without sessions.

    Not log messages, since no level can be set, and no notifications outside of requests.
    """
    return {
        name: {key: value for key, value in one.items() if key not in _NEED_SESSIONS}
        if is_object(one)
        else one
        for name, one in capabilities.items()
        if name != "logging"
    }


_NEED_SESSIONS: Final = frozenset({"listChanged", "subscribe"})
"""Members of capabilities that promise notifications outside of requests."""


def require(client: ClientInfo | None, method: str) -> None:
    """Check that ``client`` may be sent a request of ``method``.

    Raises:
        CapabilityMissing: It did not declare the capability, in its handshake or its request.
    """
    capability = NEEDED.get(method)
    if capability is None:
        return
    declared = None if client is None else client.capabilities.get(capability)
    # A client may declare any value. An empty object means forms (2025-11-25).
    no_forms = is_object(declared) and len(declared) > 0 and declared.get("form") is None
    if declared is None or (capability == "elicitation" and no_forms):
        raise CapabilityMissing(capability)
