"""The official Python client (`mcp`) at work: how it connects and what it is told."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import anyio
import mcp_types as types
from anyio.abc import Process
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.subscriptions import ResourceUpdated, ServerEvent, Subscription

LOG_LEVEL = "io.modelcontextprotocol/logLevel"


@dataclass
class Inbox:
    """What a client was told unasked."""

    logs: list[types.LoggingMessageNotificationParams] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Of what it was told that it changed: methods without their ends, and URIs."""
    faults: list[Exception] = field(default_factory=list)

    async def on_log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.logs.append(params)

    async def on_message(self, message: types.ServerNotification | Exception) -> None:
        match message:
            case Exception():
                self.faults.append(message)
            case types.ResourceUpdatedNotification():
                self.changed.append(str(message.params.uri))
            case types.ToolListChangedNotification():
                self.changed.append("tools")
            case types.ResourceListChangedNotification():
                self.changed.append("resources")
            case _:
                pass


@dataclass
class Connection:
    """One client of a server process."""

    client: Client
    process: Process
    inbox: Inbox

    @property
    def is_modern(self) -> bool:
        """Whether its requests are stateless."""
        return self.client.protocol_version >= "2026"

    async def call(self, name: str, **arguments: object) -> str:
        """Call a tool and return its text."""
        result = await self.client.call_tool(name, arguments)
        assert not result.is_error, result
        return text_of(result)

    async def structured(self, name: str, **arguments: object) -> Any:
        """Call a tool and return its structured content."""
        result = await self.client.call_tool(name, arguments)
        assert not result.is_error, result
        return result.structured_content

    async def error(self, name: str, **arguments: object) -> str:
        """Call a tool that fails, and return what it says about that."""
        result = await self.client.call_tool(name, arguments)
        assert result.is_error, result
        return text_of(result)

    async def tools(self) -> dict[str, types.Tool]:
        """Return all tools, by name."""
        page = await self.client.list_tools()
        found = page.tools
        while page.next_cursor is not None:
            page = await self.client.list_tools(cursor=page.next_cursor)
            found += page.tools
        return {tool.name: tool for tool in found}

    async def call_logged(self, level: types.LoggingLevel, name: str, **arguments: object) -> str:
        """Call a tool, and be sent its log messages from a level on."""
        if self.is_modern:
            meta: Any = {LOG_LEVEL: level}
            return text_of(await self.client.call_tool(name, arguments, meta=meta))
        await self.client.set_logging_level(level)  # type: ignore[deprecated]
        return await self.call(name, **arguments)

    @asynccontextmanager
    async def hearing(self, *uris: str) -> AsyncIterator[list[str]]:
        """Subscribe to changes of the lists and of these resources, as the revision has it."""
        if self.is_modern:
            async with self.listening(
                tools_list_changed=True, resources_list_changed=True, resource_subscriptions=uris
            ) as heard:
                yield heard
            return
        self.inbox.changed.clear()
        for uri in uris:
            await self.client.subscribe_resource(uri)  # type: ignore[deprecated]
        yield self.inbox.changed
        for uri in uris:
            await self.client.unsubscribe_resource(uri)  # type: ignore[deprecated]

    @asynccontextmanager
    async def listening(self, **wanted: Any) -> AsyncIterator[list[str]]:
        """Listen, as modern clients do."""
        heard: list[str] = []
        async with self.client.listen(**wanted) as subscription, anyio.create_task_group() as group:
            group.start_soon(hear, subscription, heard)
            yield heard
            group.cancel_scope.cancel()


@dataclass
class Bench(ABC):
    """What a check gets: how to connect, and where to leave a figure."""

    server_command: list[str]
    errlog: Path
    figure: Callable[[str], None]
    mode: str
    """Of the client: `legacy`, `auto`, or the revision that it insists on."""
    exit_statuses: list[int | None] = field(default_factory=list)

    @abstractmethod
    def connect(self, *options: str, **callbacks: Any) -> AbstractAsyncContextManager[Connection]:
        """Start a server, connect to it, and leave as the client leaves any server."""


class StdioBench(Bench):
    """The client starts the server."""

    @asynccontextmanager
    async def connect(self, *options: str, **callbacks: Any) -> AsyncIterator[Connection]:
        inbox = Inbox()
        processes: list[Process] = []
        open_process = anyio.open_process

        async def remember(command: list[str], **options: Any) -> Process:
            processes.append(await open_process(command, **options))
            return processes[-1]

        command, *arguments = [*self.server_command, *options]
        parameters = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
        with self.errlog.open("a") as errlog:
            client = Client(
                stdio_client(parameters, errlog=errlog),
                mode=self.mode,
                logging_callback=inbox.on_log,
                message_handler=inbox.on_message,
                **callbacks,
            )
            # The client does not say which process it started, and the exit status is wanted.
            with patch.object(anyio, "open_process", remember):
                async with client:
                    (process,) = processes
                    yield Connection(client, process, inbox)
        self.exit_statuses.append(process.returncode)
        assert inbox.faults == []


Check: TypeAlias = Callable[[Any], Awaitable[None]]


class Checks(dict[str, Check]):
    """Functions by their own names less `check_`, in order."""

    def check(self, function: Check) -> None:
        """Enter a function."""
        self[function.__name__.removeprefix("check_")] = function


async def hear(subscription: Subscription, heard: list[str]) -> None:
    """Note what is told on a stream, until it ends as it should."""
    async for event in subscription:
        heard.append(name_of(event))  # noqa: PERF401 - each as soon as it comes
    heard.append("the end")


def name_of(event: ServerEvent) -> str:
    """Return a name for it that is the one in `Inbox.changed`."""
    if isinstance(event, ResourceUpdated):
        return event.uri
    return type(event).__name__.removesuffix("ListChanged").lower()


def text_of(result: types.CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the client's own tasks do; the hang guard ends it if they never do."""
    while not condition():  # noqa: ASYNC110 - no event to be had
        await anyio.sleep(0.005)
