"""``server/discover``, and the methods that 2026-07-28 has removed."""

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
"""Methods of the revisions with sessions that stateless requests cannot use."""


def discover_result(capabilities: Mapping[str, Any], instructions: str | None) -> dict[str, Any]:
    """Build the result of ``server/discover``, before `complete_result`."""
    result: dict[str, Any] = {
        "supportedVersions": list(STATELESS_REVISIONS),
        "capabilities": capabilities,
    }
    if instructions is not None:
        result["instructions"] = instructions
    return result
