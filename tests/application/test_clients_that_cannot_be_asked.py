"""A client that cannot be asked: its model is told so, and nothing has crashed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.application.client import ERAS, VERSIONS, C, D, M, connected
from trio_mcp_session import (
    CapabilityMissing,
    Elicitation,
    InputRequired,
    NoChannel,
    RequestContext,
    Roots,
    Router,
)

Ask = Callable[[RequestContext], Awaitable[object]]


async def elicit(ctx: RequestContext) -> object:
    return await ctx.elicit("Sure?", {"type": "object"})


async def sample(ctx: RequestContext) -> object:
    return await ctx.sample([], max_tokens=1)


async def list_roots(ctx: RequestContext) -> object:
    return await ctx.list_roots()


async def ask_all(ctx: RequestContext) -> object:
    return await ctx.ask_all(Roots(), Elicitation("Sure?", {"type": "object"}))


async def ask_in_a_nursery(ctx: RequestContext) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(elicit, ctx)
        nursery.start_soon(trio.sleep_forever)


async def be_called_again(ctx: RequestContext) -> object:
    return InputRequired(Roots(key="roots"))


WAYS = [elicit, sample, list_roots, ask_all, ask_in_a_nursery, be_called_again]


def server(ask: Ask) -> Router:
    router = Router("r")

    @router.tool()
    async def tool(ctx: RequestContext) -> Any:
        return await ask(ctx)

    @router.request("prompts/get")
    async def prompt(ctx: RequestContext) -> Any:
        return await ask(ctx)

    return router


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_model_is_told_that_the_client_cannot_be_asked(
    ask: Ask, version: str, autojump_clock: MockClock
) -> None:
    # Leaving the block checks that nothing was reported.
    async with connected(server(ask), version) as client:
        result = await client.call("tool")
        assert result["isError"] is True
        (content,) = result["content"]
        assert content["text"] in {
            str(CapabilityMissing(name)) for name in ("elicitation", "sampling", "roots")
        }
        assert "the client cannot be asked" in content["text"]
        # Other methods have no results with ``isError``: the error has the text.
        error = await client.refused("prompts/get")
        assert error == {"code": -32603, "message": content["text"]}


@pytest.mark.parametrize("ask", WAYS)
async def test_a_client_of_2026_07_28_is_told_which_capability_is_missing(
    ask: Ask, autojump_clock: MockClock
) -> None:
    async with connected(server(ask), M) as client:
        for method, params in (("tools/call", {"name": "tool"}), ("prompts/get", {})):
            error = await client.refused(method, params)
            assert error["code"] == -32021
            assert len(error["data"]["requiredCapabilities"]) == 1


@pytest.mark.parametrize("capabilities", [{"elicitation": {"url": {}}}, {"elicitation": None}])
@pytest.mark.parametrize("version", [C, D])
async def test_a_client_that_knows_no_forms_cannot_be_asked_for_one(
    capabilities: dict[str, Any], version: str, autojump_clock: MockClock
) -> None:
    async with connected(server(elicit), version, capabilities=capabilities) as client:
        assert (await client.call("tool"))["isError"] is True


async def test_a_tool_whose_client_has_no_channel_tells_the_model(
    autojump_clock: MockClock,
) -> None:
    async def notify(ctx: RequestContext) -> None:
        raise NoChannel

    async with connected(server(notify)) as client:
        result = await client.call("tool")
        assert result["isError"] is True
        assert result["content"][0]["text"] == str(NoChannel())


@pytest.mark.parametrize("version", [D, M])
async def test_an_error_of_the_handler_stays_a_crash(
    version: str, autojump_clock: MockClock
) -> None:
    async def be_called_again_with_nonsense(ctx: RequestContext) -> object:
        return InputRequired(Roots(key="roots"), state=object())

    capabilities: dict[str, Any] = {"roots": {}}
    router = server(be_called_again_with_nonsense)
    async with connected(router, version, capabilities=capabilities) as client:
        asking = await client.ask("tools/call", {"name": "tool"})
        if version == D:
            question = await client.receive()
            await client.send({"id": question["id"], "result": {"roots": []}})
        answer = await client.answer_to(asking)
        assert answer["result"]["isError"]
        assert isinstance(await client.crash(), TypeError)


@pytest.mark.parametrize("version", ERAS)
async def test_arguments_may_be_null(version: str, autojump_clock: MockClock) -> None:
    async def greet(ctx: RequestContext) -> str:
        return "hello"

    nulls = {"name": "tool", "arguments": None, "inputResponses": None, "requestState": None}
    async with connected(server(greet), version) as client:
        result = await client.request("tools/call", nulls)
        assert result["content"] == [{"type": "text", "text": "hello"}]
