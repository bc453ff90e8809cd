"""``x-mcp-header``: the arguments of a tool that HTTP headers repeat (2026-07-28, *Tools*)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeGuard, cast

ANNOTATION: Final = "x-mcp-header"
HANDLE: Final = "Handle"
"""The name for the handle that a tool is called with: proxies find the node in the header."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PLAIN: Final = frozenset({"string", "integer", "boolean"})


def read_annotations(schema: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
    """Find and check the annotations of a tool's schema: clients drop tools with invalid ones.

    Returns:
        The path of each value in the arguments, by the name after ``Mcp-Param-``.

    Raises:
        ValueError: A name is not a token or occurs twice, its value is not a string, integer or
            boolean, or the annotation is not on a property of nested objects.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, place, annotated in _on_properties(schema, ()):
        if not isinstance(name, str) or _TOKEN.fullmatch(name) is None:
            raise ValueError(f"{ANNOTATION} must be the name of a header, not {name!r}")
        if any(name.lower() == other.lower() for other in found):
            raise ValueError(f"{ANNOTATION} names {name!r} twice")
        kind = annotated.get("type")
        if not isinstance(kind, str) or kind not in _PLAIN:
            raise ValueError(f"{ANNOTATION} is for strings, integers and booleans: {name!r}")
        found[name] = place
    if _count(schema) != len(found):
        raise ValueError(f"{ANNOTATION} is for properties of objects only")
    return found


def _on_properties(
    schema: Mapping[str, Any], place: tuple[str, ...]
) -> Iterator[tuple[Any, tuple[str, ...], Mapping[str, Any]]]:
    properties = schema.get("properties")
    for name, inner in properties.items() if _is_mapping(properties) else ():
        if _is_mapping(inner):
            if ANNOTATION in inner:
                yield inner[ANNOTATION], (*place, name), inner
            yield from _on_properties(inner, (*place, name))


def _count(value: Any) -> int:
    """Count annotations in all places, also where they are not allowed."""
    if _is_mapping(value):
        # If its value is a schema, it is a property of this name, not an annotation.
        here = ANNOTATION in value and not _is_mapping(value[ANNOTATION])
        return here + sum(map(_count, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_count, cast("Iterable[Any]", value)))
    return 0


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    # The schema may be any type of mapping: the application wrote it.
    return isinstance(value, Mapping)
