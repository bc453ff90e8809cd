"""Prompts, as their clients see them."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from msgspec import Meta
from trio.testing import wait_all_tasks_blocked

from trio_mcp_session import Elicitation, InputRequired, McpError, RequestContext, Router
from trio_mcp_session.application.content import ImageContent, TextContent
from trio_mcp_session.application.metadata import Icon
from trio_mcp_session.application.prompts import Prompt, PromptMessage, PromptResult
from trio_mcp_session.protocol.revisions import V2025_03_26, V2025_11_25

from .client import ERAS, C, D, M, connected


def reviews() -> Router:
    router = Router("reviews")

    @router.prompt(title="Review", icons=[Icon("https://x/i.png")], meta={"a": 1})
    def review(
        code: Annotated[str, "The code"],
        ctx: RequestContext,
        lines: Annotated[int, "How many"] = 5,
    ) -> str:
        """Review some code."""
        return f"{ctx.method}: {code}, {lines}"

    @router.prompt()
    async def greet() -> list[Any]:
        return ["Hello", PromptMessage("Hi", "assistant"), ImageContent(b"x", "image/png")]

    return router


async def get(router: Router, name: str, arguments: Any = None, version: str = D) -> Any:
    async with connected(router, version=version) as client:
        params = {"name": name} if arguments is None else {"name": name, "arguments": arguments}
        return await client.request("prompts/get", params)


def message(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": {"type": "text", "text": text}}


@pytest.mark.parametrize("version", ERAS)
async def test_prompts_are_listed_with_their_arguments(version: str) -> None:
    async with connected(reviews(), version=version) as client:
        assert client.greeting["capabilities"]["prompts"] == {"listChanged": True}
        first, second = (await client.request("prompts/list"))["prompts"]
    described: dict[str, Any] = {
        "name": "review",
        "description": "Review some code.",
        "arguments": [
            {"name": "code", "description": "The code", "required": True},
            {"name": "lines", "description": "How many"},
        ],
    }
    if version >= C:
        described |= {"title": "Review", "_meta": {"a": 1}}
    if version >= D:
        described["icons"] = [{"src": "https://x/i.png"}]
    assert first == described
    assert second == {"name": "greet"}


@pytest.mark.parametrize("version", ERAS)
async def test_a_prompt_gets_its_arguments_converted_from_texts(version: str) -> None:
    result = await get(reviews(), "review", {"code": "x=1", "lines": "7"}, version)
    assert result == {
        "description": "Review some code.",
        "messages": [message("prompts/get: x=1, 7")],
    }


async def test_a_prompt_may_have_messages_of_several_roles_and_kinds() -> None:
    image = {"type": "image", "data": "eA==", "mimeType": "image/png"}
    assert await get(reviews(), "greet") == {
        "messages": [
            message("Hello"),
            message("Hi", "assistant"),
            {"role": "user", "content": image},
        ]
    }


@pytest.mark.parametrize(
    "returned, result",
    [
        ("a", {"messages": [message("a")]}),
        (TextContent("a"), {"messages": [message("a")]}),
        (PromptMessage("a", "assistant"), {"messages": [message("a", "assistant")]}),
        (("a", "b"), {"messages": [message("a"), message("b")]}),
        ([], {"messages": []}),
        ({"a": 1}, {"messages": [message('{"a":1}')]}),
        ([1], {"messages": [message("[1]")]}),
        (
            PromptResult(["a"], description="D", meta={"b": 2}),
            {"messages": [message("a")], "description": "D", "_meta": {"b": 2}},
        ),
    ],
)
async def test_what_a_function_returns_becomes_messages(
    returned: Any, result: dict[str, Any]
) -> None:
    router = Router("x")

    @router.prompt()
    async def prompt() -> Any:
        return returned

    assert await get(router, "prompt") == result


@pytest.mark.parametrize(
    "params, text",
    [
        ({}, "name must be a string"),
        ({"name": "other"}, "Unknown prompt: 'other'"),
        ({"name": "review", "arguments": []}, "arguments must be an object"),
        ({"name": "review"}, "Invalid arguments: code: missing"),
        ({"name": "review", "arguments": None}, "Invalid arguments: code: missing"),
        (
            {"name": "review", "arguments": {"code": "x", "lines": "many"}},
            "Invalid arguments: lines: Expected `int`, got `str`",
        ),
    ],
    ids=str,
)
async def test_a_request_that_does_not_fit_is_refused(params: dict[str, Any], text: str) -> None:
    async with connected(reviews()) as client:
        assert await client.refused("prompts/get", params) == {"code": -32602, "message": text}


async def test_prompts_are_removed_and_listed_in_pages() -> None:
    router = Router("x", page_size=1)
    for name in ("a", "b", "c"):
        router.prompt(name)(lambda: "x")
    router.remove_prompt("a")
    assert list(router.prompts) == ["b", "c"]
    async with connected(router) as client:
        first = await client.request("prompts/list")
        second = await client.request("prompts/list", {"cursor": first["nextCursor"]})
    assert [first["prompts"][0]["name"], second["prompts"][0]["name"]] == ["b", "c"]
    with pytest.raises(KeyError):
        router.remove_prompt("a")


async def test_errors_of_a_prompt_are_answered_and_crashes_name_it() -> None:
    router = Router("x")

    @router.prompt()
    async def refused() -> str:
        raise McpError(-32000, "no")

    @router.prompt()
    async def crashing() -> str:
        raise RuntimeError

    async with connected(router) as client:
        error = await client.refused("prompts/get", {"name": "refused"})
        assert error == {"code": -32000, "message": "no"}
        assert (await client.refused("prompts/get", {"name": "crashing"}))["code"] == -32603
        await wait_all_tasks_blocked()
        assert "prompt 'crashing'" in str(client.errors[0])
        client.errors.clear()


async def test_a_prompt_may_ask_by_returning_what_it_needs() -> None:
    router = Router("x")

    @router.prompt()
    async def prompt() -> InputRequired:
        return InputRequired(Elicitation("Name?", {"type": "object"}, key="name"))

    async with connected(router, version=M, capabilities={"elicitation": {}}) as client:
        answer = await client.answer_to(await client.ask("prompts/get", {"name": "prompt"}))
    assert answer["result"]["resultType"] == "input_required"


class Nameless:
    def __call__(self) -> Any: ...


def test_wrong_registrations_are_refused() -> None:
    router = reviews()
    with pytest.raises(TypeError, match="call the decorator"):
        router.prompt(lambda: "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a prompt 'greet' exists already"):
        router.prompt("greet")(lambda: "x")
    with pytest.raises(TypeError, match="has no __name__"):
        router.prompt()(Nameless())
    own = Router("x")

    @own.request("prompts/get")
    async def get_prompt(ctx: RequestContext) -> Any: ...

    with pytest.raises(ValueError, match="prompts/get has a handler of its own"):
        own.prompt("x")(lambda: "x")


def test_titles_of_arguments_come_from_their_types() -> None:

    def prompt(a: Annotated[str, Meta(title="T")]) -> Any: ...

    made = Prompt.of(prompt)
    described = {"name": "a", "title": "T", "required": True}
    assert made.describe(V2025_11_25)["arguments"] == [described]
    assert "title" not in made.describe(V2025_03_26)["arguments"][0]
    assert "description" not in made.describe(V2025_11_25)
