from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio.testing import assert_checkpoints

from trio_mcp_session import (
    Elicitation,
    InputRequired,
    RequestContext,
    Router,
    open_session_manager,
)
from trio_mcp_session.testing import call_and_answer, connect_client, modern

VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
EVERYTHING: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}
NOTHING_ASKED: dict[str, Any] = {"type": "object", "properties": {}}

router = Router("demo", "1")


@router.tool()
async def add(ctx: RequestContext, a: int, b: int) -> str:
    return str(a + b)


@router.tool()
async def confirm(ctx: RequestContext) -> str:
    first = await ctx.elicit("Really?", NOTHING_ASKED)
    second = await ctx.elicit("Really, really?", NOTHING_ASKED)
    return f"{first.action}, {second.action}"


SURE = Elicitation("Sure?", NOTHING_ASKED, key="sure")


@router.tool()
async def question_then_state(ctx: RequestContext) -> str | InputRequired:
    """Ask to be called again: with a question only, then with a state only."""
    if ctx.request_state is not None:
        return "done"
    return InputRequired(SURE) if ctx.answer_to(SURE) is None else InputRequired(state="answered")


def accepting(
    asked: list[tuple[str, str]],
) -> Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]:
    """Make what accepts each question, and adds its key and its text to a list."""

    async def accept(key: str, request: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        asked.append((key, request["params"]["message"]))
        return {"action": "accept", "content": {}}

    return accept


def test_modern_adds_what_clients_say_in_each_request() -> None:
    params = modern({"name": "add"})
    assert params == {"name": "add", "_meta": {VERSION: "2026-07-28", CAPABILITIES: EVERYTHING}}
    assert modern() == {"_meta": params["_meta"]}


def test_modern_keeps_the_meta_that_is_there() -> None:
    given = {"_meta": {"progressToken": 1, VERSION: "2099-01-01"}}
    assert modern(given, capabilities={})["_meta"] == {
        "progressToken": 1,
        VERSION: "2099-01-01",
        CAPABILITIES: {},
    }
    assert given == {"_meta": {"progressToken": 1, VERSION: "2099-01-01"}}


async def call(name: str, **arguments: int) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Call a tool, and return its result and the questions that were asked."""
    asked: list[tuple[str, str]] = []
    result: dict[str, Any] = {}
    async with (
        open_session_manager(router) as manager,
        connect_client(manager, version=None) as client,
    ):
        with assert_checkpoints():
            result = await call_and_answer(client, name, arguments, accepting(asked))
    return result, asked


async def test_a_tool_that_asks_nothing_is_called_once() -> None:
    result, asked = await call("add", a=1, b=2)
    assert result["content"] == [{"type": "text", "text": "3"}]
    assert asked == []


async def test_each_question_is_answered_until_the_result_is_complete() -> None:
    result, asked = await call("confirm")
    assert result["resultType"] == "complete"
    assert result["content"][0]["text"] == "accept, accept"
    assert [question for _, question in asked] == ["Really?", "Really, really?"]


async def test_a_result_with_a_question_only_and_one_with_a_state_only_are_answered() -> None:
    result, asked = await call("question_then_state")
    assert result["content"][0]["text"] == "done"
    assert asked == [("sure", "Sure?")]
