"""Texts at the fields of classes: they describe the fields, as they describe parameters."""

import dataclasses
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    NamedTuple,
    NotRequired,
    Optional,
    Required,
    TypedDict,
    TypeVar,
)

import annotated_types
import attrs
import msgspec
import pydantic
import pytest
from pydantic import Field

from trio_mcp_session import Router
from trio_mcp_session.application.conversion import convert, schema_of
from trio_mcp_session.application.field_texts import texts_in
from trio_mcp_session.application.forms import Form
from trio_mcp_session.application.output import Output
from trio_mcp_session.protocol.revisions import V2025_11_25, V2026_07_28

T = TypeVar("T")
TEXT = {"description": "D", "type": "string"}


class Struct(msgspec.Struct):
    name: Annotated[str, "D"]


@attrs.define
class Attrs:
    name: Annotated[str, "D"]


@dataclasses.dataclass
class Data:
    name: Annotated[str, "D"]


class Typed(TypedDict):
    name: Annotated[str, "D"]


class Partial(TypedDict, total=False):
    name: NotRequired[Annotated[str, "D"]]


class Needed(TypedDict, total=False):
    name: Required[Annotated[str, "D"]]


@dataclasses.dataclass
class Finished:
    name: Final[Annotated[str, "D"]]


KINDS = [Struct, Attrs, Data, Typed, Partial, Needed, Finished]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_describes_the_field_of_a_class_of_each_kind(kind: type) -> None:
    schema = schema_of(kind)
    assert schema["properties"] == {"name": TEXT}
    # Where it is within another type, too.
    nested = schema_of(dict[str, list[kind] | None])  # type: ignore[valid-type]
    assert nested["$defs"][kind.__name__] == schema
    value = convert({"name": "a"}, kind)
    assert msgspec.to_builtins(value) == {"name": "a"}


class Inner(msgspec.Struct, rename="camel"):
    the_name: Annotated[str, "D"] = "x"


class Outer(msgspec.Struct):
    inner: Annotated[Inner, "I"]
    plain: int
    kids: "list[Outer]"
    names: list[Annotated[str, "D"]] = []
    other: Optional[Annotated[str, "D"]] = None  # noqa: UP045  # both spellings
    another: Annotated[str, "D"] | None = None


def test_texts_describe_fields_at_any_depth_and_leave_the_rest() -> None:
    schema = schema_of(Outer)
    definitions = schema["$defs"]
    assert definitions["Outer"]["properties"] == schema["properties"]
    assert definitions["Inner"]["properties"] == {"theName": {**TEXT, "default": "x"}}
    optional = {"anyOf": [TEXT, {"type": "null"}], "default": None}
    assert schema["properties"] == {
        "inner": {"description": "I", "$ref": "#/$defs/Inner"},
        "plain": {"type": "integer"},
        "kids": {"type": "array", "items": {"$ref": "#/$defs/Outer"}},
        "names": {"type": "array", "items": TEXT, "default": []},
        "other": optional,
        "another": optional,
    }


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[str, "D"],
        Annotated[str, msgspec.Meta(description="M", min_length=1), "D"],
        Annotated[str, "D", msgspec.Meta(description="M", max_length=9)],
        Annotated[str, Field(description="D", title="T", examples=["a"])],
        Annotated[str, Field(json_schema_extra={"x-a": 1})],
        Annotated[list[Annotated[str, "D"]], "L"],
        Annotated[str | None, "D"],
        Annotated[Struct, "D"],
    ],
    ids=repr,
)
def test_a_field_has_the_schema_that_a_parameter_has(annotation: Any) -> None:
    router = Router("x")

    async def work(value: Any, holder: Any) -> None: ...

    kind = dataclasses.make_dataclass("Holder", [("value", annotation)])
    work.__annotations__ |= {"value": annotation, "holder": kind}
    router.tool()(work)
    schema = router.tools["work"].input_schema
    assert schema["$defs"]["Holder"]["properties"]["value"] == schema["properties"]["value"]


class Pair(NamedTuple):
    first: Annotated[str, "D"]
    second: int = 2


class Row(msgspec.Struct, array_like=True, tag=True):
    first: int
    second: Annotated[str, "D"] = "x"


