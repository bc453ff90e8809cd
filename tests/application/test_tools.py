from __future__ import annotations

import enum
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
import msgspec
import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_mcp_session import (
    HandleKind,
    Icon,
    McpError,
    RequestContext,
    Router,
    ToolAnnotations,
    ToolError,
)
from trio_mcp_session.application.tools import Tool
from trio_mcp_session.protocol.revisions import HANDSHAKE_REVISIONS, STATELESS_REVISIONS

from .client import ERAS, B, C, D, M, connected

if TYPE_CHECKING:
    from collections.abc import Sequence as SeenByTypeCheckersOnly

Handler = Callable[..., Awaitable[object]]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(msgspec.Struct):
    street: str
    number: int = 1


@attrs.define
class Person:
    name: str
    address: Address
    friends: list[Person] = attrs.field(factory=list["Person"])


@dataclass
class Point:
    x: float
    y: float = 0.0


@attrs.frozen
class Total:
    total: int


class Unconvertible:
    pass


# The schema.


def schema_of(handler: Handler) -> Mapping[str, Any]:
    return Tool.of(handler).input_schema


def test_schema_without_arguments() -> None:
    async def tool(ctx: RequestContext) -> None: ...

    assert schema_of(tool) == {"type": "object", "properties": {}, "required": []}


