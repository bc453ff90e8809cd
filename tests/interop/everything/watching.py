"""What a client sees of a server that has everything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeAlias, final

import anyio
import attrs
import mcp_types as types
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from tests.interop.everything.schemas import plain

Seen: TypeAlias = dict[str, Any]
"""What was seen, by what was looked at."""

LEGACY: Final = "2025-11-25"
MODERN: Final = "2026-07-28"
CLIENTS: Final[Mapping[str, str]] = {
    "python, legacy": LEGACY,
    "python, auto": MODERN,
    f"python, {MODERN}": MODERN,
}
"""The client in each of its modes, and the revision that it speaks with these servers."""

PATIENCE: Final = 0.5
"""Seconds in which a notification would have arrived."""

HOME: Final = "notes://home"
NOTES: Final = "notes://{topic}{?limit}"
ANSWERS: Final[list[types.ElicitResult]] = [
    types.ElicitResult(action="accept", content={"name": "Ada", "seats": 3}),
    types.ElicitResult(action="decline"),
]


@final
@attrs.define(eq=False)
class Watcher:
    """A client of one server, and what the server told it without being asked."""

    forms: list[Any] = attrs.field(factory=list[Any], init=False)
    prompts: list[Any] = attrs.field(factory=list[Any], init=False)
    logs: list[Any] = attrs.field(factory=list[Any], init=False)
    steps: list[Any] = attrs.field(factory=list[Any], init=False)
    updates: list[str] = attrs.field(factory=list[str], init=False)
    _client: Client | None = attrs.field(default=None, init=False)

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    @asynccontextmanager
    async def connected(self, server: Any, mode: str) -> AsyncIterator[None]:
        """Connect to a server: to a URL, or over what the library makes of it."""
        client = Client(
            server,
            mode=mode,
            elicitation_callback=self._answer_form,
            sampling_callback=self._answer_prompt,
            logging_callback=self._log,
            message_handler=self._notice,
            log_level="info",
            cache=None,
        )
        async with client as self._client:
            yield

    async def _answer_form(self, context: Any, params: Any) -> types.ElicitResult:
        self.forms.append({"message": params.message, "schema": plain(params.requested_schema)})
        return ANSWERS[len(self.forms) - 1]

    async def _answer_prompt(self, context: Any, params: Any) -> types.CreateMessageResult:
        messages = [(message.role, message.content.text) for message in params.messages]
        self.prompts.append((messages, params.max_tokens))
        content = types.TextContent(text="short")
        return types.CreateMessageResult(role="assistant", content=content, model="test")

    async def _log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.logs.append((params.level, params.data))

    async def _notice(self, message: object) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            self.updates.append(message.params.uri)

    async def _step(self, progress: float, total: float | None, message: str | None) -> None:
        self.steps.append((progress, total, message))

    # What is looked at.

    async def look(self, revision: str) -> Seen:
        """Use all that the server has, and return what was seen."""
        assert self.client.protocol_version == revision
        seen: Seen = {}
        await self._describe(seen)
        before = (await self._call("status"))["structured"]["calls"]
        await self._use_tools(seen)
        await self._ask(seen)
        after = await self._call("status")
        seen["status: calls in between"] = after["structured"]["calls"] - before - 1
        seen["status: in a thread"] = after["structured"]["in_thread"]
        await self._subscribe(seen, revision)
        await self._use_resources(seen)
        await self._use_prompts(seen)
        return seen

    async def _describe(self, seen: Seen) -> None:
        info: Any = self.client.server_info
        seen["server"] = info and (
            info.name,
            info.title,
            info.website_url,
            [i.src for i in info.icons or []],
        )
        seen["server: version"] = info and info.version
        seen["capabilities"] = _dumped(self.client.server_capabilities)
        for tool in (await self.client.list_tools()).tools:
            seen[f"tool {tool.name}"] = (
                tool.description,
                plain(tool.input_schema),
                plain(tool.output_schema),
            )
        for resource in (await self.client.list_resources()).resources:
            described = (resource.name, resource.description, resource.mime_type)
            seen[f"resource {resource.uri}"] = described
        for template in (await self.client.list_resource_templates()).resource_templates:
            described = (template.name, template.description, template.mime_type)
            seen[f"resource {template.uri_template}"] = described
        for prompt in (await self.client.list_prompts()).prompts:
            arguments = [
                (argument.name, argument.description, bool(argument.required))
                for argument in prompt.arguments or []
            ]
            seen[f"prompt {prompt.name}"] = (prompt.description, arguments)

    async def _use_tools(self, seen: Seen) -> None:
        seen["divide"] = await self._call("divide", a=7, b=2, by="//")
        seen["divide: an error for the model"] = await self._call("divide", a=1, b=0)
        wrong = await self._call("divide", a="x", b=1, by="%")
        (text,) = wrong["content"]
        told = all(value in text["text"] for value in ("a", "by", "'/'", "'//'"))
        seen["divide: wrong arguments"] = (wrong["error"], told)
        seen["attachments"] = await self._call("attachments")
        seen["text_shout"] = await self._call("text_shout", text="hi")
        seen["a tool that does not exist"] = await self._call("missing")
        if self.client.protocol_version == LEGACY and self.client.server_capabilities.logging:
            await self.client.set_logging_level("info")  # type: ignore[deprecated]
        seen["countdown"] = await self._call("countdown", steps=2)
        seen["countdown: progress"] = self.steps
        seen["countdown: log"] = self.logs

    async def _ask(self, seen: Seen) -> None:
        seen["book: accepted"] = await self._call("book")
        seen["book: declined"] = await self._call("book")
        seen["book: form"] = self.forms
        seen["summarise"] = await self._call("summarise", text="long")
        seen["summarise: question"] = self.prompts

    async def _subscribe(self, seen: Seen, revision: str) -> None:
        async with AsyncExitStack() as stack:
            if revision == LEGACY:
                subscribing = self.client.subscribe_resource(HOME)  # type: ignore[deprecated]
                seen["subscribe"] = await _code_of(subscribing)
            else:
                listening = self.client.listen(resource_subscriptions=[HOME])
                seen["subscribe"] = await _code_of(stack.enter_async_context(listening))
            seen["add_note"] = await self._call("add_note", topic="home", text="milk")
            await self._call("add_note", topic="home", text="bread")
            await self._call("add_note", topic="work", text="meet")
            await anyio.sleep(PATIENCE)
            seen["updates"] = self.updates

    async def _use_resources(self, seen: Seen) -> None:
        for uri in ("about:server", "pixel:red", HOME, f"{HOME}?limit=1"):
            result = await self.client.read_resource(uri)
            seen[f"read {uri}"] = [_dumped(content) for content in result.contents]
        missing = await _code_of(self.client.read_resource("missing:resource"))
        seen["a resource that does not exist"] = missing
        reference = types.ResourceTemplateReference(uri=NOTES)
        completed = await self.client.complete(reference, {"name": "topic", "value": "ho"})
        seen["complete topic"] = completed.completion.values

    async def _use_prompts(self, seen: Seen) -> None:
        result = await self.client.get_prompt("review", {"code": "x = 1", "language": "rust"})
        seen["review"] = [(message.role, _dumped(message.content)) for message in result.messages]
        reference = types.PromptReference(name="review")
        completed = await self.client.complete(reference, {"name": "language", "value": "py"})
        seen["complete language"] = completed.completion.values

    async def _call(self, tool: str, **arguments: object) -> dict[str, Any]:
        try:
            result: Any = await self.client.call_tool(tool, arguments, progress_callback=self._step)
        except MCPError as error:
            return {"code": error.code}
        return {
            "content": [_dumped(content) for content in result.content],
            "structured": result.structured_content,
            "error": bool(result.is_error),
        }


def _dumped(content: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = content.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped


async def _code_of(using: Awaitable[object]) -> int | None:
    """Return the code of the error that something raises; None if it works."""
    try:
        await using
    except MCPError as error:
        return error.code
    return None
