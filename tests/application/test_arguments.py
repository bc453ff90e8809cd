"""Arguments: which types are accepted, what they convert, and what a wrong call is told."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import pathlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypedDict

import annotated_types
import attrs
import msgspec
import pydantic
import pytest
import trio
from pydantic import Field

from trio_mcp_session import RequestContext
from trio_mcp_session.application.arguments import Arguments, ArgumentsInvalid
from trio_mcp_session.application.conversion import (
    allowed_values,
    convert,
    inline,
    is_of_pydantic,
    schema_of,
    to_json,
)
from trio_mcp_session.application.signature import Signature

if TYPE_CHECKING:
    import trio_mcp_session
    from trio_mcp_session.core.identity import ClientInfo


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@attrs.define
class Line:
    start: Point
    end: Point


class Options(TypedDict, total=False):
    depth: int


class Struct(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=1)]


@dataclasses.dataclass
class Tree:
    name: str
    kids: list[Tree]
    twin: Tree | None = None


class Inner(pydantic.BaseModel):
    colour: Colour


class Another:
    class Point(pydantic.BaseModel):
        z: int


class Model(pydantic.BaseModel):
    size: int = Field(ge=1)
    inner: Inner | None = None


class Lazy(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        yield "a"

    def __len__(self) -> int:
        return 1


UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def signature_of(annotation: Any, default: Any = msgspec.NODEFAULT) -> Signature:
    """Return the signature of a function with one parameter."""

    def function(value: Any) -> None: ...

    function.__annotations__["value"] = annotation
    if default is not msgspec.NODEFAULT:
        function.__defaults__ = (default,)
    return Signature.of(function, "tool 'x'")


def arguments_of(annotation: Any, default: Any = msgspec.NODEFAULT, **options: Any) -> Arguments:
    return Arguments.of(signature_of(annotation, default), "tool 'x'", **options)


def schema_for(annotation: Any, default: Any = msgspec.NODEFAULT) -> Any:
    return arguments_of(annotation, default).schema["properties"]["value"]


ACCEPTED = [
    (int, {"type": "integer"}, 3, 3),
    (int, {"type": "integer"}, 3.0, 3),
    (float, {"type": "number"}, 3, 3.0),
    (bool, {"type": "boolean"}, True, True),
    (str, {"type": "string"}, "a", "a"),
    (bytes, {"type": "string", "contentEncoding": "base64"}, "YQ==", b"a"),
    (None, {"type": "null"}, None, None),
    (Any, {}, {"a": [1]}, {"a": [1]}),
    (list[int], {"type": "array", "items": {"type": "integer"}}, [1, 2.0], [1, 2]),
    (
        set[str],
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        ["a"],
        {"a"},
    ),
    (
        dict[str, int],
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"a": 1},
        {"a": 1},
    ),
    (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None, None),  # noqa: UP045
    (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1, 1),
    (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}, "b", "b"),
    (Literal["a", 1], {"type": ["integer", "string"], "enum": [1, "a"]}, 1, 1),
    (
        dt.datetime,
        {"type": "string"},
        "2026-01-02T03:04:05Z",
        dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    ),
    (dt.date, {"type": "string", "format": "date"}, "2026-01-02", dt.date(2026, 1, 2)),
    (uuid.UUID, {"type": "string", "format": "uuid"}, str(UUID), UUID),
    (decimal.Decimal, {"type": "string", "format": "decimal"}, "1.5", decimal.Decimal("1.5")),
    (pathlib.Path, {"type": "string", "format": "path"}, "/a", pathlib.Path("/a")),
    (
        pathlib.PurePosixPath,
        {"type": "string", "format": "path"},
        "/a",
        pathlib.PurePosixPath("/a"),
    ),
    (Annotated[int, "How many"], {"description": "How many", "type": "integer"}, 1, 1),
    (
        Annotated[int, msgspec.Meta(ge=1, description="How many")],
        {"description": "How many", "type": "integer", "minimum": 1},
        1,
        1,
    ),
    (
        Annotated[int, Field(ge=1, lt=5, title="T", description="D", examples=[2])],
        {
            "title": "T",
            "description": "D",
            "examples": [2],
            "type": "integer",
            "minimum": 1,
            "exclusiveMaximum": 5,
        },
        2,
        2,
    ),
    (
        Annotated[str, Field(pattern="^a", max_length=3, json_schema_extra={"x": 1})],
        {"type": "string", "maxLength": 3, "pattern": "^a", "x": 1},
        "ab",
        "ab",
    ),
    (
        list[Annotated[int, annotated_types.Interval(gt=0, le=9)]],
        {
            "type": "array",
            "items": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9},
        },
        [1],
        [1],
    ),
    (
        Annotated[list[int], annotated_types.Len(1, 2)],
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        [1],
        [1],
    ),
    (
        tuple[Annotated[int, annotated_types.MultipleOf(2)], ...],
        {"type": "array", "items": {"type": "integer", "multipleOf": 2}},
        [4],
        (4,),
    ),
    (
        Annotated[int, "x"] | None,
        {"anyOf": [{"description": "x", "type": "integer"}, {"type": "null"}]},
        4,
        4,
    ),
]


@pytest.mark.parametrize("annotation, schema, value, converted", ACCEPTED, ids=str)
def test_a_type_has_its_schema_and_converts_what_fits(
    annotation: Any, schema: Any, value: Any, converted: Any
) -> None:
    arguments = arguments_of(annotation, strict=True)
    assert arguments.schema["properties"]["value"] == schema
    assert arguments.schema["required"] == ["value"]
    result = arguments.check({"value": value})["value"]
    assert result == converted
    assert type(result) is type(converted)


@pytest.mark.parametrize(
    "kind, value, converted",
    [
        (Colour, "red", Colour.RED),
        (Level, 2, Level.HIGH),
        (Point, {"x": 1}, Point(1)),
        (Line, {"start": {"x": 1}, "end": {"x": 2, "y": 3}}, Line(Point(1), Point(2, 3))),
        (Options, {"depth": 1}, {"depth": 1}),
        (Struct, {"size": 1}, Struct(1)),
        (Tree, {"name": "a", "kids": [{"name": "b", "kids": []}]}, Tree("a", [Tree("b", [])])),
        (
            Model,
            {"size": 1, "inner": {"colour": "red"}},
            Model(size=1, inner=Inner(colour=Colour.RED)),
        ),
    ],
)
def test_classes_with_members_are_converted(kind: Any, value: Any, converted: Any) -> None:
    arguments = arguments_of(kind, strict=True)
    assert arguments.check({"value": value}) == {"value": converted}
    assert arguments_of(list[kind]).check({"value": [value]}) == {"value": [converted]}
    assert convert(to_json(converted), kind) == converted


def test_each_enum_has_its_type() -> None:
    assert arguments_of(Colour).schema["$defs"]["Colour"] == {
        "type": "string",
        "title": "Colour",
        "enum": ["blue", "red"],
    }
    assert arguments_of(Level).schema["$defs"]["Level"]["type"] == "integer"


def test_definitions_of_a_model_are_beside_the_others() -> None:
    class Both(msgspec.Struct):
        model: Model
        colour: Colour

    schema = schema_of(Both)
    assert schema["$defs"].keys() == {"Colour", "Inner"}
    assert schema["properties"]["model"]["properties"]["inner"]["anyOf"][0] == {
        "$ref": "#/$defs/Inner"
    }
    assert schema["$defs"]["Inner"]["properties"]["colour"] == {"$ref": "#/$defs/Colour"}


def test_two_definitions_of_one_name_are_both_kept() -> None:
    class Other(pydantic.BaseModel):
        point: list[Another.Point]

    both = msgspec.defstruct("Both", [("other", Other), ("point", Point)])
    schema = schema_of(both)
    assert schema["$defs"].keys() == {"Point", "Point_"}
    items = schema["properties"]["other"]["properties"]["point"]["items"]
    assert items == {"$ref": "#/$defs/Point_"}
    assert schema["$defs"]["Point_"]["properties"].keys() == {"z"}


def test_the_schema_of_a_class_that_contains_itself_keeps_its_definition() -> None:
    schema = schema_of(Tree)
    assert schema["properties"]["kids"]["items"] == {"$ref": "#/$defs/Tree"}
    assert schema["$defs"].keys() == {"Tree"}
    assert "$defs" not in schema_of(Point)


def test_references_can_be_replaced_by_what_they_refer_to() -> None:
    schema = arguments_of(list[Line], inline_references=True).schema
    assert "$ref" not in str(schema)
    assert "$defs" not in schema
    items = schema["properties"]["value"]["items"]
    assert items["properties"]["start"]["properties"].keys() == {"x", "y"}
    described = {"$ref": "#/$defs/a", "description": "D", "$defs": {"a": {"type": "string"}}}
    assert inline(described) == {"type": "string", "description": "D"}


def test_references_of_a_class_that_contains_itself_cannot_be_replaced() -> None:
    with pytest.raises(ValueError, match="Tree contains itself"):
        arguments_of(Tree, inline_references=True)


LENIENT = [
    (int, "5", 5),
    (float, "1.5", 1.5),
    (bool, "true", True),
    (int | None, "null", None),
    (list[int], "[1, 2]", [1, 2]),
    (Point, '{"x": 1}', Point(1)),
    (list[int], ["1"], [1]),
    (Point, {"x": 1.0}, Point(1)),
]


@pytest.mark.parametrize("annotation, value, converted", LENIENT)
def test_what_models_often_send_is_accepted_unless_strict(
    annotation: Any, value: Any, converted: Any
) -> None:
    assert arguments_of(annotation).check({"value": value}) == {"value": converted}
    if value != {"x": 1.0}:
        with pytest.raises(ArgumentsInvalid):
            arguments_of(annotation, strict=True).check({"value": value})


def test_null_for_an_argument_with_a_default_is_the_default() -> None:
    assert arguments_of(int, 7).check({"value": None}) == {"value": 7}
    with pytest.raises(ArgumentsInvalid, match="value: Expected `int`, got `null`"):
        arguments_of(int, 7, strict=True).check({"value": None})


def test_text_stays_text_where_text_fits() -> None:
    assert arguments_of(str).check({"value": "[1]"}) == {"value": "[1]"}
    assert arguments_of(str | list[int]).check({"value": "[1]"}) == {"value": "[1]"}


@pytest.mark.parametrize(
    "annotation, value, text",
    [
        (int, "five", "value: Expected `int`, got `str`"),
        (int, 1.5, "value: Expected `int`, got `float`"),
        (list[int], "[1,", "value: Expected `array`, got `str`"),
        (list[int], ["a"], "value[0]: Expected `int`, got `str`"),
        (Point, {"x": "a"}, "value.x: Expected `int`, got `str`"),
        (Point, {}, "value: Object missing required field `x`"),
        (Colour, "green", "value: Invalid enum value 'green' (allowed: 'blue', 'red')"),
        (Literal["a", "b"], "c", "value: Invalid enum value 'c' (allowed: 'a', 'b')"),
        (pathlib.Path, 5, "value: Expected `str`, got `int`"),
        (Struct, {"size": 0}, "value.size: Expected `int` >= 1"),
        (
            Model,
            {"size": 0, "inner": 1},
            (
                "value: Input should be greater than or equal to 1 at 'size'; "
                "Input should be a valid dictionary or instance of Inner at 'inner'"
            ),
        ),
        (Inner, 5, "value: Input should be a valid dictionary or instance of Inner"),
        (list[int], "[" * 100_000, "value: Expected `array`, got `str`"),
        (list[int], "[" + " " * 2**20 + "]", "value: Expected `array`, got `str`"),
    ],
)
def test_a_wrong_argument_is_told_with_its_place(annotation: Any, value: Any, text: str) -> None:
    with pytest.raises(ArgumentsInvalid) as caught:
        arguments_of(annotation).check({"value": value})
    assert str(caught.value) == text


def test_all_that_is_wrong_is_told_at_once() -> None:
    def function(a: int, b: int, c: Colour, d: int = 4) -> None: ...

    arguments = Arguments.of(Signature.of(function, "tool 'x'"), "tool 'x'")
    with pytest.raises(ArgumentsInvalid) as caught:
        arguments.check({"a": "x", "c": "pink"})
    assert str(caught.value) == (
        "a: Expected `int`, got `str`; b: missing; "
        "c: Invalid enum value 'pink' (allowed: 'blue', 'red')"
    )


def test_arguments_that_no_parameter_takes_are_ignored() -> None:
    assert arguments_of(int).check({"value": 1, "other": 2}) == {"value": 1}


def test_defaults_are_in_the_schema_and_are_not_shared() -> None:
    assert schema_for(int, 7) == {"type": "integer", "default": 7}
    assert schema_for(Annotated[int, Field(ge=1)], Field(2, description="D")) == {
        "type": "integer",
        "minimum": 1,
        "description": "D",
        "default": 2,
    }
    arguments = arguments_of(list[int], [1])
    first = arguments.check({})["value"]
    first.append(2)
    assert arguments.check({}) == {"value": [1]}


def test_a_field_without_a_default_makes_a_parameter_that_is_required() -> None:
    arguments = arguments_of(int, Field(ge=1))
    assert arguments.schema["required"] == ["value"]
    assert arguments.check({"value": 1}) == {"value": 1}


@pytest.mark.parametrize(
    "annotation, text",
    [
        (Annotated[int, Field(strict=True)], "the constraint strict=True cannot be kept"),
        (Annotated[float, Field(allow_inf_nan=False)], "allow_inf_nan=False cannot be kept"),
        (Annotated[int, Field(alias="v")], "alias= of Field is not supported"),
        (Annotated[int, Field(json_schema_extra=print)], "must be a dict"),
        (Annotated[int, object()], "in Annotated is not known"),
        (Annotated[int, annotated_types.Interval()], "Interval(gt=None, ge=None"),
        (Annotated[int, Field(pattern="a")], "Can only set `pattern` on a str type"),
        (complex, "JSON cannot be converted to <class 'complex'>"),
        (list[complex], "JSON cannot be converted to"),
        (Callable[[int], str], "JSON cannot be converted to"),
    ],
)
def test_a_type_that_cannot_be_kept_is_refused_with_tool_parameter_and_reason(
    annotation: Any, text: str
) -> None:
    with pytest.raises(TypeError) as caught:
        arguments_of(annotation)
    assert text in str(caught.value)
    assert "tool 'x', parameter 'value'" in str(caught.value)


def test_a_default_that_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError, match="Encoding objects of type object is unsupported"):
        arguments_of(int, object())


def test_a_default_factory_is_refused() -> None:
    with pytest.raises(TypeError, match="default_factory= of Field is not supported"):
        arguments_of(list[int], Field(default_factory=list))


def test_documentation_of_a_type_describes_it() -> None:
    @dataclasses.dataclass(frozen=True)
    class Doc:
        documentation: str

    assert schema_for(Annotated[int, Doc("D")]) == {"type": "integer", "description": "D"}


def test_values_of_other_types_become_json() -> None:
    path = pathlib.PurePosixPath("/a")
    assert to_json([path, Model(size=1), {1: Colour.RED}]) == [
        "/a",
        {"size": 1, "inner": None},
        {"1": "red"},
    ]
    assert len(Lazy()) == 1
    assert to_json(Lazy()) == {"a": 1}
    with pytest.raises(TypeError, match="cannot encode object as JSON"):
        to_json(object())
    assert not is_of_pydantic(int)


def test_allowed_values_are_found_behind_a_reference() -> None:
    assert allowed_values({"$ref": "#/$defs/a"}, {"a": {"enum": [1]}}) == [1]
    assert allowed_values({"type": "string"}, {}) is None


# Signatures.


async def plain(a: int) -> int:
    return a + 1


async def with_context(a: int, ctx: RequestContext) -> Any:
    return a, ctx


async def with_dotted_context(ctx: trio_mcp_session.RequestContext, a: int) -> Any:
    return a, ctx


def in_thread(a: int) -> Any:
    return a, trio.lowlevel.in_trio_run()


class Adder:
    async def __call__(self, a: int) -> int:
        return a + 1

    async def method(self, a: int) -> int:
        return a + 1

    def plain_method(self, a: int) -> int:
        return a + 1


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


CONTEXT: Any = object()


@pytest.mark.parametrize(
    "function, result",
    [
        (plain, 2),
        (with_context, (1, CONTEXT)),
        (with_dotted_context, (1, CONTEXT)),
        (in_thread, (1, False)),
        (Adder(), 2),
        (Adder().method, 2),
        (Adder().plain_method, 2),
        (functools.partial(plain), 2),
        pytest.param(wrapped(plain), 2, id="wrapped plain"),
        (wrapped(in_thread), (1, False)),
    ],
)
async def test_a_function_is_called_with_its_arguments_and_the_context(
    function: Any, result: Any
) -> None:
    signature = Signature.of(function, "tool 'x'")
    names = [one.name for one in signature.parameters]
    assert await signature.call(CONTEXT, dict.fromkeys(names, 1)) == result


async def test_a_function_that_returns_a_coroutine_by_mistake_is_an_error() -> None:
    signature = Signature.of(lambda: plain(1), "tool 'x'")
    with pytest.raises(TypeError, match="appears to be asynchronous"):
        await signature.call(CONTEXT, {})


async def test_threads_are_limited_and_can_be_abandoned() -> None:
    limiter = trio.CapacityLimiter(1)
    signature = Signature.of(in_thread, "tool 'x'", limiter=limiter, abandon_on_cancel=True)
    async with limiter:
        with trio.move_on_after(0) as scope:
            await signature.call(CONTEXT, {"a": 1})
    assert scope.cancelled_caught
    assert await signature.call(CONTEXT, {"a": 1}) == (1, False)


def test_the_return_annotation_is_read_if_it_can_be() -> None:
    assert Signature.of(plain, "x").returns is int

    async def hidden() -> ClientInfo: ...  # type: ignore[empty-body]

    assert Signature.of(hidden, "x").returns is Signature.of(lambda: 1, "x").returns


def untyped(a, b: int) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


def positional(a: int, /) -> None: ...
def variadic(*a: int) -> None: ...
def keywords(**a: int) -> None: ...
def two_contexts(a: RequestContext, b: RequestContext) -> None: ...
def positional_context(a: RequestContext, /) -> None: ...


@pytest.mark.parametrize(
    "function, text",
    [
        (Lazy().__iter__, "tool 'x' is a generator: return the result instead of yielding it"),
        (untyped, "tool 'x', parameter 'a', has no type: annotate it, with Any if every value"),
        (positional, "its arguments are passed by name, unlike a: 'int'"),
        (variadic, r"its arguments are passed by name, unlike \*a: 'int'"),
        (keywords, r"its arguments are passed by name, unlike \*\*a: 'int'"),
        (two_contexts, "tool 'x' takes the context twice: a, b"),
        (positional_context, "the context must not be positional only"),
    ],
)
def test_a_function_that_cannot_be_called_by_name_is_refused(function: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Signature.of(function, "tool 'x'")


async def test_an_asynchronous_generator_is_refused() -> None:
    async def ticks() -> AsyncIterator[int]:  # noqa: ASYNC900
        yield 1

    assert [tick async for tick in ticks()] == [1]
    with pytest.raises(TypeError, match="tool 'x' is a generator"):
        Signature.of(ticks, "tool 'x'")


def test_an_argument_whose_type_is_imported_for_type_checkers_only_is_refused() -> None:
    async def function(a: ClientInfo) -> None: ...

    with pytest.raises(NameError, match="ClientInfo"):
        Signature.of(function, "tool 'x'")
