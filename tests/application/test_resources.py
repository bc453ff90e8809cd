"""Resources and templates, as their clients see them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import attrs
import msgspec
import pytest
from trio.testing import wait_all_tasks_blocked

from trio_mcp_session import (
    Elicitation,
    InputRequired,
    McpError,
    RequestContext,
    Router,
)
from trio_mcp_session.application.content import ResourceContents
from trio_mcp_session.application.metadata import Annotations, Icon

from .client import ERAS, A, C, D, M, connected


@attrs.define
class Note:
    name: str


def notes() -> Router:
    router = Router("notes")

    @router.resource("notes://all", title="All", mime_type="text/markdown", size=3, meta={"a": 1})
    async def all_notes() -> str:
        """Every note."""
        return "all"

    @router.resource(
        "notes://{name}{?page}",
        annotations=Annotations(priority=1),
        icons=[Icon("https://x/i.png")],
        size=5,
    )
    def note(page: int = 1, *, name: str, ctx: RequestContext) -> Any:
        return {"name": name, "page": page, "method": ctx.method}

    return router


async def read(router: Router, uri: str, version: str = D) -> Any:
    async with connected(router, version=version) as client:
        result = await client.request("resources/read", {"uri": uri})
        return result["contents"]


@pytest.mark.parametrize("version", ERAS)
async def test_resources_and_templates_are_listed(version: str) -> None:
    async with connected(notes(), version=version) as client:
        assert client.greeting["capabilities"]["resources"] == {"listChanged": True}
        (resource,) = (await client.request("resources/list"))["resources"]
        (template,) = (await client.request("resources/templates/list"))["resourceTemplates"]
    described = {
        "uri": "notes://all",
        "name": "all_notes",
        "description": "Every note.",
        "mimeType": "text/markdown",
        "size": 3,
    }
    if version >= C:
        described |= {"title": "All", "_meta": {"a": 1}}
    assert resource == described
    described = {
        "uriTemplate": "notes://{name}{?page}",
        "name": "note",
        "annotations": {"priority": 1},
    }
    if version >= D:
        described["icons"] = [{"src": "https://x/i.png"}]
    assert template == described


@pytest.mark.parametrize("version", ERAS)
async def test_a_resource_is_read_by_its_uri(version: str) -> None:
    assert await read(notes(), "notes://all", version) == [
        {"uri": "notes://all", "mimeType": "text/markdown", "text": "all"}
    ]


async def test_a_template_is_read_with_its_variables_converted() -> None:
    assert await read(notes(), "notes://a%20b?page=2&x=1") == [
        {
            "uri": "notes://a%20b?page=2&x=1",
            "mimeType": "application/json",
            "text": '{"name":"a b","page":2,"method":"resources/read"}',
        }
    ]
    assert '"page":1' in (await read(notes(), "notes://a"))[0]["text"]


@pytest.mark.parametrize("version", ERAS)
async def test_a_resource_that_does_not_exist_is_refused_by_the_code_of_the_revision(
    version: str,
) -> None:
    async with connected(notes(), version=version) as client:
        error = await client.refused("resources/read", {"uri": "notes://a/b"})
    assert error == {
        "code": -32602 if version == M else -32002,
        "message": "Resource not found: 'notes://a/b'",
        "data": {"uri": "notes://a/b"},
    }


@pytest.mark.parametrize(
    "uri, message",
    [
        (None, "uri must be a string"),
        (5, "uri must be a string"),
        ("notes://a?page=x", "Invalid URI: page: Expected `int`, got `str`"),
    ],
)
async def test_a_uri_that_does_not_fit_is_refused(uri: Any, message: str) -> None:
    async with connected(notes()) as client:
        error = await client.refused("resources/read", {"uri": uri})
    assert error == {"code": -32602, "message": message}


@pytest.mark.parametrize(
    "value", ["..", "..%2Fetc", "a%2F..%2F..%2Fb", "%2Fetc", "C:%5Cx", "%5C%5Chost%5Cx", "a%00"]
)
async def test_a_value_that_leads_out_of_a_folder_is_not_found(value: str) -> None:
    router = Router("files")

    @router.resource("file://{+path}")
    async def file(path: str) -> Any: ...

    @router.resource("any://{/path*}", any_path=["path"])
    async def anything(path: list[str]) -> str:
        return "|".join(path)

    async with connected(router) as client:
        error = await client.refused("resources/read", {"uri": f"file://{value}"})
        result = await client.request("resources/read", {"uri": f"any:///{value}"})
    assert error["code"] == -32002
    assert result["contents"][0]["text"]


@pytest.mark.parametrize(
    "returned, contents",
    [
        ("a", [{"mimeType": "text/plain", "text": "a"}]),
        (b"a", [{"mimeType": "application/octet-stream", "blob": "YQ=="}]),
        ([1], [{"mimeType": "application/json", "text": "[1]"}]),
        ([], [{"mimeType": "application/json", "text": "[]"}]),
        (["a"], [{"mimeType": "application/json", "text": '["a"]'}]),
        (None, [{"mimeType": "application/json", "text": "null"}]),
        (Note("a"), [{"mimeType": "application/json", "text": '{"name":"a"}'}]),
        (
            ResourceContents("a", mime_type="text/html"),
            [{"mimeType": "text/html", "text": "a"}],
        ),
        (
            (ResourceContents("a", uri="x://y"), b"b"),
            [
                {"uri": "x://y", "text": "a"},
                {"mimeType": "application/octet-stream", "blob": "Yg=="},
            ],
        ),
    ],
)
async def test_what_a_function_returns_becomes_contents(
    returned: Any, contents: list[dict[str, Any]]
) -> None:
    router = Router("x")

    @router.resource("x://x")
    async def resource() -> Any:
        return returned

    assert await read(router, "x://x") == [{"uri": "x://x", **one} for one in contents]


async def test_the_media_type_of_the_resource_is_used() -> None:
    router = Router("x")

    @router.resource("x://x", mime_type="image/png")
    async def resource() -> bytes:
        return b"a"

    assert (await read(router, "x://x"))[0]["mimeType"] == "image/png"


async def test_a_resource_comes_before_a_template_and_the_first_template_before_others() -> None:
    router = Router("x")

    @router.resource("x://{name}")
    async def first(name: str) -> str:
        return f"first {name}"

    @router.resource("x://{other}", name="second")
    async def second(other: str) -> Any: ...

    @router.resource("x://exact")
    async def exact() -> str:
        return "exact"

    assert list(router.resources) == ["x://exact", "x://{name}", "x://{other}"]
    assert (await read(router, "x://exact"))[0]["text"] == "exact"
    assert (await read(router, "x://a"))[0]["text"] == "first a"
    router.remove_resource("x://exact")
    assert (await read(router, "x://exact"))[0]["text"] == "first exact"
    router.remove_resource("x://{name}")
    assert list(router.resources) == ["x://{other}"]
    with pytest.raises(KeyError):
        router.remove_resource("x://{name}")


async def test_lists_of_resources_come_in_pages() -> None:
    router = Router("x", page_size=1)
    for number in range(2):
        router.resource(f"x://{number}", name=str(number))(lambda: "x")
    async with connected(router) as client:
        first = await client.request("resources/list")
        second = await client.request("resources/list", {"cursor": first["nextCursor"]})
        assert [first["resources"][0]["name"], second["resources"][0]["name"]] == ["0", "1"]
        assert "nextCursor" not in second


async def test_an_error_of_a_resource_is_answered() -> None:
    router = Router("x")

    @router.resource("x://x")
    async def resource() -> str:
        raise McpError(-32000, "no")

    async with connected(router) as client:
        error = await client.refused("resources/read", {"uri": "x://x"})
    assert error == {"code": -32000, "message": "no"}


async def test_a_crash_names_the_resource() -> None:
    router = Router("x")

    @router.resource("x://{name}")
    async def resource(name: str) -> str:
        raise RuntimeError(name)

    async with connected(router) as client:
        error = await client.refused("resources/read", {"uri": "x://a"})
        await wait_all_tasks_blocked()
        (crash,) = client.errors
        client.errors.clear()
    assert error["code"] == -32603
    assert "resource 'x://{name}'" in str(crash)


async def test_a_resource_may_ask_by_returning_what_it_needs() -> None:
    router = Router("x")

    @router.resource("x://x")
    async def resource(ctx: RequestContext) -> Any:
        return InputRequired(Elicitation("Name?", {"type": "object"}, key="name"))

    async with connected(router, version=M, capabilities={"elicitation": {}}) as client:
        answer = await client.answer_to(await client.ask("resources/read", {"uri": "x://x"}))
    assert answer["result"]["resultType"] == "input_required"


def test_a_decorator_without_parentheses_is_refused() -> None:
    with pytest.raises(TypeError, match="call the decorator"):
        Router("x").resource(lambda: "x")  # type: ignore[arg-type]


def test_a_resource_that_is_registered_twice_is_refused() -> None:
    router = notes()
    with pytest.raises(ValueError, match="'notes://all' exists already"):
        router.resource("notes://all")(lambda: "x")


def test_a_method_with_a_handler_of_its_own_has_no_resources() -> None:
    router = Router("x")

    @router.request("resources/read")
    async def read_resource(ctx: RequestContext) -> Any: ...

    with pytest.raises(ValueError, match="resources/read has a handler of its own"):
        router.resource("x://x")(lambda: "x")


class Nameless:
    def __call__(self) -> Any: ...


def one(name: str) -> Any: ...


def two(name: str, page: int) -> Any: ...


@pytest.mark.parametrize(
    "uri, function, text",
    [
        ("x://x", one, "resource 'x://x' has no variable for the parameter 'name'"),
        ("x://{name}/{page}", one, "does not take the variable 'page'"),
        ("x://{name}{?page}", two, "the parameter 'page' needs a default"),
        ("x://x", Nameless(), "has no __name__: pass name="),
    ],
)
def test_a_function_that_does_not_take_the_variables_is_refused(
    uri: str, function: Any, text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        Router("x").resource(uri)(function)


def test_a_uri_that_is_not_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="has an opening brace without a closing one"):
        Router("x").resource("x://{name")(one)


def test_any_path_must_name_a_variable() -> None:
    with pytest.raises(ValueError, match="any_path= names 'path', which is not a variable"):
        Router("x").resource("x://{name}", any_path=["path"])(one)


async def test_a_variable_may_have_a_fixed_set_of_values() -> None:
    router = Router("x")

    @router.resource("x://{size}")
    async def resource(size: Annotated[Literal["s", "l"], msgspec.Meta(description="Size")]) -> str:
        return size

    assert (await read(router, "x://s"))[0]["text"] == "s"
    async with connected(router, version=A) as client:
        error = await client.refused("resources/read", {"uri": "x://m"})
    assert error["message"] == "Invalid URI: size: Invalid enum value 'm' (allowed: 'l', 's')"
