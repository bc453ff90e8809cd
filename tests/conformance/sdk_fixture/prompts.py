"""Prompts, and the completion of their arguments."""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage

from .answering import embedded, picture
from .app import app, asks_user, form, told
from .rounds import answer_to, asking

CONTEXT = form({"context": {"type": "string"}}, required=True)


@app.prompt(description="A prompt.")
async def test_simple_prompt() -> str:
    return "This is a simple prompt for testing."


@app.prompt(description="A prompt with its arguments.")
async def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@app.prompt(description="A prompt with a resource.")
async def test_prompt_with_embedded_resource(
    resourceUri: str,  # noqa: N803  # the suite's name for it
) -> list[Any]:
    resource = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


@app.prompt(description="A prompt with an image.")
async def test_prompt_with_image() -> list[Any]:
    return [UserMessage(picture()), UserMessage("Please analyze the image above.")]


@app.prompt(description="A prompt that the user has a say in.")
async def test_input_required_result_prompt(ctx: Context) -> Any:
    answer = answer_to(ctx, "user_context", types.ElicitResult)
    if answer is None:
        return asking(user_context=asks_user("What context should the prompt use?", CONTEXT))
    return f"Use this context: {told(answer)}"


@app.completion()  # type: ignore[no-untyped-call, untyped-decorator]
async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
    words = ("paris", "park", "party")
    found = [word for word in words if word.startswith(argument.value)]
    return types.Completion(values=found, total=len(found), has_more=False)
