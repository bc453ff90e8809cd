"""``server/discover``, and which methods are left in 2026-07-28."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .revisions import STATELESS_REVISIONS

DISCOVER: Final = "server/discover"

REMOVED: Final = frozenset(
    {
        "initialize",
        "logging/setLevel",
        "ping",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/list",
        "tasks/result",
    }
)
"""Methods of the revisions with sessions that have no place in a request that stands for itself."""


def discover_result(capabilities: Mapping[str, Any], instructions: str | None) -> dict[str, Any]:
    """Build the result of ``server/discover``, as far as it is its own."""
    result: dict[str, Any] = {
        "supportedVersions": list(STATELESS_REVISIONS),
        "capabilities": capabilities,
    }
    if instructions is not None:
        result["instructions"] = instructions
    return result
