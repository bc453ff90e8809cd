"""``server/discover`` (2026-07-28)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.identity import ServerInfo
from .envelope import SERVER_INFO
from .revisions import STATELESS_REVISIONS, Revision
from .server_description import describe_server


def discover_result(
    revision: Revision,
    server: ServerInfo,
    capabilities: Mapping[str, Any],
    instructions: str | None,
) -> dict[str, Any]:
    """Build the result of ``server/discover``, before `complete_result`."""
    result: dict[str, Any] = {
        "supportedVersions": list(STATELESS_REVISIONS),
        "capabilities": capabilities,
        "_meta": {SERVER_INFO: describe_server(server, revision)},
    }
    if instructions is not None:
        result["instructions"] = instructions
    return result
