"""Arguments: their schema, and the check of what a client sent.

A call that fits takes one pass of msgspec. Only a call that does not is looked at again: models
often send ``"5"`` for a number, a list as JSON text, or null for an argument that has a default.
All that is wrong is told at once, so that the model can mend it in one step.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast, final

import attrs
import msgspec

from ..protocol.header_annotations import ANNOTATION, HANDLE
from ..protocol.jsonrpc import is_object
from .conversion import allowed_values, convert, inline, schema_of, to_json
from .signature import Parameter, Signature

_TEXT_LIMIT: Final = 2**20
"""Characters of a JSON text in an argument that is decoded: more is passed on as text."""


_COPIED: Final = frozenset((list, dict, set, bytearray))
"""Types of defaults that each call gets a copy of."""

_PLACE: Final = re.compile(r"(.*) - at `\$(.*)`", re.DOTALL)
"""What msgspec says, and the path in the value."""


class ArgumentsInvalid(Exception):
    """The arguments do not fit. Its text says all that is wrong."""


@final
@attrs.frozen(kw_only=True, eq=False)
class Arguments:
    """The arguments of one function."""

    schema: Mapping[str, Any]
    """The JSON schema of all of them: an object."""

    _parameters: tuple[Parameter, ...] = attrs.field(alias="parameters")
    _kind: type[msgspec.Struct] = attrs.field(alias="kind")
    _fields: tuple[msgspec.structs.FieldInfo, ...] = attrs.field(alias="fields")
    _strict: bool = attrs.field(alias="strict")

    @classmethod
    def of(
        cls,
        signature: Signature,
        name: str,
        *,
        strict: bool = False,
        inline_references: bool = False,
    ) -> Arguments:
        """Make the arguments of a function.

        Args:
            signature: The function's signature.
            name: The name of the function, for error messages.
            strict: Whether only values of the exact types fit.
            inline_references: Whether the schema must have no ``$ref``.

        Raises:
            TypeError: JSON cannot be converted to the type of a parameter.
        """
        kind = msgspec.defstruct("arguments", list(map(_field, signature.parameters)), kw_only=True)
        try:
            schema = schema_of(kind)
        except TypeError:
            for one in signature.parameters:
                _check_type(one, name)
            raise
        schema.pop("title", None)
        for one in signature.parameters:
            if type(one.default) in _COPIED:  # msgspec shows only those that it does not copy.
                schema["properties"][one.name]["default"] = to_json(one.default)
        _mirror_one_handle(schema.get("properties", {}).values())
        return cls(
            schema=inline(schema) if inline_references else schema,
            parameters=signature.parameters,
            kind=kind,
            fields=msgspec.structs.fields(kind),
            strict=strict,
        )

    def check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments as the function takes them. Not a checkpoint.

        Raises:
            ArgumentsInvalid: They do not fit.
        """
        try:
            checked = convert(arguments, self._kind)
        except msgspec.ValidationError:
            return self._look_again(arguments)
        return msgspec.structs.asdict(checked)

    def _look_again(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Check each argument by itself, and more leniently."""
        checked: dict[str, Any] = {}
        wrong: list[str] = []
        for parameter, field in zip(self._parameters, self._fields, strict=True):
            name = field.encode_name
            has_default = not field.required
            if name in arguments:
                value = arguments[name]
                if value is None and has_default and not self._strict:
                    continue
                try:
                    checked[parameter.name] = self._convert(value, parameter.annotation)
                except msgspec.ValidationError as error:
                    wrong.append(_explain(name, error, self._allowed(name)))
            elif not has_default:
                wrong.append(f"{name}: missing")
        if wrong:
            raise ArgumentsInvalid("; ".join(wrong))
        return msgspec.structs.asdict(self._kind(**checked))

    def _convert(self, value: object, annotation: Any) -> Any:
        whole = _with_whole_numbers(value)  # JSON does not tell 3.0 from 3.
        try:
            return convert(whole, annotation)
        except msgspec.ValidationError:
            if self._strict:
                raise
        try:
            return convert(whole, annotation, strict=False)
        except msgspec.ValidationError:
            decoded = _decode_text(value)
            if decoded is None:
                raise
            return convert(decoded, annotation, strict=False)

    def _allowed(self, name: str) -> list[Any] | None:
        return allowed_values(self.schema["properties"][name], self.schema.get("$defs", {}))


def _check_type(parameter: Parameter, name: str) -> None:
    """Refuse a parameter whose type has no schema."""
    try:
        schema_of(parameter.annotation)
    except TypeError as error:
        raise TypeError(
            f"{name}, parameter {parameter.name!r}: JSON cannot be converted to"
            f" {parameter.annotation!r}: use another type, or input_schema="
        ) from error


def _mirror_one_handle(properties: Iterable[dict[str, Any]]) -> None:
    """Leave one handle for the header: it names the process that can serve the call."""
    handles = [one for one in properties if one.get(ANNOTATION) == HANDLE]
    for other in handles[1:]:
        del other[ANNOTATION]


def _field(parameter: Parameter) -> Any:
    """Return a parameter as `msgspec.defstruct` takes it."""
    default = parameter.default
    if default is msgspec.NODEFAULT:
        return (parameter.name, parameter.annotation)
    if type(default) in _COPIED:
        default = msgspec.field(default_factory=functools.partial(copy.deepcopy, default))
    return (parameter.name, parameter.annotation, default)


def _explain(name: str, error: msgspec.ValidationError, allowed: list[Any] | None) -> str:
    """Return what msgspec found wrong, and where, with the values that would be right."""
    match = _PLACE.fullmatch(str(error))
    text, path = (str(error), "") if match is None else match.groups()
    if allowed is not None:
        text += f" (allowed: {', '.join(map(repr, allowed))})"
    return f"{name}{path}: {text}"


def _decode_text(value: object) -> object:
    """Return the array or object in a text; None if there is none."""
    if not isinstance(value, str) or len(value) > _TEXT_LIMIT or value[:1] not in ("[", "{"):
        return None
    try:
        return cast("object", msgspec.json.decode(value))
    except (msgspec.DecodeError, RecursionError):
        return None


def _with_whole_numbers(value: object) -> object:
    """Return a decoded JSON value with each 3.0 as 3."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_with_whole_numbers(one) for one in cast("list[object]", value)]
    if is_object(value):
        return {name: _with_whole_numbers(one) for name, one in value.items()}
    return value
