"""Types of arguments and results: their JSON schemas, and the conversion of values.

msgspec does all of it for the standard types, attrs classes, dataclasses, TypedDict and its own
structs. This module adds paths, texts at fields, and the types of pydantic (models, and types such
as ``EmailStr``).
pydantic is used only where a type of it occurs, and never imported otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Final, cast

import msgspec

from ..protocol.jsonrpc import is_object
from .field_texts import texts_in

REFERENCE: Final = "#/$defs/{name}"
_PREFIX: Final = "#/$defs/"


def convert(value: object, kind: Any, *, strict: bool = True) -> Any:
    """Return a decoded JSON value as a type. Not a checkpoint.

    Args:
        value: The value.
        kind: The type, translated by `translate`.
        strict: Whether ``"5"`` is refused for a number.

    Raises:
        msgspec.ValidationError: The value does not fit.
    """
    return msgspec.convert(value, kind, strict=strict, dec_hook=_decode)


def to_json(value: object) -> Any:
    """Return a value as JSON has it: dictionaries, lists, text, numbers. Not a checkpoint.

    Raises:
        TypeError: JSON cannot show it.
    """
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_encode)


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a type, with its definitions in ``$defs``. Not a checkpoint.

    A type that is a class with members is not a reference, so that its members are at the top.

    Raises:
        TypeError: JSON cannot be converted to the type, or a field of a class in it has a
            constraint that would be ignored.
    """
    texts = texts_in(kind)
    owners = list(dict.fromkeys(text.owner for text in texts))
    (schema, *others), definitions = msgspec.json.schema_components(
        [kind, *owners, *(text.annotation for text in texts)],
        schema_hook=_schema,
        ref_template=REFERENCE,
    )
    definitions = dict(definitions)
    names = {
        owner: reference["$ref"].removeprefix(_PREFIX)
        for owner, reference in zip(owners, others, strict=False)
    }
    for text, told in zip(texts, others[len(owners) :], strict=True):
        text.put(told, definitions[names[text.owner]])
    for name in list(definitions):
        definitions[name] = _lift(definitions[name], definitions)
    schema = _lift(schema, definitions)
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.removeprefix(_PREFIX)
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**definitions[name], **rest}
        if not _refers_to(name, [schema, *definitions.values()]):
            del definitions[name]
    return {**schema, "$defs": definitions} if definitions else schema


def inline(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without references, for clients that cannot follow them.

    Raises:
        ValueError: A definition contains itself.
    """
    definitions = schema.get("$defs", {})

    def replace(value: object, within: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [replace(one, within) for one in cast("list[object]", value)]
        if not is_object(value):
            return value
        reference = value.get("$ref")
        if not isinstance(reference, str):
            return {key: replace(one, within) for key, one in value.items() if key != "$defs"}
        name = reference.removeprefix(_PREFIX)
        if name in within:
            raise ValueError(f"the type {name} contains itself: its schema needs references")
        found = replace(definitions[name], (*within, name))
        beside = {key: one for key, one in value.items() if key != "$ref"}
        return {**found, **replace(beside, within)}

    result: dict[str, Any] = replace(dict(schema), ())
    return result


def allowed_values(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Any] | None:
    """Return the values that a schema lists; None if it lists none. Not a checkpoint."""
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return allowed_values(definitions[reference.removeprefix(_PREFIX)], definitions)
    values: list[Any] | None = schema.get("enum")
    return None if values is None else values[:]


def _decode(kind: type, value: object) -> Any:
    """Convert a value for msgspec to a type that it does not know."""
    if _is_path(kind):
        if not isinstance(value, str):
            raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
        return Path(value) if kind is Path else kind(value)
    # `schema_of` has refused all types that are not pydantic's.
    try:
        return _adapter(kind).validate_python(value)
    except ValueError as error:
        raise _all_of(error) from None


def _encode(value: object) -> object:
    """Convert a value of a type that msgspec does not know."""
    if isinstance(value, PurePath):
        return str(value)
    if is_of_pydantic(type(value)):
        kind: Any = type(value)
        return _adapter(kind).dump_python(value, mode="json", by_alias=True)
    members: Any = value  # The check narrows the type of the other name.
    if isinstance(value, Mapping):
        return dict(members)
    raise TypeError(f"cannot encode {type(value).__name__} as JSON")


def _schema(kind: type) -> dict[str, Any]:
    """Return the schema of a type that msgspec does not know."""
    if _is_path(kind):
        return {"type": "string", "format": "path"}
    if is_of_pydantic(kind):
        schema: dict[str, Any] = _adapter(kind).json_schema()
        return schema
    raise NotImplementedError


def is_of_pydantic(kind: type) -> bool:
    """Return whether pydantic validates values of this type."""
    return hasattr(kind, "__get_pydantic_core_schema__")


def _is_path(kind: type) -> bool:
    return issubclass(kind, PurePath)


@cache
def _adapter(kind: Any) -> Any:
    # The type is pydantic's, so pydantic is imported already.
    from pydantic import TypeAdapter  # noqa: PLC0415  # only where it is in use

    return TypeAdapter(kind)


def _all_of(error: ValueError) -> ValueError:
    """Return what pydantic found wrong, in one line."""
    found = [
        f"{one['msg']} at {'.'.join(map(str, one['loc']))!r}" if one["loc"] else one["msg"]
        for one in cast("Any", error).errors()
    ]
    return ValueError("; ".join(found))


def _is_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Return whether two definitions describe the same."""
    if "enum" in left and "enum" in right:
        # Their order has no meaning, and msgspec writes no type.
        return set(map(repr, left["enum"])) == set(map(repr, right["enum"]))
    return left == right


def _lift(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Move the definitions inside of a schema to the others; give each ``enum`` its type."""
    renamed: dict[str, str] = {}

    def lift(value: object) -> Any:
        if isinstance(value, list):
            return [lift(one) for one in cast("list[object]", value)]
        if not is_object(value):
            return value
        own = value.get("$defs")
        for name, definition in (own if is_object(own) else {}).items():
            definition = lift(definition)  # noqa: PLW2901  # with its type
            free = name
            while free in definitions and not _is_same(definitions[free], definition):
                free += "_"
            renamed[name] = free
            definitions.setdefault(free, definition)
        lifted = {key: lift(one) for key, one in value.items() if key != "$defs"}
        reference = lifted.get("$ref")
        if isinstance(reference, str):
            name = reference.removeprefix(_PREFIX)
            lifted["$ref"] = _PREFIX + renamed.get(name, name)
        if isinstance(lifted.get("enum"), list) and "type" not in lifted:
            lifted = {**_type_of(lifted["enum"]), **lifted}
        return lifted

    result: dict[str, Any] = lift(schema)
    return result


_TYPES: Final[Mapping[type, str]] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


def _type_of(values: Iterable[object]) -> dict[str, Any]:
    """Return the ``type`` of the values of an ``enum``."""
    found = list(dict.fromkeys(_TYPES[type(value)] for value in values))
    return {"type": found[0] if len(found) == 1 else found}


def _refers_to(name: str, schemas: Iterable[object]) -> bool:
    """Return whether one of some schemas refers to a definition."""
    for schema in schemas:
        inside: Iterable[object] = ()
        if is_object(schema):
            if schema.get("$ref") == _PREFIX + name:
                return True
            inside = schema.values()
        elif isinstance(schema, list):
            inside = cast("list[object]", schema)
        if _refers_to(name, inside):
            return True
    return False
