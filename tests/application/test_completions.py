"""Completions of arguments of prompts and of variables of templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytest

from trio_mcp_session import RequestContext, Router
from trio_mcp_session.application.completions import Completion

from .client import ERAS, A, D, connected

PROMPT = {"type": "ref/prompt", "name": "review"}
TEMPLATE = {"type": "ref/resource", "uri": "repo://{owner}/{name}"}


def editor() -> Router:
    router = Router("editor")

    @router.prompt()
    def review(language: str, tone: Literal["Kind", "strict"] = "Kind", other: str = "") -> Any: ...

    @router.completion(review, "language")
    async def languages(value: str, ctx: RequestContext) -> list[str]:
        assert ctx.method == "completion/complete"
        return [name for name in ("python", "pytorch", "rust") if name.startswith(value)]

    @router.resource("repo://{owner}/{name}")
    async def repository(owner: str, name: str) -> Any: ...

    @router.completion("repo://{owner}/{name}", "name")
    def names(value: str, arguments: Mapping[str, str]) -> Completion:
        return Completion([f"{arguments.get('owner')}-{value}"], total=9, has_more=True)

    return router


async def complete(
    router: Router, ref: Any, name: str, value: Any, version: str = D, **params: Any
) -> Any:
    async with connected(router, version=version) as client:
        result = await client.request(
            "completion/complete",
            {"ref": ref, "argument": {"name": name, "value": value}, **params},
        )
        return result["completion"]


@pytest.mark.parametrize("version", ERAS)
async def test_an_argument_of_a_prompt_is_completed_by_its_function(version: str) -> None:
    completion = await complete(editor(), PROMPT, "language", "py", version)
    assert completion == {"values": ["python", "pytorch"]}


async def test_a_variable_is_completed_with_what_is_filled_in_already() -> None:
    context = {"arguments": {"owner": "ada"}}
    completion = await complete(editor(), TEMPLATE, "name", "x", context=context)
    assert completion == {"values": ["ada-x"], "total": 9, "hasMore": True}
    completion = await complete(editor(), TEMPLATE, "name", "x")
    assert completion["values"] == ["None-x"]


async def test_a_fixed_set_of_values_needs_no_function() -> None:
    assert await complete(editor(), PROMPT, "tone", "k") == {"values": ["Kind"]}
    assert await complete(editor(), PROMPT, "tone", "") == {"values": ["Kind", "strict"]}


@pytest.mark.parametrize("ref, name", [(PROMPT, "other"), (PROMPT, "missing"), (TEMPLATE, "owner")])
async def test_an_argument_without_completions_has_none(ref: Any, name: str) -> None:
    assert await complete(editor(), ref, name, "x") == {"values": []}


async def test_a_hundred_values_are_sent() -> None:
    router = Router("x")

    @router.prompt()
    def prompt(a: str, b: str) -> Any: ...

    @router.completion("prompt", "a")
    def many(value: str) -> list[str]:
        return [str(number) for number in range(101)]

    @router.completion("prompt", "b")
    def exactly(value: str) -> list[str]:
        return [str(number) for number in range(100)]

    ref = {"type": "ref/prompt", "name": "prompt"}
    completion = await complete(router, ref, "a", "")
    assert (len(completion["values"]), completion["total"], completion["hasMore"]) == (
        100,
        101,
        True,
    )
    assert (await complete(router, ref, "b", "")).keys() == {"values"}


@pytest.mark.parametrize("version", ERAS)
async def test_the_capability_is_offered_where_there_are_completions(version: str) -> None:
    async with connected(editor(), version=version) as client:
        assert ("completions" in client.greeting["capabilities"]) == (version != A)
    router = Router("x")
    router.prompt("p")(lambda: "x")
    async with connected(router, version=version) as client:
        assert "completions" not in client.greeting["capabilities"]


@pytest.mark.parametrize(
    "params, text",
    [
        ({"ref": PROMPT}, "argument must have a name and a value"),
        ({"ref": PROMPT, "argument": {"name": "a"}}, "argument must have a name and a value"),
        ({"ref": 5}, "ref must be a ref/prompt with name, or a ref/resource"),
        ({"ref": {"type": "ref/x", "name": "a"}}, "ref must be a ref/prompt"),
        ({"ref": {"type": "ref/prompt"}}, "ref must be a ref/prompt"),
        ({"ref": {"type": "ref/prompt", "name": "x"}}, "ref does not match a prompt"),
        ({"ref": {"type": "ref/resource", "uri": "x://x"}}, "ref does not match a prompt"),
    ],
    ids=str,
)
async def test_a_request_that_does_not_fit_is_refused(params: dict[str, Any], text: str) -> None:
    argument = {"name": "language", "value": "p"}
    async with connected(editor()) as client:
        request = (
            params
            if len(params) > 1 or params["ref"] is PROMPT
            else params | {"argument": argument}
        )
        error = await client.refused("completion/complete", request)
    assert error["code"] == -32602
    assert error["message"].startswith(text)


def test_wrong_registrations_are_refused() -> None:
    router = editor()

    def function(value: str) -> Any: ...

    def other(value: str, owner: str) -> Any: ...

    with pytest.raises(ValueError, match="no prompt or resource template has this name"):
        router.completion("missing", "a")(function)
    with pytest.raises(ValueError, match="'review' has no argument 'missing'"):
        router.completion("review", "missing")(function)
    with pytest.raises(ValueError, match="'language' of 'review' is completed already"):
        router.completion("review", "language")(function)
    with pytest.raises(TypeError, match="completion of 'other' must not take 'owner'"):
        router.completion("review", "other")(other)
    own = Router("x")
    own.prompt("p")(lambda: "x")

    @own.request("completion/complete")
    async def own_completion(ctx: RequestContext) -> Any: ...

    with pytest.raises(ValueError, match="completion/complete has a handler of its own"):
        own.completion("p", "a")(function)
