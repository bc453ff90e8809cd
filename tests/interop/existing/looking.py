"""What the official Python client sees of a server: its lists, and what its parts answer."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import anyio
import attrs
import httpx2
import mcp_types as types
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

Seen: TypeAlias = dict[str, Any]
"""What was seen, by what was looked at."""

HANG_GUARD: Final = 60.0
MODES: Final = {"python, legacy": "legacy", "python, auto": "auto"}


@attrs.frozen(kw_only=True)
class Using:
    """What is used of a server, besides all that it lists."""

    calls: list[tuple[str, Mapping[str, Any]]] = attrs.field(factory=list)
    prompts: list[tuple[str, Mapping[str, str]]] = attrs.field(factory=list)
    resources: list[str] = attrs.field(factory=list)
    """URIs that it does not list."""
    changing: list[str] = attrs.field(factory=list)
    """Tools whose results have the time in them."""

    def as_json(self) -> str:
        """Return it for the TypeScript clients."""
        return json.dumps(attrs.asdict(self))

    def steady(self, seen: Seen) -> Seen:
        """Remove what is different in each run."""
        return {
            what: _without_numbers(one) if what.partition(" #")[0] in self.changing else one
            for what, one in seen.items()
        }


def _without_numbers(value: Any) -> Any:
    text = re.sub(r"\d[\d.:T+-]*", "0", json.dumps(value))
    return json.loads(text)


def look(client: str, server: Any, using: Using, headers: Mapping[str, str]) -> Seen:
    """Let the client use a server: a URL, or its parameters."""

    async def run() -> Seen:
        with anyio.fail_after(HANG_GUARD):
            async with connected(MODES[client], server, headers) as connection:
                return await _look(connection, using)

    return anyio.run(run)


@asynccontextmanager
async def connected(mode: str, server: Any, headers: Mapping[str, str]) -> AsyncIterator[Client]:
    """Connect the client, with answers to all questions."""
    if isinstance(server, StdioServerParameters):
        async with Client(stdio_client(server), mode=mode, **ANSWERS) as client:
            yield client
        return
    async with httpx2.AsyncClient(headers=headers, timeout=20) as http:
        channel = streamable_http_client(server, http_client=http)
        async with Client(channel, mode=mode, **ANSWERS) as client:
            yield client


async def _elicit(context: Any, params: Any) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"username": "Ada", "email": "a@b.example"})


async def _sample(context: Any, params: Any) -> types.CreateMessageResult:
    content = types.TextContent(text="short")
    return types.CreateMessageResult(role="assistant", content=content, model="test")


async def _list_roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root.model_validate({"uri": "file:///home"})])


ANSWERS: Final[Any] = {
    "cache": None,
    "elicitation_callback": _elicit,
    "list_roots_callback": _list_roots,
    "sampling_callback": _sample,
}


async def _look(client: Client, using: Using) -> Seen:
    seen: Seen = {
        "server": _dumped(client.server_info),
        "capabilities": _dumped(client.server_capabilities),
        "instructions": client.instructions,
        "revision": client.protocol_version,
    }
    for what, listing in (
        ("tools", client.list_tools),
        ("resources", client.list_resources),
        ("templates", client.list_resource_templates),
        ("prompts", client.list_prompts),
    ):
        seen[what] = await _outcome(listing())
    for number, (tool, arguments) in enumerate(using.calls):
        seen[f"{tool} #{number}"] = await _outcome(client.call_tool(tool, dict(arguments)))
    listed = [one["uri"] for one in seen["resources"].get("resources", ())]
    for uri in [*listed, *using.resources]:
        seen[f"read {uri}"] = await _outcome(client.read_resource(uri))
    for number, (prompt, values) in enumerate(using.prompts):
        seen[f"prompt {prompt} #{number}"] = await _outcome(client.get_prompt(prompt, dict(values)))
    return seen


def _dumped(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


async def _outcome(using: Awaitable[Any]) -> Any:
    """Return a result, or its error."""
    try:
        return _dumped(await using)
    except MCPError as error:
        return {"error": [error.code, error.message]}
