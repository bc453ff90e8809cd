"""A server process that is stopped for longer than its clocks run: what has arrived counts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.cli.programs import Connection, HttpClient, Lines, Program, running
from tests.helpers import LATEST, initialize, request, result
from tests.transports.http.live import Wire, connect
from trio_mcp_session import BoundAddress

SERVER = Path(__file__).parent / "servers" / "stopped.py"
LARGE = 100_000  # It fits into the buffers of the socket.


@attrs.frozen
class Server:
    """A running server, and the ports that it listens on."""

    program: Program
    ports: Mapping[str, int]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the process for the length of a block, in which an hour passes for it."""
        pid = self.program.process.pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        yield
        os.kill(pid, signal.SIGUSR1)
        os.kill(pid, signal.SIGCONT)

    async def connect(self, where: str) -> Wire:
        return await connect(BoundAddress(host="127.0.0.1", port=self.ports[where]))

    async def open_http(self, server: str) -> HttpClient:
        client = HttpClient("", await self.connect(server))
        await client.initialize()
        return client

    async def open_tcp(self, **capabilities: object) -> Connection:
        stream = await trio.open_tcp_stream("127.0.0.1", self.ports["tcp"])
        connection = Connection(stream, Lines(stream))
        hello = initialize(0, LATEST)
        hello["params"]["capabilities"] = capabilities
        await connection.send("initialize", hello["params"], 0)
        await connection.receive()
        await connection.send("notifications/initialized")
        await connection.call("echo", text="ready")
        assert await connection.text() == "ready"
        return connection


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[Server]:
    async with running([str(SERVER)], tmp_path) as program:
        yield Server(program, json.loads(await program.stderr.next()))
        await program.stdio.sink.aclose()
        assert await program.wait() == 0


def echo(text: str) -> dict[str, Any]:
    return request(1, "tools/call", {"name": "echo", "arguments": {"text": text}})


@pytest.mark.parametrize("size", [1, LARGE])
async def test_a_request_over_tcp_counts_before_the_idle_clock(size: int, tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        client = await server.open_tcp()
        async with client.sink:
            with server.stopped():
                await client.call("echo", text=size * "x")
            assert await client.text() == size * "x"


async def test_a_request_on_an_open_http_connection_counts_before_the_idle_clock(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        client = await server.open_http("builtin")
        async with client.wire:
            with server.stopped():
                await client.begin_call("echo", text="hey")
            assert await client.text() == "hey"


@pytest.mark.parametrize("name", ["builtin", "hypercorn"])
async def test_requests_on_new_http_connections_count_before_the_idle_clock(
    name: str, tmp_path: Path
) -> None:
    """They have to be accepted first, one after the other."""
    async with serving(tmp_path) as server:
        clients = [await server.open_http(name) for _ in range(10)]
        for client in clients:
            await client.wire.aclose()
        with server.stopped():
            for client in clients:
                client.wire = await server.connect(name)
                await client.begin_call("echo", text="hey")
        for client in clients:
            async with client.wire:
                assert await client.text() == "hey"


async def test_a_session_whose_client_sent_nothing_ends(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        client, other = await server.open_http("builtin"), await server.open_http("builtin")
        async with client.wire, other.wire:
            with server.stopped():
                await client.begin_call("echo", text="hey")
            assert await client.text() == "hey"
            while await client.call("count") != "1":
                pass  # pragma: no cover  # it may have ended at once
            async with await server.connect("builtin") as wire:
                assert (await wire.request("POST", echo("hey"), other.headers)).status == 404


async def test_an_answer_to_a_question_counts_before_its_timeout(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        client = await server.open_tcp(elicitation={})
        async with client.sink:
            await client.call("ask", 5)
            question = await client.receive()
            with server.stopped():
                answer = result(question["id"], {"action": "decline"})
                await client.sink.send_all(json.dumps(answer).encode() + b"\n")
            assert await client.text() == "decline"
