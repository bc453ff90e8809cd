"""``logging/setLevel``: read its parameters."""

from __future__ import annotations

from ..core.errors import McpError
from ..core.log_level import SEVERITY
from .error_codes import INVALID_PARAMS
from .jsonrpc import Params


def read_level(params: Params) -> int:
    """Return the severity that ``logging/setLevel`` asks for.

    Raises:
        McpError: -32602, the level does not exist.
    """
    level = params.get("level")
    if not isinstance(level, str) or level not in SEVERITY:
        raise McpError(INVALID_PARAMS, f"level must be one of {', '.join(SEVERITY)}")
    return SEVERITY[level]
