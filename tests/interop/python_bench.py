"""The official Python client (`mcp`, legacy mode) at work: how it connects and what it is told."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any, TypeAlias
from unittest.mock import patch

import anyio
import httpx2
import mcp_types as types
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from tests.interop.losing_proxy import LosingProxy, open_proxy

SETTLING = 0.5


@dataclass
class Inbox:
    """What a client was told unasked."""

    logs: list[types.LoggingMessageNotificationParams] = field(default_factory=list)
    notifications: list[str] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    """Numbers of the changes that were announced."""
    faults: list[Exception] = field(default_factory=list)

    async def on_log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.logs.append(params)

    async def on_message(self, message: types.ServerNotification | Exception) -> None:
        if isinstance(message, Exception):
            self.faults.append(message)
        else:
            self.notifications.append(message.method)
        if isinstance(message, types.ResourceUpdatedNotification):
            self.changes.append(int(str(message.params.uri).removeprefix("memo://")))


@dataclass
class Connection:
    """One client of a server process."""

    client: Client
    process: Process
    inbox: Inbox

    async def call(self, name: str, **arguments: object) -> str:
        """Call a tool and return its text."""
        result = await self.client.call_tool(name, arguments)
        assert not result.is_error, result
        return text_of(result)

    async def structured(self, name: str, **arguments: object) -> object:
        """Call a tool and return its structured content."""
        return (await self.client.call_tool(name, arguments)).structured_content


@dataclass
class Bench(ABC):
    """What a check gets: how to connect, and where to leave a figure."""

    server_command: list[str]
    errlog: Path
    figure: Callable[[str], None]
    exit_statuses: list[int | None] = field(default_factory=list)

    @abstractmethod
    def connect(self, *options: str, **callbacks: Any) -> AbstractAsyncContextManager[Connection]:
        """Start a server, shake hands with it, and leave as the client leaves any server."""


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
                mode="legacy",
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


@dataclass
class Exchange:
    """A request that a client made, as far as HTTP goes."""

    method: str
    status: int
    sent: Mapping[str, str]
    received: Mapping[str, str]


@dataclass
class HttpConnection(Connection):
    """One client over HTTP."""

    wire: list[Exchange]
    proxy: LosingProxy

    @property
    def session_id(self) -> str:
        """The session's id, as the client got it."""
        (session_id,) = {
            exchange.received["mcp-session-id"]
            for exchange in self.wire
            if "mcp-session-id" in exchange.received
        }
        return session_id

    def comebacks(self) -> list[Exchange]:
        """Return the requests in which the client came back to a stream."""
        return [exchange for exchange in self.wire if "last-event-id" in exchange.sent]

    async def request(self, method: str, message: object = None) -> httpx2.Response:
        """Make a request of this session, past the client and the proxy."""
        headers = {
            "accept": "application/json, text/event-stream",
            "mcp-session-id": self.session_id,
            "mcp-protocol-version": "2025-11-25",
        }
        url = f"http://127.0.0.1:{self.proxy.server_port}/mcp"
        async with httpx2.AsyncClient(timeout=5) as client:
            return await client.request(method, url, headers=headers, json=message)


@dataclass
class Server:
    """A server process that listens."""

    process: Process
    port: int


@dataclass
class HttpBench(Bench):
    """The server is there, behind a proxy that loses what it is told to."""

    name: str = "builtin"

    @asynccontextmanager
    async def connect(self, *options: str, **callbacks: Any) -> AsyncIterator[HttpConnection]:
        async with (
            self.serve(*options) as server,
            open_proxy(server.port) as proxy,
            self.join(server, proxy, **callbacks) as connection,
        ):
            yield connection

    @asynccontextmanager
    async def serve(self, *options: str) -> AsyncIterator[Server]:
        """Start a server, and end it as a service manager would."""
        command = [*self.server_command, "--http", self.name, *options]
        with self.errlog.open("a") as errlog:
            process = await anyio.open_process(command, stdin=None, stdout=PIPE, stderr=errlog)
        async with process:
            try:
                assert process.stdout is not None
                line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 100)
                port = int(line.decode().removesuffix("/mcp").rpartition(":")[2])
                yield Server(process, port)
                if process.returncode is None:
                    process.terminate()
                self.exit_statuses.append(await process.wait())
            finally:
                if process.returncode is None:
                    process.kill()

    @asynccontextmanager
    async def join(
        self, server: Server, proxy: LosingProxy, **callbacks: Any
    ) -> AsyncIterator[HttpConnection]:
        """Let a client shake hands with the server, and leave."""
        inbox = Inbox()
        wire: list[Exchange] = []
        unanswered: set[httpx2.Request] = set()

        async def asked(request: httpx2.Request) -> None:
            unanswered.add(request)

        async def answered(response: httpx2.Response) -> None:
            request = response.request
            unanswered.discard(request)
            wire.append(
                Exchange(request.method, response.status_code, request.headers, response.headers)
            )

        async with create_mcp_http_client() as http:
            http.event_hooks = {"request": [asked], "response": [answered]}
            client = Client(
                streamable_http_client(proxy.url, http_client=http),
                mode="legacy",
                logging_callback=inbox.on_log,
                message_handler=inbox.on_message,
                **callbacks,
            )
            async with client:
                yield HttpConnection(client, server.process, inbox, wire, proxy)
                # An answer that comes while it leaves crashes this client: the one to a call that
                # was cancelled, for example.
                with anyio.move_on_after(SETTLING):
                    await until(lambda: not unanswered)
                await anyio.wait_all_tasks_blocked()
        assert inbox.faults == []


Check: TypeAlias = Callable[[Any], Awaitable[None]]


class Checks(dict[str, Check]):
    """Functions by their own names less `check_`, in order."""

    def check(self, function: Check) -> None:
        """Enter a function."""
        self[function.__name__.removeprefix("check_")] = function


def text_of(result: types.CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the client's own tasks do; the hang guard ends it if they never do."""
    while not condition():  # noqa: ASYNC110 - no event to be had
        await anyio.sleep(0.005)
