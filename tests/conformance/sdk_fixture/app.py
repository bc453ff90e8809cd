"""The application that all of the fixture is registered with, and the forms of its questions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import mcp_types as types
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPDeprecationWarning

# The suite asks for what 2026-07-28 deprecates.
warnings.simplefilter("ignore", MCPDeprecationWarning)

app: MCPServer[Any] = MCPServer("conformance", title="Conformance server", version="1.0")


async def set_level(ctx: Any, params: Any) -> types.EmptyResult:
    """Accept a log level; the session keeps it."""
    return types.EmptyResult()


# Their servers have no logging of their own: applications add the method, and declare it so.
app._lowlevel_server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)


def form(properties: Mapping[str, Any], *, required: bool = False) -> dict[str, Any]:
    """Return the schema of a form."""
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    return {**schema, "required": list(properties)} if required else schema


NAME = form({"name": {"type": "string"}}, required=True)


def asks_user(message: str, schema: dict[str, Any]) -> types.ElicitRequest:
    """Return a question to the user, for a result that asks."""
    params = types.ElicitRequestFormParams(message=message, requested_schema=schema)
    return types.ElicitRequest(params=params)


def asks_model(words: str, max_tokens: int) -> types.CreateMessageRequest:
    """Return a question to the client's model, for a result that asks."""
    message = types.SamplingMessage(role="user", content=types.TextContent(text=words))
    params = types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    return types.CreateMessageRequest(params=params)


def told(answer: Any) -> str:
    """Describe what the user answered."""
    return f"action={answer.action}, content={answer.content}"


def said(reply: Any) -> str:
    """Describe what the client's model answered."""
    return f"LLM response: {reply.content.text}"
