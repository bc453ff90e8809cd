"""The client capability that each request of a server to its client needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..core.errors import CapabilityMissing
from ..core.identity import ClientInfo
from .jsonrpc import is_object
from .revisions import Revision

NEEDED: Final = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""The capability that the client must declare, by method. Other methods need none."""

URL_ELICITATION: Final = "elicitation.url"
"""What a client declares that can ask its user to open a URL (from 2025-11-25 on)."""

SAMPLING_TOOLS: Final = "sampling.tools"
"""What a client declares whose model can be given tools (from 2025-11-25 on)."""


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


def needed(method: str, params: Mapping[str, Any] | None = None) -> str | None:
    """Return the capability that a client needs for a request: a path with dots; None for none."""
    if params is not None:
        if method == "elicitation/create" and params.get("mode") == "url":
            return URL_ELICITATION
        if method == "sampling/createMessage" and ("tools" in params or "toolChoice" in params):
            return SAMPLING_TOOLS
    return NEEDED.get(method)


def is_known(capability: str, revision: Revision | None) -> bool:
    """Return whether clients of a revision can have a capability."""
    if capability == URL_ELICITATION:
        return revision is not None and revision.url_elicitation
    if capability == SAMPLING_TOOLS:
        return revision is not None and revision.sampling_tools
    return capability != "elicitation" or (revision is not None and revision.elicitation)


def require(
    client: ClientInfo | None, method: str, params: Mapping[str, Any] | None = None
) -> None:
    """Check that ``client`` may be sent a request of ``method`` with these parameters.

    Raises:
        CapabilityMissing: It did not declare the capability, in its handshake or its request.
    """
    capability = needed(method, params)
    if capability is None:
        return
    name, _, part = capability.partition(".")
    declared = None if client is None else client.capabilities.get(name)
    # A client may declare any value. An empty object means forms (2025-11-25).
    is_missing = declared is None
    if part:
        is_missing = not is_object(declared) or declared.get(part) in (None, False)
    elif name == "elicitation" and is_object(declared):
        is_missing = len(declared) > 0 and declared.get("form") is None
    if is_missing:
        raise CapabilityMissing(capability)


def as_object(capability: str) -> dict[str, Any]:
    """Return the object in which a client declares a capability."""
    declared: dict[str, Any] = {}
    for name in reversed(capability.split(".")):
        declared = {name: declared}
    return declared
