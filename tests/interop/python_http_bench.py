"""The official Python client over Streamable HTTP."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from subprocess import PIPE
from typing import Any

import anyio
import httpx2
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.interop.losing_proxy import LosingProxy, open_proxy
from tests.interop.python_bench import Bench, Connection, Inbox, until

SETTLING = 0.5
TIMEOUT = httpx2.Timeout(30, read=300)
"""What the client has by itself."""
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Reading all the certificates of the system takes longer than most checks."""


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
    def session_ids(self) -> set[str]:
        """The ids of sessions that the client got."""
        name = "mcp-session-id"
        return {exchange.received[name] for exchange in self.wire if name in exchange.received}

    def comebacks(self) -> list[Exchange]:
        """Return the requests in which the client resumed a stream."""
        return [exchange for exchange in self.wire if "last-event-id" in exchange.sent]

    async def request(self, method: str, message: object = None) -> httpx2.Response:
        """Make a request of this session, past the client and the proxy."""
        (session_id,) = self.session_ids
        headers = {
            "accept": "application/json, text/event-stream",
            "mcp-session-id": session_id,
            "mcp-protocol-version": "2025-11-25",
        }
        url = f"http://127.0.0.1:{self.proxy.server_port}/mcp"
        async with httpx2.AsyncClient(timeout=5, verify=PLAIN) as client:
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
        self,
        server: Server,
        proxy: LosingProxy,
        *,
        mode: str | None = None,
        user: str | None = None,
        **callbacks: Any,
    ) -> AsyncIterator[HttpConnection]:
        """Let a client connect to the server, and leave."""
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

        headers = {} if user is None else {"authorization": f"Bearer {user}"}
        async with httpx2.AsyncClient(
            headers=headers,
            timeout=TIMEOUT,
            verify=PLAIN,
            event_hooks={"request": [asked], "response": [answered]},
        ) as http:
            client = Client(
                streamable_http_client(proxy.url, http_client=http),
                mode=mode or self.mode,
                logging_callback=inbox.on_log,
                message_handler=inbox.on_message,
                **callbacks,
            )
            async with client:
                connection = HttpConnection(client, server.process, inbox, wire, proxy)
                yield connection
                # An answer that comes while it leaves crashes this client: the one to a call that
                # was cancelled, for example. A modern call that is cancelled has none.
                if not connection.is_modern:
                    with anyio.move_on_after(SETTLING):
                        await until(lambda: not unanswered)
                await anyio.wait_all_tasks_blocked()
        assert inbox.faults == []
