"""Forms of elicitation: a class of the application as the schema that the protocol allows.

The protocol allows a flat object of texts, numbers, truth values and choices (2025-06-18 and
later, *Elicitation*). What a class says beyond that, such as a pattern, is left out of the schema,
and checked when the answer has come.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, cast, final

import attrs
import msgspec

from ..core.errors import QuestionError, ToolError
from .conversion import convert, inline, schema_of

if TYPE_CHECKING:
    from ..protocol.revisions import Revision

T = TypeVar("T")
K = TypeVar("K")

_FORMATS: Final = {"email", "uri", "date", "date-time"}
_MEMBERS: Final = {
    "string": ("title", "description", "minLength", "maxLength", "default"),
    "number": ("title", "description", "minimum", "maximum", "default"),
    "integer": ("title", "description", "minimum", "maximum", "default"),
    "boolean": ("title", "description", "default"),
    "array": ("title", "description", "minItems", "maxItems", "default"),
}
"""The members of each type that the protocol knows."""


class FormInvalid(ToolError, QuestionError):
    """The user's answer does not fit the form.

    If a handler does not catch it, its text is the answer: of a tool as a result for the model, of
    another handler as a JSON-RPC error.
    """


@final
@attrs.frozen(eq=False, repr=False)
class Form(Generic[T]):
    """A form of `RequestContext.elicit`, whose answer becomes an object of a class.

    ::

        class Booking(msgspec.Struct):
            seats: Annotated[int, msgspec.Meta(ge=1, description="How many seats")]
            vegetarian: bool = False


        BOOKING = Form.of(Booking)  # refuses what forms cannot have, when the program starts

    `RequestContext.elicit` and `Elicitation` take the class itself, too.
    """

    kind: type[T]
    """The class: a msgspec struct, attrs class, dataclass, TypedDict or pydantic model."""

    _fields: Mapping[str, dict[str, Any]]
    _required: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Form of {self.kind.__name__}>"

    @staticmethod
    def of(kind: type[K]) -> Form[K]:
        """Make a form of a class. Not a checkpoint.

        The fields are texts, numbers, truth values, dates, choices among texts (``Literal`` or an
        ``enum.Enum``), and lists of such choices; or optional ones of these (``X | None``).

        Args:
            kind: A msgspec struct, attrs class, dataclass, TypedDict or pydantic model.

        Raises:
            TypeError: It is another type, or has a field that forms cannot have.
        """
        try:
            schema = inline(schema_of(kind))
        except ValueError as error:
            raise TypeError(f"a form must be flat: {error}") from error
        if schema.get("type") != "object":
            raise TypeError(f"a form must be a class with fields, not {kind!r}")
        fields = {name: _field(name, field) for name, field in schema.get("properties", {}).items()}
        return Form(kind, fields, tuple(schema.get("required", ())))

    def schema(self, revision: Revision) -> dict[str, Any]:
        """Return the ``requestedSchema``. Not a checkpoint.

        Several choices at once are a text with commas where the revision does not know them.
        """
        fields = self._fields
        if not revision.multiple_choice:
            fields = {name: _as_text(field) for name, field in fields.items()}
        schema: dict[str, Any] = {"type": "object", "properties": dict(fields)}
        if self._required:
            schema["required"] = list(self._required)
        return schema

    def read(self, content: Mapping[str, Any] | None) -> T:
        """Return the answer as an object of the class. Not a checkpoint.

        Raises:
            FormInvalid: The answer does not fit.
        """
        values = dict(content or {})
        for name, field in self._fields.items():
            value = values.get(name)
            if field["type"] == "array" and isinstance(value, str):
                values[name] = [one.strip() for one in value.split(",") if one.strip()]
        try:
            return cast("T", convert(values, self.kind, strict=False))
        except msgspec.ValidationError as error:
            raise FormInvalid(f"The user's answer does not fit the form: {error}") from error


def form_of(kind: type[T]) -> Form[T]:
    """Return the form of a class, which is made once. Not a checkpoint.

    Raises:
        TypeError: See `Form.of`.
    """
    return cast("Form[T]", _known(cast("Any", kind)))


@lru_cache(maxsize=256)
def _known(kind: type[object]) -> Form[object]:
    return Form.of(kind)


def _field(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a field with what the protocol knows.

    Raises:
        TypeError: It is not one that forms can have.
    """
    schema = _without_null(name, schema)
    kind = schema.get("type")
    if kind not in _MEMBERS or ("enum" in schema and kind != "string"):
        _refuse(name, schema)
    known = _MEMBERS[kind]
    field = {"type": kind} | {key: schema[key] for key in known if schema.get(key) is not None}
    if schema.get("format") in _FORMATS:
        field["format"] = schema["format"]
    if kind == "integer":
        # The protocol has no exclusive limits.
        if "exclusiveMinimum" in schema:
            field["minimum"] = schema["exclusiveMinimum"] + 1
        if "exclusiveMaximum" in schema:
            field["maximum"] = schema["exclusiveMaximum"] - 1
    elif kind == "array":
        items: dict[str, Any] = schema.get("items") or {}
        if items.get("type") != "string" or "enum" not in items:
            _refuse(name, schema)
        field["items"] = {"type": "string", "enum": items["enum"]}
    elif "enum" in schema:
        field["enum"] = schema["enum"]
    return field


def _without_null(name: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of ``X`` for one of ``X | None``, which is optional: forms have no null."""
    options = schema.get("anyOf")
    if options is None:
        return schema
    left = [one for one in options if one != {"type": "null"}]
    if len(left) != 1:
        _refuse(name, schema)
    return {**left[0], **{key: value for key, value in schema.items() if key != "anyOf"}}


def _as_text(field: dict[str, Any]) -> dict[str, Any]:
    if field["type"] != "array":
        return field
    choices = f"Any of {', '.join(field['items']['enum'])}, separated by commas"
    said = field.get("description")
    text: dict[str, Any] = {
        "type": "string",
        "description": choices if said is None else f"{said} ({choices})",
    }
    if "title" in field:
        text["title"] = field["title"]
    return text


def _refuse(name: str, schema: Mapping[str, Any]) -> NoReturn:
    raise TypeError(
        f"the field {name!r} of a form cannot be {dict(schema)!r}: forms have texts, numbers, truth"
        " values, and choices among texts"
    )
