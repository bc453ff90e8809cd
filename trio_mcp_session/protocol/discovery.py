"""``server/discover`` (2026-07-28)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .revisions import STATELESS_REVISIONS


def discover_result(capabilities: Mapping[str, Any], instructions: str | None) -> dict[str, Any]:
    """Build the result of ``server/discover``, before `complete_result`."""
    result: dict[str, Any] = {
        "supportedVersions": list(STATELESS_REVISIONS),
        "capabilities": capabilities,
    }
    if instructions is not None:
        result["instructions"] = instructions
    return result
