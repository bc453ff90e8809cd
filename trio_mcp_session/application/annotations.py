"""Annotations of users' functions, in the form that msgspec understands.

msgspec converts and checks values, and makes JSON schemas. It reads constraints and descriptions
only from its own `msgspec.Meta`. This module translates what else is written into `Annotated`: a
text as the description, pydantic's ``Field``, and the constraints of annotated-types. What cannot
be translated is refused: it would be ignored otherwise.

msgspec reads the fields of classes itself, so what is written there cannot be translated for it.
What only describes a field is for the schema: `field_texts.py` finds it. Constraints are refused.

pydantic is never imported here. Its objects are recognised by their class.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

import msgspec

from ..core.handle_kind import HandleKind
from ..protocol.header_annotations import ANNOTATION, HANDLE

CONSTRAINTS: Final = {
    "gt": "gt",
    "ge": "ge",
    "lt": "lt",
    "le": "le",
    "multiple_of": "multiple_of",
    "min_length": "min_length",
    "max_length": "max_length",
    "min_inclusive": "min_length",
    "pattern": "pattern",
}
"""The names of constraints elsewhere, and in `msgspec.Meta`."""

_HINTS: Final = "write msgspec.Meta(...), or check the value in the function"


def translate(annotation: Any) -> Any:
    """Return an annotation with all that is in `Annotated` as `msgspec.Meta`. Not a checkpoint.

    Its classes stay as they are.

    Raises:
        TypeError: Something in it cannot be kept.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *metadata = get_args(annotation)
        base = translate(base)
        for one in metadata:
            for meta in metas_of(one):
                base = Annotated[base, meta]
        return base
    inner = get_args(annotation)
    if origin is None or origin is typing.Literal or not inner:
        return annotation
    translated = tuple(map(_translate_argument, inner))
    if translated == inner:
        return annotation
    if origin in (Union, types.UnionType):
        return Union[translated]  # noqa: UP007  # the types are known at run time only
    return origin[translated]


def merge_default(annotation: Any, default: object) -> tuple[Any, object]:
    """Take apart a parameter whose default is pydantic's ``Field(...)``. Not a checkpoint.

    Returns:
        The annotation with the field's constraints, and the field's own default;
        `msgspec.NODEFAULT` if it has none.
    """
    if not is_field(default):
        return annotation, default
    field: Any = default
    if field.default_factory is not None:
        raise TypeError("default_factory= of Field is not supported: use a default")
    own = msgspec.NODEFAULT if field.is_required() else field.default
    return Annotated[annotation, default], own


def _translate_argument(argument: Any) -> Any:
    if isinstance(argument, list):  # The parameters of a Callable.
        return cast("Any", argument)
    return argument if argument is Ellipsis else translate(argument)


def metas_of(metadata: object) -> Iterator[msgspec.Meta]:
    """Yield what one piece of metadata says, as msgspec names it. Not a checkpoint.

    Raises:
        TypeError: It cannot be kept.
    """
    if isinstance(metadata, msgspec.Meta):
        yield metadata
    elif isinstance(metadata, str):
        yield msgspec.Meta(description=metadata)
    elif isinstance(documentation := getattr(metadata, "documentation", None), str):
        yield msgspec.Meta(description=documentation)  # ``typing.Doc``
    elif is_field(metadata):
        yield from _metas_of_field(metadata)
    elif isinstance(metadata, HandleKind):
        yield msgspec.Meta(extra_json_schema={ANNOTATION: HANDLE})
    else:
        yield _constraints(metadata)


def is_field(value: object) -> bool:
    """Return whether a value is pydantic's ``Field(...)``. Not a checkpoint."""
    kind = type(value)
    return kind.__name__ == "FieldInfo" and kind.__module__.startswith("pydantic.")


def _metas_of_field(field: Any) -> Iterator[msgspec.Meta]:
    """Yield what pydantic's ``Field`` says."""
    if field.alias is not None or field.validation_alias is not None:
        raise TypeError("alias= of Field is not supported: name the parameter as clients do")
    extra: Any = field.json_schema_extra
    if not isinstance(extra, (Mapping, type(None))):
        raise TypeError("json_schema_extra= of Field must be a dict")
    described: dict[str, Any] = {
        "title": field.title,
        "description": field.description,
        "examples": field.examples,
        "extra_json_schema": cast("Any", extra),
    }
    present = {name: value for name, value in described.items() if value is not None}
    if present:
        yield msgspec.Meta(**present)
    for one in field.metadata:
        yield from metas_of(one)


def _constraints(metadata: object) -> msgspec.Meta:
    """Return the constraints of annotated-types, or of pydantic's general metadata."""
    kind = type(metadata)
    known = kind.__module__.startswith(("annotated_types", "pydantic."))
    members = _members(metadata) if known else {}
    kept: dict[str, Any] = {}
    for name, value in members.items():
        if value is None:
            continue
        if name not in CONSTRAINTS:
            raise TypeError(f"the constraint {name}={value!r} cannot be kept: {_HINTS}")
        kept[CONSTRAINTS[name]] = value
    if not kept:
        raise TypeError(f"{metadata!r} in Annotated is not known: {_HINTS}")
    return msgspec.Meta(**kept)


def _members(metadata: object) -> dict[str, Any]:
    fields = getattr(metadata, "__dataclass_fields__", None)
    if fields is not None:
        return {name: getattr(metadata, name) for name in fields}
    return dict(vars(metadata))
