"""Log levels of ``logging/setLevel`` and ``notifications/message`` (RFC 5424 severities)."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from ..core.errors import McpError
from .error_codes import INVALID_PARAMS
from .jsonrpc import Params

LogLevel: TypeAlias = Literal[
    "debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"
]
"""A level's name, from the least to the most severe."""

SEVERITY: Final[dict[str, int]] = {level: rank for rank, level in enumerate(get_args(LogLevel))}
"""The rank of each level: 0 is the least severe."""


def read_level(params: Params) -> int:
    """Return the severity that ``logging/setLevel`` asks for.

    Raises:
        McpError: -32602, the level does not exist.
    """
    level = params.get("level")
    if not isinstance(level, str) or level not in SEVERITY:
        raise McpError(INVALID_PARAMS, f"level must be one of {', '.join(SEVERITY)}")
    return SEVERITY[level]
