"""Results of tools: what a return annotation promises, and what a return value becomes."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, TypedDict

import attrs
import pydantic
import pytest

from trio_mcp_session import InputRequired
from trio_mcp_session.application.content import ImageContent, TextContent, ToolResult
from trio_mcp_session.application.output import Output, OutputInvalid
from trio_mcp_session.protocol.revisions import V2025_03_26, V2025_11_25, V2026_07_28

EMPTY = inspect.Signature.empty
IMAGE = ImageContent(b"x", "image/png")
WRITTEN = {"type": "image", "data": "eA==", "mimeType": "image/png"}


@attrs.define
class Point:
    x: int
    y: int = 0


class Options(TypedDict):
    depth: int


class Model(pydantic.BaseModel):
    size: int


def output(returns: Any, **options: Any) -> Output:
    return Output.of(returns, "tool 'x'", **options)


def write(returns: Any, returned: object, **options: Any) -> dict[str, Any]:
    return output(returns, **options).write(returned, V2025_11_25)


def text(value: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": value}]


@pytest.mark.parametrize(
    "returns, returned, data, shown",
    [
        (str, "a", {"result": "a"}, "a"),
        (int, 5, {"result": 5}, "5"),
        (bool, True, {"result": True}, "true"),
        (list[int], [1, 2], {"result": [1, 2]}, "[1,2]"),
        (int | None, None, {"result": None}, "null"),
        (Point, Point(1), {"x": 1, "y": 0}, '{"x":1,"y":0}'),
        (Options, {"depth": 1}, {"depth": 1}, '{"depth":1}'),
        (Model, Model(size=1), {"size": 1}, '{"size":1}'),
        (list[Model], [Model(size=1)], {"result": [{"size": 1}]}, '[{"size":1}]'),
        (dict[str, int], {"a": 1}, {"a": 1}, '{"a":1}'),
        (dict[str, Any], {"content": []}, {"content": []}, '{"content":[]}'),
        (Point | InputRequired, Point(1), {"x": 1, "y": 0}, '{"x":1,"y":0}'),
        (Annotated[int, "How many"], 5, {"result": 5}, "5"),
    ],
)
def test_a_value_is_text_and_structured_content(
    returns: Any, returned: object, data: object, shown: str
) -> None:
    assert write(returns, returned) == {"content": text(shown), "structuredContent": data}
    assert output(returns).write(returned, V2025_03_26) == {"content": text(shown)}


def test_the_schema_describes_the_structured_content() -> None:
    assert output(Model).schema == {
        "properties": {"size": {"title": "Size", "type": "integer"}},
        "required": ["size"],
        "title": "Model",
        "type": "object",
    }
    assert output(list[Point]).schema == {
        "type": "object",
        "properties": {"result": {"type": "array", "items": {"$ref": "#/$defs/Point"}}},
        "required": ["result"],
        "$defs": {
            "Point": {
                "title": "Point",
                "type": "object",
                "properties": {
                    "x": {"type": "integer"},
                    "y": {"type": "integer", "default": 0},
                },
                "required": ["x"],
            }
        },
    }
    assert "$ref" not in str(output(list[Point], inline_references=True).schema)


@pytest.mark.parametrize(
    "returns",
    [
        EMPTY,
        Any,
        None,
        object,
        TextContent,
        ToolResult,
        InputRequired,
        ToolResult | InputRequired,
        list[TextContent | str],
        str | ImageContent,
        complex,
    ],
    ids=str,
)
def test_a_return_annotation_without_data_has_no_schema(returns: Any) -> None:
    assert output(returns).schema is None


@pytest.mark.parametrize(
    "returned, result",
    [
        (None, {"content": []}),
        ("a", {"content": text("a")}),
        ([1, "a"], {"content": text('[1,"a"]')}),
        ({"a": 1}, {"content": text('{"a":1}'), "structuredContent": {"a": 1}}),
        (IMAGE, {"content": [WRITTEN]}),
        (["see", IMAGE], {"content": [*text("see"), WRITTEN]}),
        ((IMAGE,), {"content": [WRITTEN]}),
        (ToolResult(["a"], is_error=True), {"content": text("a"), "isError": True}),
        ({"content": text("a")}, None),
    ],
)
def test_a_value_without_an_annotation_is_sent_as_what_it_is(
    returned: object, result: dict[str, Any] | None
) -> None:
    written = write(EMPTY, returned)
    if result is None:  # A mapping with a key ``content`` is data, not a result.
        assert written["structuredContent"] == returned
        assert written["content"][0]["type"] == "text"
    else:
        assert written == result


def test_structured_content_can_be_turned_off_or_demanded() -> None:
    assert write(str, "a", structured=False) == {"content": text("a")}
    with pytest.raises(TypeError, match="tool 'x' needs a return annotation"):
        output(EMPTY, structured=True)
    with pytest.raises(TypeError, match="tool 'x': the return annotation has no JSON schema"):
        output(complex, structured=True)


@pytest.mark.parametrize(
    "returns, returned",
    [(int, "a"), (str, 5), (Point, {"x": "a"}), (list[int], None), (Model, {"size": 1.5})],
)
def test_a_value_that_does_not_fit_its_annotation_is_not_sent(
    returns: Any, returned: object
) -> None:
    with pytest.raises(OutputInvalid, match="does not fit its annotation"):
        write(returns, returned)


def test_a_whole_result_is_checked_like_a_value() -> None:
    own = ToolResult(["a"], structured_content=Point(1))
    data = {"x": 1, "y": 0}
    assert write(Point | ToolResult, own) == {"content": text("a"), "structuredContent": data}
    assert write(int | ToolResult, ToolResult(structured_content=5))["structuredContent"] == {
        "result": 5
    }
    assert write(Point | ToolResult, ToolResult(["a"])) == {"content": text("a")}
    with pytest.raises(OutputInvalid):
        write(Point | ToolResult, ToolResult(structured_content={"x": "a"}))


def test_what_does_not_encode_to_json_is_an_error() -> None:
    with pytest.raises(TypeError, match="cannot encode object as JSON"):
        write(EMPTY, object())


def test_a_subclass_of_text_is_sent_as_text() -> None:
    class Name(str):
        __slots__ = ()

    result = output(str).write(Name("a"), V2026_07_28)
    assert type(result["content"][0]["text"]) is str
