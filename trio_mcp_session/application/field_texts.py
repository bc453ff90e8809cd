"""Texts at the fields of classes: what their schemas say beside what msgspec writes.

msgspec reads the fields of msgspec structs, attrs classes, dataclasses, `TypedDict` and
`NamedTuple` itself, and of `Annotated` only its own `msgspec.Meta`. This module finds what else is
written there. What describes a field is for its schema, as with parameters. A constraint is
refused: no value would be checked for it.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, NoReturn, final, get_args, get_origin

import attrs
import msgspec

from .annotations import CONSTRAINTS, metas_of, translate

_INNER: Final = ("type", "item_type", "key_type", "value_type", "types", "item_types", "fields")
"""Where the descriptions of types that msgspec makes have those of other types."""

_QUALIFIERS: Final = (typing.Required, typing.NotRequired, typing.Final)


@final
@attrs.frozen
class FieldText:
    """What the schema of one field says beside what msgspec writes."""

    owner: Any
    """The class of the field, as msgspec knows it."""

    _name: str
    _place: int
    """The field's place, counted from the end: -1 is the last one."""

    annotation: Any
    """A type whose schema says it."""

    def put(self, told: Mapping[str, Any], definition: dict[str, Any]) -> None:
        """Put it into the schema of its class. Not a checkpoint.

        Args:
            told: The schema of `annotation`.
            definition: The schema of the class: an object, or an array with one item a field.
        """
        fields: Any = definition.get("properties")
        key: Any = self._name
        if fields is None:
            fields, key = definition["prefixItems"], self._place
        fields[key] = {**told, **{one: it for one, it in fields[key].items() if one not in told}}


def texts_in(annotation: Any) -> list[FieldText]:
    """Return the texts at the fields of all classes in a type. Not a checkpoint.

    Args:
        annotation: The type, translated by `translate`.

    Raises:
        TypeError: msgspec does not know the type, or something at a field cannot be kept.
        NameError: An annotation of a class names something that does not exist.
    """
    return [
        text
        for owner, fields in _classes_in(annotation).items()
        for text in _texts_of(owner, fields)
    ]


def _classes_in(annotation: Any) -> dict[Any, tuple[msgspec.inspect.Field, ...]]:
    """Return the classes with fields in a type, also within others, with their fields."""
    found: dict[Any, tuple[msgspec.inspect.Field, ...]] = {}
    waiting: list[Any] = [msgspec.inspect.type_info(annotation)]
    while waiting:
        node = waiting.pop()
        fields = getattr(node, "fields", None)
        if fields is not None:
            if node.cls in found:
                continue
            found[node.cls] = fields
        for name in _INNER:
            inner = getattr(node, name, ())
            waiting += inner if isinstance(inner, tuple) else (inner,)
    return found


def _texts_of(owner: Any, fields: tuple[msgspec.inspect.Field, ...]) -> Iterator[FieldText]:
    kind = get_origin(owner) or owner
    if hasattr(kind, "__pydantic_validator__"):
        raise TypeError(
            f"{kind.__name__} is a dataclass of pydantic, whose checks would be lost:"
            " use a BaseModel, or a dataclass of the standard library"
        )
    hints = typing.get_type_hints(kind, include_extras=True)
    for place, field in enumerate(fields, -len(fields)):
        hint = hints[field.name]
        while get_origin(hint) in _QUALIFIERS:
            (hint,) = get_args(hint)
        if any(_foreign_in(hint)):
            told = _told_by(hint, f"{kind.__name__}.{field.name}")
            yield FieldText(owner, field.encode_name, place, told)


def _told_by(hint: Any, where: str) -> Any:
    """Return a type whose schema says what msgspec does not read in the hint of a field."""
    for one in _foreign_in(hint):
        _check_describes(one, where)
    base, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if not any(_foreign_in(base)):
        # msgspec writes all but the texts, also where a type variable stands for another type.
        base = Any
        for one in metadata:
            for meta in metas_of(one):
                base = Annotated[base, _description_of(meta)]
        return base
    if getattr(hint, "__parameters__", ()):
        raise TypeError(
            f"the text within the type of {where}, which has a type variable, would be ignored:"
            " write msgspec.Meta(description=...)"
        )
    return translate(hint)


def _foreign_in(hint: Any) -> Iterator[object]:
    """Yield what is in `Annotated`, at any depth, and is not msgspec's."""
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        yield from (one for one in inner[1:] if not isinstance(one, msgspec.Meta))
        inner = inner[:1]
    for one in inner:
        yield from _foreign_in(one)


def _check_describes(metadata: object, where: str) -> None:
    """Refuse what does more than to describe a field."""
    try:
        metas = list(metas_of(metadata))
    except TypeError:
        _refuse(metadata, where)
    names = CONSTRAINTS.values()
    if any(getattr(meta, name) is not None for meta in metas for name in names):
        _refuse(metadata, where)


def _refuse(metadata: object, where: str) -> NoReturn:
    raise TypeError(f"{metadata!r} at {where} would be ignored: write msgspec.Meta(...)") from None


def _description_of(meta: msgspec.Meta) -> msgspec.Meta:
    return msgspec.Meta(
        title=meta.title,
        description=meta.description,
        examples=meta.examples,
        extra_json_schema=meta.extra_json_schema,
    )
