"""``x-mcp-header``: arguments of a tool that HTTP headers repeat (2026-07-28, *Tools*)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeGuard, cast

ANNOTATION: Final = "x-mcp-header"
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PLAIN: Final = frozenset({"string", "integer", "boolean"})


def read_annotations(schema: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
    """Find the annotations of a tool's schema, and check them: clients drop tools with bad ones.

    Returns:
        Where in the arguments each value is, by the name that follows ``Mcp-Param-``.

    Raises:
        ValueError: A name is no token or is there twice, or it is on what is no plain value, or
            on what is not reached by properties alone.
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
    """Count annotations wherever they are, also where they must not be."""
    if _is_mapping(value):
        # A schema there is that of a property with this name.
        here = ANNOTATION in value and not _is_mapping(value[ANNOTATION])
        return here + sum(map(_count, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_count, cast("Iterable[Any]", value)))
    return 0


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    # A schema that an application wrote itself may be of any kind that encodes to JSON.
    return isinstance(value, Mapping)