def test_texts_describe_the_items_of_classes_that_are_arrays() -> None:
    assert schema_of(Pair)["prefixItems"] == [TEXT, {"type": "integer", "default": 2}]
    tag, first, second = schema_of(Row)["prefixItems"]
    assert (tag["enum"], first) == (["Row"], {"type": "integer"})
    assert second == {**TEXT, "default": "x"}


class Box(msgspec.Struct, Generic[T]):
    one: Annotated[T, "D"]
    box: "Box[T] | None" = None


def test_a_text_describes_a_field_whose_type_is_a_variable() -> None:
    described = {"description": "D", "type": "integer"}
    schema = schema_of(Box[int])
    assert schema["properties"]["one"] == described
    assert schema["$defs"]["Box_int_"]["properties"]["one"] == described
    assert schema_of(Box[str])["properties"]["one"] == TEXT


class Boxes(msgspec.Struct, Generic[T]):
    many: list[Annotated[T, "D"]]


class Limited(msgspec.Struct):
    size: Annotated[int, annotated_types.Ge(1)]


class Unknown(msgspec.Struct):
    size: Annotated[int, 5]


class Within(msgspec.Struct):
    sizes: list[Annotated[int, Field(ge=1, description="D")]]


@pydantic.dataclasses.dataclass
class OfPydantic:
    size: int


@pytest.mark.parametrize(
    "kind, text",
    [
        (
            Boxes[int],
            r"within the type of Boxes\.many, which has a type variable, would be ignored",
        ),
        (Limited, r"^Ge\(ge=1\) at Limited\.size would be ignored: write msgspec\.Meta\(\.\.\.\)"),
        (Unknown, r"^5 at Unknown\.size would be ignored: write msgspec\.Meta"),
        (Within, r"at Within\.sizes would be ignored: write msgspec\.Meta"),
        (OfPydantic, "OfPydantic is a dataclass of pydantic, whose checks would be lost"),
    ],
)
def test_what_would_be_ignored_at_a_field_is_refused_wherever_the_class_is(
    kind: Any, text: str
) -> None:
    for annotation in (kind, list[kind], dict[str, tuple[kind, ...]]):
        with pytest.raises(TypeError, match=text):
            schema_of(annotation)

    async def work(value: Any) -> None: ...

    work.__annotations__["value"] = list[kind]
    with pytest.raises(TypeError, match=r"^tool 'work', parameter 'value': ") as caught:
        Router("x").tool()(work)
    assert "would be" in str(caught.value)
    with pytest.raises(TypeError, match=text):
        Form.of(kind)


def test_types_without_texts_are_left_to_msgspec() -> None:
    class Plain(msgspec.Struct):
        value: Annotated[int, msgspec.Meta(ge=1, description="M")]

    assert texts_in(dict[str, list[Plain] | int]) == []
    assert schema_of(Plain)["properties"]["value"]["minimum"] == 1


def test_a_class_whose_annotations_cannot_be_read_is_an_error_that_names_what_is_missing() -> None:
    unreadable = dataclasses.make_dataclass("Unreadable", [("value", "Missing")])
    with pytest.raises(NameError, match="Missing"):
        schema_of(unreadable)


def test_texts_describe_structured_content() -> None:
    output = Output.of(Data, "tool 'x'")
    assert output.schema == schema_of(Data)
    assert output.write(Data("a"), V2026_07_28)["structuredContent"] == {"name": "a"}
    wrapped = Output.of(list[Struct], "tool 'x'").schema
    assert wrapped is not None
    assert wrapped["$defs"]["Struct"]["properties"] == {"name": TEXT}
    inlined = Output.of(list[Struct], "tool 'x'", inline_references=True).schema
    assert inlined is not None
    assert inlined["properties"]["result"]["items"]["properties"] == {"name": TEXT}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_describe_the_fields_of_a_form(kind: type) -> None:
    form: Form[Any] = Form.of(kind)
    assert form.schema(V2025_11_25)["properties"] == {
        "name": {"type": "string", "description": "D"}
    }
    assert form.read({"name": "a"}) == convert({"name": "a"}, kind)


def test_a_text_describes_an_optional_field_of_a_form() -> None:
    class Booking(msgspec.Struct):
        note: Annotated[str, "D"] | None = None
        table: Annotated[str | None, "T"] = None

    assert Form.of(Booking).schema(V2025_11_25)["properties"] == {
        "note": {"type": "string", "description": "D"},
        "table": {"type": "string", "description": "T"},
    }
