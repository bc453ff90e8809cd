"""A client that answers the questions of a tool, in both eras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import trio

from tests.application.client import Client
from trio_mcp_session import Router


def by_method(questions: Mapping[str, Any]) -> dict[str, Any]:
    """Answers, whatever the questions are called."""
    given = {
        "elicitation/create": {"action": "accept", "content": {"name": "Ada"}},
        "sampling/createMessage": {"role": "assistant", "model": "m"},
        "roots/list": {"roots": [{"uri": "file:///"}]},
    }
    return {key: given[question["method"]] for key, question in questions.items()}


async def play(
    client: Client,
    method: str,
    params: Mapping[str, Any],
    answer: Callable[[Mapping[str, Any]], Mapping[str, Any]] = by_method,
    *,
    takes: float = 0,
) -> tuple[Any, list[Any]]:
    """Send a request, and answer what is asked as a client of its era does.

    Returns:
        The answer to the request, and the questions: method and parameters, round by round.
    """
    asked: list[Any] = []
    if client.envelope is None:
        request_id = await client.ask(method, params)
        while "method" in (message := await client.receive()):
            asked.append((message["method"], message.get("params")))
            (result,) = answer({"": message}).values()
            await trio.sleep(takes)
            await client.send({"id": message["id"], "result": result})
        assert message.pop("id") == request_id
        return message, asked
    more: dict[str, Any] = {}
    while True:
        message = await client.answer_to(await client.ask(method, {**params, **more}))
        result = message.get("result", {})
        if result.get("resultType") != "input_required":
            return message, asked
        questions = result.get("inputRequests", {})
        asked += [(one["method"], one.get("params")) for one in questions.values()]
        more = {"inputResponses": dict(answer(questions))}
        await trio.sleep(takes)
        if "requestState" in result:
            more["requestState"] = result["requestState"]


def tool(name: str, **arguments: object) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def text_of(message: Any) -> str:
    text = message["result"]["content"][0]["text"]
    assert isinstance(text, str)
    return text


def with_tool(handler: Callable[..., Any]) -> Router:
    router = Router("test")
    router.tool(name="run")(handler)
    return router