def test_schema_of_plain_arguments() -> None:
    async def tool(
        ctx: RequestContext,
        a: int,
        b: str | None,
        c: Annotated[float, msgspec.Meta(ge=0, description="how much")],
        *,
        d: list[int] = [],  # noqa: B006  # msgspec copies it
        e: Literal["up", "down"] = "up",
        f: Color = Color.RED,
        g: bool | None = None,
        h: Any = None,
    ) -> None: ...

    schema = schema_of(tool)
    assert schema["required"] == ["a", "b", "c"]
    assert schema["properties"] == {
        "a": {"type": "integer"},
        "b": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "c": {"type": "number", "minimum": 0, "description": "how much"},
        "d": {"type": "array", "items": {"type": "integer"}, "default": []},
        "e": {"type": "string", "enum": ["down", "up"], "default": "up"},
        "f": {"$ref": "#/$defs/Color", "default": "red"},
        "g": {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": None},
        "h": {"default": None},
    }
    assert schema["$defs"] == {
        "Color": {"title": "Color", "type": "string", "enum": ["blue", "red"]}
    }


def test_schema_of_nested_classes_has_definitions() -> None:
    async def tool(ctx: RequestContext, person: Person, at: Point) -> None: ...

    schema = schema_of(tool)
    assert schema["type"] == "object"
    assert schema["properties"] == {
        "person": {"$ref": "#/$defs/Person"},
        "at": {"$ref": "#/$defs/Point"},
    }
    assert set(schema["$defs"]) == {"Person", "Address", "Point"}
    assert schema["$defs"]["Person"]["properties"]["address"] == {"$ref": "#/$defs/Address"}
    assert schema["$defs"]["Address"]["required"] == ["street"]


def test_class_with_the_name_of_the_arguments_struct() -> None:
    namesake = msgspec.defstruct("tool_arguments", [("a", int)], module=__name__)

    async def tool(ctx: RequestContext, nested: object) -> None: ...

    tool.__annotations__["nested"] = namesake
    schema = schema_of(tool)
    assert schema["properties"]["nested"]["$ref"].removeprefix("#/$defs/") in schema["$defs"]
    assert len(schema["$defs"]) == 1


def test_argument_names_that_are_keywords() -> None:
    async def tool(ctx: RequestContext, from_: str = msgspec.field(name="from")) -> None: ...

    schema = schema_of(tool)
    assert schema["properties"] == {"from": {"type": "string"}}
    assert schema["required"] == ["from"]


def test_annotation_for_type_checkers_only_raises_name_error() -> None:
    async def tool(ctx: RequestContext, a: int) -> SeenByTypeCheckersOnly[None] | None: ...

    assert set(schema_of(tool)["properties"]) == {"a"}

    async def hopeless(ctx: RequestContext, a: SeenByTypeCheckersOnly[int]) -> None: ...

    with pytest.raises(NameError, match="SeenByTypeCheckersOnly"):
        Tool.of(hopeless)


async def variable(ctx: RequestContext, *names: str) -> None: ...


async def variable_context(*everything: Any) -> None: ...


async def keywords(ctx: RequestContext, **names: str) -> None: ...


async def positional(ctx: RequestContext, name: str, /) -> None: ...


async def unconvertible(ctx: RequestContext, it: Unconvertible) -> None: ...


async def strange_default(ctx: RequestContext, it: Any = Unconvertible()) -> None:  # noqa: B008
    ...


@pytest.mark.parametrize(
    "handler, why",
    [
        (variable, r"by name, unlike \*names"),
        (variable_context, r"by name, unlike \*everything"),
        (keywords, r"by name, unlike \*\*names"),
        (positional, "the context must not be positional only"),
        (unconvertible, "Unconvertible"),
        (strange_default, "Unconvertible"),
    ],
)
def test_signature_that_is_not_of_a_tool_is_refused(handler: Handler, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        Tool.of(handler)


# The description.


async def documented(ctx: RequestContext) -> None:
    """Tell the time.

    In the place where the server is.
    """


def test_description_is_the_docstring_by_default() -> None:
    tool = Tool.of(documented)
    assert tool.name == "documented"
    assert tool.description == "Tell the time.\n\nIn the place where the server is."
    assert tool.title is None
    assert tool.annotations is None


def test_description_and_title_are_listed() -> None:
    tool = Tool.of(
        documented, name="time", title="Time", description="", annotations={"readOnlyHint": True}
    )
    assert (tool.name, tool.title, tool.description) == ("time", "Time", "")
    assert tool.annotations == {"readOnlyHint": True}


async def titled_typed(ctx: RequestContext) -> int:
    return 1  # pragma: no cover  # it is only listed


@pytest.mark.parametrize("version", ERAS)
async def test_typed_hints_icons_and_meta_are_listed_from_their_revision_on(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")
    router.tool(
        annotations=ToolAnnotations(read_only=True),
        icons=[Icon("https://example.com/icon.png")],
        meta={"example.com/a": 1},
    )(titled_typed)
    assert router.tools["titled_typed"].output_schema is not None
    async with connected(router, version) as client:
        (tool,) = (await client.request("tools/list"))["tools"]
    shown = {name: tool.get(name) for name in ("annotations", "_meta", "icons", "outputSchema")}
    hints = {"readOnlyHint": True} if version >= B else None
    icons = [{"src": "https://example.com/icon.png"}] if version >= D else None
    schema = router.tools["titled_typed"].output_schema if version >= C else None
    meta = {"example.com/a": 1} if version >= C else None
    assert shown == {"annotations": hints, "_meta": meta, "icons": icons, "outputSchema": schema}


def test_tool_without_description() -> None:
    assert Tool.of(no_arguments).description is None


async def no_arguments(ctx: RequestContext) -> None: ...


def test_function_without_a_name_needs_one() -> None:
    partial = functools.partial(no_arguments)
    with pytest.raises(TypeError, match="pass name= to the decorator"):
        Tool.of(partial)
    assert Tool.of(partial, name="partial").name == "partial"


# Calling.


async def test_arguments_are_converted(autojump_clock: MockClock) -> None:
    router = Router("test")
    seen: list[object] = []

    @router.tool()
    async def tool(
        ctx: RequestContext, person: Person, color: Color, context: str, *, ratio: float = 0.5
    ) -> None:
        seen[:] = [person, color, context, ratio]

    async with connected(router) as client:
        person = {"name": "Ada", "address": {"street": "Main"}}
        result = await client.call("tool", person=person, color="blue", context="c", extra=1)
        assert result == {"content": []}
        assert seen == [Person("Ada", Address("Main")), Color.BLUE, "c", 0.5]
        await client.call("tool", person=person, color="red", context="c", ratio=2)
        assert seen[1:] == [Color.RED, "c", 2.0]


async def test_default_list_is_copied_for_each_call(autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.tool()
    async def tool(ctx: RequestContext, found: list[int] = []) -> dict[str, Any]:  # noqa: B006
        found.append(1)
        return {"found": found}

    async with connected(router) as client:
        for _ in range(2):
            assert (await client.call("tool"))["structuredContent"] == {"found": [1]}


async def test_argument_named_as_a_keyword_is_passed(autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.tool()
    async def tool(ctx: RequestContext, from_: str = msgspec.field(name="from")) -> str:
        return from_

    async with connected(router) as client:
        result = await client.call("tool", **{"from": "here"})
        assert result["content"] == [{"type": "text", "text": "here"}]


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize("arguments", [{}, {"n": "one"}, {"n": 1.5}, {"n": None}, {"n": -1}])
async def test_arguments_that_do_not_fit_are_errors_for_the_model(
    version: str, arguments: dict[str, Any], autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool()
    async def tool(ctx: RequestContext, n: Annotated[int, msgspec.Meta(ge=0)]) -> None: ...

    async with connected(router, version) as client:
        result = await client.call("tool", **arguments)
        assert result["isError"] is True
        (content,) = result["content"]
        assert content["text"].startswith("Invalid arguments: n: ")


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"name": "other"},
        {"name": 5},
        {"name": None},
        {"name": ["tool"]},
        {"name": "tool", "arguments": []},
        {"name": "tool", "arguments": "n"},
    ],
)
async def test_call_without_a_known_tool_is_invalid_params(
    version: str, params: dict[str, Any], autojump_clock: MockClock
) -> None:
    router = Router("test")
    router.tool(name="tool")(no_arguments)
    async with connected(router, version) as client:
        error = await client.refused("tools/call", params)
        assert error["code"] == -32602
        if "arguments" in params:
            expected = "arguments must be an object"
        else:
            known = isinstance(params.get("name"), str)
            expected = "Unknown tool: 'other'" if known else "name must be a string"
        assert error["message"] == expected


async def test_call_without_arguments(autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.tool()
    async def tool(ctx: RequestContext, n: int = 7) -> str:
        return str(n)

    async with connected(router) as client:
        result = await client.request("tools/call", {"name": "tool"})
        assert result["content"] == [{"type": "text", "text": "7"}]


async def test_input_schema_replaces_the_signature(autojump_clock: MockClock) -> None:
    router = Router("test")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}

    @router.tool(input_schema=schema)
    async def tool(ctx: RequestContext, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"arguments": arguments}

    @router.tool(input_schema={})
    async def anything(ctx: RequestContext, arguments: dict[str, Any]) -> None:
        """Empty, and by hand all the same."""

    async with connected(router) as client:
        tools = (await client.request("tools/list"))["tools"]
        assert [tool["inputSchema"] for tool in tools] == [schema, {}]
        for arguments in ({}, {"n": "unchecked", "extra": [1]}):
            result = await client.call("tool", **arguments)
            assert result["structuredContent"] == {"arguments": arguments}
        assert await client.call("anything", a=1) == {"content": []}


def test_input_schema_needs_a_handler_with_one_dict() -> None:
    with pytest.raises(TypeError, match="the function takes one dict, beside the context"):
        Tool.of(no_arguments, input_schema={})


# What tools return.


class Text(str):
    __slots__ = ()


class Word(str, enum.Enum):  # noqa: UP042  # what users of older Pythons have
    YES = "yes"


class Unknown:
    pass


class AsArray(msgspec.Struct, array_like=True):
    a: int


BLOCKS = [{"type": "text", "text": "t"}]


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize(
    "returned, text, structured",
    [
        ("text", "text", None),
        (Text("two\nlines"), "two\nlines", None),
        (Word.YES, "yes", None),
        ({"a": 1}, '{"a":1}', {"a": 1}),
        ({}, "{}", {}),
        (MappingProxyType({"a": 1}), '{"a":1}', {"a": 1}),
        (Address("Main", 2), '{"street":"Main","number":2}', {"street": "Main", "number": 2}),
        (Total(3), '{"total":3}', {"total": 3}),
        (Point(1.0), '{"x":1.0,"y":0.0}', {"x": 1.0, "y": 0.0}),
        ({"content": "of a file"}, '{"content":"of a file"}', {"content": "of a file"}),
        ([1, 2], "[1,2]", None),
        (AsArray(1), "[1]", None),
        (7, "7", None),
        (True, "true", None),
    ],
)
async def test_result_of_each_return_type(
    version: str, returned: object, text: str, structured: object, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool()
    async def tool(ctx: RequestContext) -> object:
        return returned

    expected: dict[str, Any] = {"content": [{"type": "text", "text": text}]}
    if structured is not None and version >= C:
        expected["structuredContent"] = structured
    async with connected(router, version) as client:
        assert await client.call("tool") == expected


@pytest.mark.parametrize(
    "returned",
    [
        {"content": BLOCKS, "isError": True, "_meta": {"a": 1}},
        {"content": []},
        MappingProxyType({"content": BLOCKS}),
    ],
)
async def test_mapping_with_content_is_data_as_any_other(
    returned: Mapping[str, Any], autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool()
    async def tool(ctx: RequestContext) -> Mapping[str, Any]:
        return returned

    async with connected(router) as client:
        result = await client.call("tool")
        assert result["structuredContent"] == returned
        assert "isError" not in result


async def test_none_is_an_empty_result(autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.tool()
    async def tool(ctx: RequestContext) -> None:
        pass

    async with connected(router) as client:
        assert await client.call("tool") == {"content": []}


# Failing.


@pytest.mark.parametrize("version", ERAS)
async def test_tool_error_is_a_result_with_is_error(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")

    @router.tool()
    async def tool(ctx: RequestContext) -> None:
        raise ToolError("the door is locked")

    async with connected(router, version) as client:
        assert await client.call("tool") == {
            "content": [{"type": "text", "text": "the door is locked"}],
            "isError": True,
        }
        assert client.session.metrics.errors == 0


async def test_mcp_error_of_a_tool_is_an_error(autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.tool()
    async def tool(ctx: RequestContext) -> None:
        raise McpError(-5, "no", {"a": 1})

    async with connected(router) as client:
        error = await client.refused("tools/call", {"name": "tool"})
        assert error == {"code": -5, "message": "no", "data": {"a": 1}}


class Secret(Exception):
    """Holds what must stay secret."""


async def raises(ctx: RequestContext) -> None:
    raise Secret("password")


async def raises_validation_error(ctx: RequestContext) -> None:
    """The tool's own trouble with JSON is not about its arguments."""
    msgspec.convert({"a": "password"}, dict[str, int])


async def returns_what_is_no_json(ctx: RequestContext) -> object:
    return {"password": Unknown()}


@pytest.mark.parametrize("handler", [raises, raises_validation_error, returns_what_is_no_json])
async def test_crash_of_a_tool_is_an_error_for_the_model_without_details(
    handler: Handler, autojump_clock: MockClock
) -> None:
    router = Router("test")
    router.tool("tool")(handler)
    async with connected(router) as client:
        text = "The tool 'tool' failed with an internal error"
        expected = {"content": [{"type": "text", "text": text}], "isError": True}
        assert await client.call("tool") == expected
        assert await client.crash() is not None
        # The session does not care.
        assert (await client.refused("tools/call", {"name": "?"}))["message"] == "Unknown tool: '?'"


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


async def test_a_failure_whose_text_fails_is_an_internal_error(autojump_clock: MockClock) -> None:
    router = Router("test", show_errors=True)

    @router.tool()
    async def tool(ctx: RequestContext) -> None:
        raise Unspeakable

    async with connected(router) as client:
        error = await client.refused("tools/call", {"name": "tool"})
        assert error == {"code": -32603, "message": "Internal error"}
        await wait_all_tasks_blocked()
        assert len(client.errors) == 2
        client.errors.clear()


async def test_a_router_may_show_the_text_of_exceptions(autojump_clock: MockClock) -> None:
    router = Router("test", show_errors=True)
    router.tool("tool")(raises)
    async with connected(router) as client:
        (content,) = (await client.call("tool"))["content"]
        assert content["text"] == "The tool 'tool' failed: Secret: password"
        assert await client.crash() is not None


# Listing.


async def titled(ctx: RequestContext) -> None:
    """Do it."""


@pytest.mark.parametrize("version", ERAS)
async def test_tools_list_has_the_members_of_the_revision(
    version: str, autojump_clock: MockClock
) -> None:
    router = Router("test")
    router.tool(title="Title", annotations={"readOnlyHint": True})(titled)
    router.tool()(no_arguments)
    schema = {"type": "object", "properties": {}, "required": []}
    first: dict[str, Any] = {"name": "titled", "description": "Do it.", "inputSchema": schema}
    if version >= B:
        first["annotations"] = {"readOnlyHint": True}
    if version >= C:
        first["title"] = "Title"
    expected: dict[str, Any] = {"tools": [first, {"name": "no_arguments", "inputSchema": schema}]}
    if version == M:
        expected |= {"ttlMs": 0, "cacheScope": "private"}
    async with connected(router, version) as client:
        assert await client.request("tools/list") == expected


def test_all_revisions_are_tested() -> None:
    assert list(ERAS) == [*HANDSHAKE_REVISIONS, *STATELESS_REVISIONS]


# Headers that repeat arguments.

Region = Annotated[str, msgspec.Meta(extra_json_schema={"x-mcp-header": "Region"})]


def test_header_annotations_of_arguments() -> None:
    async def tool(
        ctx: RequestContext,
        region: Region,
        plain: str,
        count: Annotated[int, msgspec.Meta(ge=0, extra_json_schema={"x-mcp-header": "Count"})] = 1,
        sure: Annotated[bool, msgspec.Meta(extra_json_schema={"x-mcp-header": "a"})] = False,
    ) -> None: ...

    made = Tool.of(tool)
    assert made.header_parameters == {"Region": ("region",), "Count": ("count",), "a": ("sure",)}
    # Clients are told, too.
    properties = made.input_schema["properties"]
    assert properties["region"] == {"type": "string", "x-mcp-header": "Region"}
    assert properties["count"]["x-mcp-header"] == "Count"
    assert Tool.of(no_arguments).header_parameters == {}


def test_header_annotation_of_a_renamed_argument() -> None:
    async def tool(
        ctx: RequestContext,
        from_: Region = msgspec.field(name="from"),  # noqa: B008  # the default that msgspec reads
    ) -> None: ...

    assert Tool.of(tool).header_parameters == {"Region": ("from",)}


@asynccontextmanager
async def open_cart() -> AsyncIterator[None]:
    yield  # pragma: no cover  # not opened here


CARTS = HandleKind[None]("cart", open_cart)


def test_an_argument_with_a_kind_of_handles_is_repeated_in_a_header() -> None:
    async def tool(cart: Annotated[str, CARTS, "The cart."], count: int = 1) -> None: ...

    made = Tool.of(tool)
    assert made.header_parameters == {"Handle": ("cart",)}
    assert made.input_schema["properties"]["cart"] == {
        "type": "string",
        "description": "The cart.",
        "x-mcp-header": "Handle",
    }


def test_a_handle_that_may_be_missing_is_repeated_in_a_header() -> None:
    async def tool(cart: Annotated[str, CARTS] = "") -> None: ...

    assert Tool.of(tool).header_parameters == {"Handle": ("cart",)}


def test_of_several_handles_the_first_one_is_repeated_in_a_header() -> None:
    async def tool(
        count: int, source: Annotated[str, CARTS], target: Annotated[str, CARTS], last: str
    ) -> None: ...

    made = Tool.of(tool)
    assert made.header_parameters == {"Handle": ("source",)}
    assert made.input_schema["properties"]["target"] == {"type": "string"}


def test_a_handle_that_may_be_none_is_refused() -> None:
    async def tool(cart: Annotated[str | None, CARTS] = None) -> None: ...

    with pytest.raises(ValueError, match="x-mcp-header is for strings"):
        Tool.of(tool)


def test_header_annotations_of_an_input_schema() -> None:
    async def tool(ctx: RequestContext, arguments: dict[str, Any]) -> None: ...

    region = {"type": "string", "x-mcp-header": "Region"}
    schema = {"properties": {"where": {"properties": {"region": region}}}}
    assert Tool.of(tool, input_schema=schema).header_parameters == {"Region": ("where", "region")}


class Where(msgspec.Struct):
    region: Region


async def no_token(
    ctx: RequestContext,
    a: Annotated[str, msgspec.Meta(extra_json_schema={"x-mcp-header": "My Region"})],
) -> None: ...


async def twice(ctx: RequestContext, a: Region, b: Region) -> None: ...


async def a_float(
    ctx: RequestContext,
    a: Annotated[float, msgspec.Meta(extra_json_schema={"x-mcp-header": "A"})],
) -> None: ...


async def none_too(ctx: RequestContext, a: Region | None = None) -> None: ...


async def in_a_class(ctx: RequestContext, a: Where) -> None: ...


async def in_a_list(ctx: RequestContext, a: list[Region]) -> None: ...


@pytest.mark.parametrize(
    "handler, why",
    [
        (no_token, "must be the name of a header, not 'My Region'"),
        (twice, "names 'Region' twice"),
        (a_float, "is for strings, integers and booleans: 'A'"),
        (none_too, "is for properties of objects only"),
        # It is behind a reference.
        (in_a_class, "is for properties of objects only"),
        (in_a_list, "is for properties of objects only"),
    ],
)
def test_invalid_header_annotation_is_refused(handler: Handler, why: str) -> None:
    router = Router("test")
    with pytest.raises(ValueError, match=f"x-mcp-header {why}"):
        router.tool()(handler)
    assert not router.tools
    assert not router.handles_request("tools/call")


async def test_header_annotations_are_ignored_on_pipes(autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.tool()
    async def tool(ctx: RequestContext, region: Region) -> str:
        return region

    async with connected(router, M) as client:
        assert (await client.call("tool", region="a"))["content"][0]["text"] == "a"
