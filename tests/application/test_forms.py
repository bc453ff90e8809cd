"""Forms: the schema that the protocol allows, and the answer as an object."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from typing import Annotated, Any, Literal, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from trio_mcp_session import ToolError
from trio_mcp_session.application.forms import Form, FormInvalid
from trio_mcp_session.protocol.revisions import V2025_06_18, V2025_11_25


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Person(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1, description="The whole name", pattern="^[A-Z]")]
    age: Annotated[int, msgspec.Meta(ge=0, lt=150)]
    score: Annotated[float, msgspec.Meta(gt=0)] = 0.5
    born: dt.date | None = None
    subscribed: bool = False
    colour: Colour = Colour.RED
    size: Literal["s", "l"] | None = None
    colours: Annotated[list[Colour], msgspec.Meta(max_length=2, description="Likes")] = []


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "The whole name", "minLength": 1},
        "age": {"type": "integer", "minimum": 0, "maximum": 149},
        "score": {"type": "number", "default": 0.5},
        "born": {"type": "string", "format": "date"},
        "subscribed": {"type": "boolean", "default": False},
        "colour": {"type": "string", "title": "Colour", "enum": ["blue", "red"], "default": "red"},
        "size": {"type": "string", "enum": ["l", "s"]},
        "colours": {
            "type": "array",
            "description": "Likes",
            "maxItems": 2,
            "default": [],
            "items": {"type": "string", "enum": ["blue", "red"]},
        },
    },
    "required": ["name", "age"],
}


def test_a_form_has_what_the_protocol_allows() -> None:
    assert Form.of(Person).schema(V2025_11_25) == SCHEMA


def test_several_choices_are_a_text_where_the_revision_does_not_know_them() -> None:
    class Untold(TypedDict):
        titled: Annotated[list[Literal["a", "b"]], msgspec.Meta(title="T")]

    told = Form.of(Person).schema(V2025_06_18)["properties"]["colours"]
    text = "Likes (Any of blue, red, separated by commas)"
    assert told == {"type": "string", "description": text}
    assert Form.of(Untold).schema(V2025_06_18)["properties"]["titled"] == {
        "type": "string",
        "title": "T",
        "description": "Any of a, b, separated by commas",
    }
    answer = Form.of(Person).read({"name": "A", "age": 1, "colours": "red, blue,"})
    assert answer.colours == [Colour.RED, Colour.BLUE]


def test_exclusive_limits_of_whole_numbers_are_moved_by_one() -> None:
    class Limited(TypedDict):
        value: Annotated[int, msgspec.Meta(gt=0, le=9)]

    field = Form.of(Limited).schema(V2025_11_25)["properties"]["value"]
    assert field == {"type": "integer", "minimum": 1, "maximum": 9}


@dataclasses.dataclass
class DataClass:
    name: str


@attrs.define
class Attrs:
    name: str


class Dictionary(TypedDict):
    name: str


class Model(pydantic.BaseModel):
    name: str


@pytest.mark.parametrize(
    "kind, answer",
    [
        (DataClass, DataClass("A")),
        (Attrs, Attrs("A")),
        (Dictionary, {"name": "A"}),
        (Model, Model(name="A")),
    ],
)
def test_an_answer_becomes_an_object_of_the_class(kind: Any, answer: object) -> None:
    form = Form.of(kind)
    assert form.schema(V2025_11_25)["properties"]["name"]["type"] == "string"
    assert form.read({"name": "A"}) == answer


def test_an_empty_form_is_a_confirmation() -> None:
    class Nothing(TypedDict):
        pass

    assert Form.of(Nothing).schema(V2025_11_25) == {"type": "object", "properties": {}}
    assert Form.of(Nothing).read(None) == {}


@pytest.mark.parametrize(
    "content, text",
    [
        (None, "missing required field `name`"),
        ({"name": "a", "age": 1}, "Expected `str` matching regex"),
        ({"name": "A", "age": 150}, "Expected `int` <= 149"),
        ({"name": "A", "age": 1, "colours": "pink"}, "Invalid enum value 'pink'"),
    ],
)
def test_an_answer_that_does_not_fit_is_an_error_for_the_model(
    content: dict[str, Any] | None, text: str
) -> None:
    with pytest.raises(FormInvalid, match=text) as caught:
        Form.of(Person).read(content)
    assert isinstance(caught.value, ToolError)


class Nested(TypedDict):
    value: Dictionary


class Several(TypedDict):
    value: int | str


class Texts(TypedDict):
    value: list[str]


class Numbers(TypedDict):
    value: list[Level]


class Whole(TypedDict):
    value: Level


class Anything(TypedDict):
    value: Any


@pytest.mark.parametrize("kind", [Nested, Several, Texts, Numbers, Whole, Anything])
def test_a_field_that_forms_cannot_have_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="the field 'value' of a form cannot be"):
        Form.of(kind)


@dataclasses.dataclass
class Tree:
    kids: list[Tree]


def test_a_form_must_be_flat_and_have_fields() -> None:
    with pytest.raises(TypeError, match="a form must be flat"):
        Form.of(Tree)
    with pytest.raises(TypeError, match="a form must be a class with fields, not <class 'int'>"):
        Form.of(int)
