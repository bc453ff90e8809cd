"""Log levels of ``logging/setLevel`` and ``notifications/message`` (RFC 5424 severities)."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

LogLevel: TypeAlias = Literal[
    "debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"
]
"""A level's name, from the least to the most severe."""

SEVERITY: Final[dict[str, int]] = {level: rank for rank, level in enumerate(get_args(LogLevel))}
"""The rank of each level: 0 is the least severe."""
