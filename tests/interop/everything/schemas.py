"""JSON schemas without what different libraries write differently, and no client reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

OMITTED: Final = {
    "title": "pydantic repeats the names of parameters and classes",
    "additionalProperties": "FastMCP says that there are none; unknown arguments are another topic",
    "x-fastmcp-wrap-result": "for FastMCP's own client",
}
"""Members of schemas that are not compared, and why."""


def plain(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a schema without members that say nothing to the model."""
    if schema is None:
        return None
    left = {name: value for name, value in schema.items() if name not in OMITTED}
    if "properties" in left:
        left["properties"] = {name: plain(one) for name, one in left["properties"].items()}
    if left.get("required") == []:
        del left["required"]
    return left
