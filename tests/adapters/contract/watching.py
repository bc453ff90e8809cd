"""What the official client sees of a server that serves one of the contract applications."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias, final

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

HERE: Final = Path(__file__).parent
MODES: Final = {"2025-11-25": "legacy", "2026-07-28": "auto"}
"""The mode of the client for each revision."""
TRANSPORTS: Final = ("stdio", "http")
SERVERS: Final = ("theirs", "ours")

EXTRA: Final[Any] = {"example.com/extra": 7}
"""The `_meta` of the calls."""

PATIENCE: Final = 0.4
"""Seconds in which a notification would have arrived."""


def command(which: str, app: str, port: int | None) -> list[str]:
    """Return the command that serves an application, by their server or by ours."""
    if which == "theirs":
        return [str(HERE / f"{app}.py"), *([] if port is None else [str(port)])]
    ways = ["--stdio"] if port is None else ["--http", f"127.0.0.1:{port}"]
    return ["-m", "trio_mcp_session", "serve", f"{app}:server", *ways, "--log-level", "warning"]


@final
@attrs.define(eq=False)
class Watcher:
    """A client of one server, and what the server told it without being asked."""

    told: list[Any] = attrs.field(factory=list[Any], init=False)
    asked: list[Any] = attrs.field(factory=list[Any], init=False)
    _client: Client | None = attrs.field(default=None, init=False)

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    @asynccontextmanager
    async def connected(
        self, which: str, app: str, transport: str, mode: str, log: Path
    ) -> AsyncIterator[None]:
        env = os.environ | {"PYTHONPATH": str(HERE), "FASTMCP_SHOW_SERVER_BANNER": "false"}
        async with AsyncExitStack() as stack:
            if transport == "stdio":
                errlog = stack.enter_context(log.open("w", encoding="utf-8"))
                parameters = StdioServerParameters(
                    command=sys.executable, args=command(which, app, None), env=env, cwd=str(HERE)
                )
                channel = stdio_client(parameters, errlog=errlog)
            else:
                port = free_port()
                await stack.enter_async_context(served(command(which, app, port), env, log, port))
                http = httpx2.AsyncClient(headers={"x-contract": "yes"}, timeout=20)
                await stack.enter_async_context(http)
                channel = streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)
            self._client = Client(
                channel,
                mode=mode,
                elicitation_callback=self._answer_form,
                sampling_callback=self._answer_prompt,
                list_roots_callback=self._list_roots,
                logging_callback=self._log,
                message_handler=self._notice,
                log_level="info",
                cache=None,
            )
            await stack.enter_async_context(self._client)
            yield

    async def _answer_form(self, context: Any, params: Any) -> types.ElicitResult:
        self.asked.append(dumped(params))
        if len(self.asked) % 3 == 2:
            return types.ElicitResult(action="decline")
        content: Any = None if getattr(params, "mode", "form") == "url" else {"name": "Ada"}
        return types.ElicitResult(action="accept", content=content)

    async def _answer_prompt(self, context: Any, params: Any) -> types.CreateMessageResult:
        self.asked.append(dumped(params))
        content = types.TextContent(text="short")
        return types.CreateMessageResult(role="assistant", content=content, model="test")

    async def _list_roots(self, context: Any) -> types.ListRootsResult:
        self.asked.append("roots")
        return types.ListRootsResult(roots=[types.Root.model_validate({"uri": "file:///home"})])

    async def _log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.told.append(("log", dumped(params)))

    async def _notice(self, message: Any) -> None:
        method = getattr(message, "method", None)
        if method is not None and method != "notifications/message":
            self.told.append((method, dumped(message.params) if message.params else None))

    async def _step(self, progress: float, total: float | None, message: str | None) -> None:
        self.told.append(("progress", progress, total, message))

    # What is looked at.

    async def look(self) -> Seen:
        """Use all that the application has, and return what was seen."""
        seen: Seen = {}
        client = self.client
        seen["server"] = dumped(client.server_info)
        seen["capabilities"] = dumped(client.server_capabilities)
        seen["instructions"] = client.instructions
        seen["revision"] = client.protocol_version
        seen["tools"] = dumped(await client.list_tools())
        seen["resources"] = dumped(await client.list_resources())
        seen["templates"] = dumped(await client.list_resource_templates())
        seen["prompts"] = dumped(await client.list_prompts())
        for name, tool, arguments in CALLS:
            seen[name] = await self._call(tool, arguments)
        await self._read(seen)
        await self._subscribe(seen)
        seen["cancelled"] = await self._cancel()
        return seen

    async def _call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.told.clear()
        self.asked.clear()
        calling = self.client.call_tool(
            tool,
            arguments,
            progress_callback=self._step,
            meta=EXTRA,
        )
        answer = await outcome(calling)
        await anyio.sleep(0.02)
        return {"answer": answer, "told": list(self.told), "asked": list(self.asked)}

    async def _read(self, seen: Seen) -> None:
        client = self.client
        for uri in ("about:server", "pixel:red", "notes://home", "notes://home?limit=5"):
            seen[f"read {uri}"] = await outcome(client.read_resource(uri))
        seen["read unknown"] = await outcome(client.read_resource("missing:resource"))
        seen["prompt"] = await outcome(client.get_prompt("review", {"code": "x"}))
        seen["prompt without argument"] = await outcome(client.get_prompt("review", {}))
        seen["prompt unknown"] = await outcome(client.get_prompt("missing", {}))
        prompt = types.PromptReference(name="review")
        seen["complete prompt"] = await outcome(
            client.complete(prompt, {"name": "language", "value": "r"})
        )
        template = types.ResourceTemplateReference(uri="notes://{topic}{?limit}")
        seen["complete template"] = await outcome(
            client.complete(template, {"name": "topic", "value": ""})
        )

    async def _subscribe(self, seen: Seen) -> None:
        async with AsyncExitStack() as stack:
            if self.client.protocol_version == "2025-11-25":
                seen["subscribe"] = await outcome(
                    self.client.subscribe_resource("notes://home")  # type: ignore[deprecated]
                )
                seen["set level"] = await outcome(
                    self.client.set_logging_level("warning")  # type: ignore[deprecated]
                )
                seen["steps after set level"] = await self._call("steps", {"count": 1})
            else:
                listening = self.client.listen(
                    tools_list_changed=True, resource_subscriptions=["notes://home"]
                )
                try:
                    await stack.enter_async_context(listening)
                    seen["subscribe"] = "ok"
                except MCPError as error:
                    seen["subscribe"] = ("error", error.code)
            for tool in ("change", "tell"):
                self.told.clear()
                answer = await outcome(self.client.call_tool(tool, {}))
                await anyio.sleep(PATIENCE)
                seen[f"after {tool}"] = {"answer": answer, "told": list(self.told)}

    async def _cancel(self) -> Any:
        with anyio.move_on_after(0.2) as scope:
            await outcome(self.client.call_tool("wait", {}))
        again = await outcome(self.client.call_tool("add", {"a": 1}))
        return scope.cancelled_caught, again


CALLS: Final[list[tuple[str, str, dict[str, Any]]]] = [
    ("add", "add", {"a": 1, "b": 2}),
    ("add: a default", "add", {"a": 1}),
    ("add: wrong arguments", "add", {"b": "x"}),
    ("a tool that does not exist", "missing", {}),
    ("in a thread", "in_thread", {}),
    ("structured", "weather", {"city": "Rome"}),
    ("structured: wrong choice", "weather", {"city": "Rome", "sky": "green"}),
    ("attachments", "attachments", {}),
    *((f"fail: {kind}", "fail", {"kind": kind}) for kind in ("tool", "value", "protocol")),
    *((f"fail: {kind}", "fail", {"kind": kind}) for kind in ("group", "model")),
    ("steps", "steps", {"count": 2}),
    ("facts", "facts", {}),
    ("elicit", "elicit", {}),
    ("elicit by URL", "elicit_url", {}),
    ("elicit twice", "elicit_twice", {}),
    ("sample", "sample", {}),
    ("roots", "roots", {}),
    ("resolved", "resolved", {}),
    ("guarded", "guarded", {}),
    ("guarded, three rounds", "guarded", {"rounds": 3}),
]
"""The calls of tools: what it shows, the tool, and the arguments."""


def dumped(model: Any) -> Any:
    """Return a message as JSON; without what changes from run to run."""
    found = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    if "io.modelcontextprotocol/subscriptionId" in found.get("_meta", ()):
        found["_meta"] = {"io.modelcontextprotocol/subscriptionId": "the id"}
    # Before 2.3, their questions have an empty one.
    return {name: one for name, one in found.items() if name != "_meta" or one}


async def outcome(calling: Awaitable[Any]) -> Any:
    """Return the result of a call, or its error."""
    try:
        return dumped(await calling)
    except MCPError as error:
        return {"error": (error.code, error.message, error.data)}


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def served(args: list[str], env: dict[str, str], log: Path, port: int) -> AsyncIterator[None]:
    """Run a server until the end of the block; it listens when the block begins."""
    with log.open("w", encoding="utf-8") as output:
        async with await anyio.open_process(
            [sys.executable, *args], env=env, cwd=HERE, stdout=output, stderr=output
        ) as process:
            await _wait_listening(port)
            yield
            process.terminate()
            await process.wait()


async def _wait_listening(port: int) -> None:
    """Wait until a server listens; the guard of the test ends it otherwise."""
    while True:
        try:
            stream = await anyio.connect_tcp("127.0.0.1", port)
        except OSError:
            await anyio.sleep(0.05)
        else:
            await stream.aclose()
            return
