"""Old TypeScript clients whose stream of GET dies, which the server does not notice.

A relay keeps its side to the server open, as a NAT or a proxy that has forgotten a connection does,
and ends the side to the client. The client opens the stream again, and hears what comes from then
on: its newest GET takes over.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

import attrs
import pytest
import trio

from tests.interop.node import install
from tests.interop.third_party.servers import http_server

pytestmark = pytest.mark.interop

HERE: Final = Path(__file__).parent
VERSIONS: Final = {"1.17.5": "sdk_1_17.json", "1.22.0": "sdk_1_22.json"}
PATIENCE: Final = 30.0
CHUNK: Final = 1 << 16


@final
@attrs.define(eq=False)
class Relay:
    """Carries bytes between clients and a server, until it forgets the clients' side."""

    server_port: int
    nursery: trio.Nursery
    streams: list[trio.SocketStream] = attrs.field(factory=list)
    """The clients' sides of connections that a GET came over."""
    port: int = 0

    async def listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        async def serve() -> None:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started()
            await trio.serve_listeners(self.carry, listeners)

        await serve()

    async def carry(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", self.server_port)
        # Closed by the end of the test: the server must not notice what happens to the client.
        self.nursery.start_soon(self.carry_down, server, client)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in client:
                if data.startswith(b"GET "):
                    self.streams.append(client)
                await server.send_all(data)

    async def carry_down(self, server: trio.SocketStream, client: trio.SocketStream) -> None:
        async with server:
            async for data in server:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await client.send_all(data)

    async def forget(self) -> None:
        """End the client's side of its stream of GET, and keep that of the server."""
        stream = self.streams.pop()
        await stream.aclose()


@final
@attrs.define(eq=False)
class Told:
    """What the client tells, one line of JSON after the other."""

    source: trio.abc.ReceiveStream
    _buffer: bytes = b""
    _next: Iterator[Any] = attrs.field(factory=lambda: iter(()))

    async def until(self, **wanted: Any) -> None:
        """Wait for a line; those before it are skipped."""
        while (told := await self.line()) != wanted:
            # What is not wanted, and what the client is not told.
            assert told.get("get", 200) == 200, told

    async def line(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            chunk = await self.source.receive_some(CHUNK)
            assert chunk, "the client has ended"
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found


@pytest.mark.parametrize("first", ["something was heard", "nothing was heard"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_second_get_of_a_client_whose_first_connection_died_takes_over(
    version: str, first: str, node_modules: Path
) -> None:
    folder = await trio.to_thread.run_sync(install, HERE / "node" / VERSIONS[version], node_modules)
    shutil.copy(HERE / "node" / "second_get.mjs", folder)
    with http_server() as server, trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            relay = Relay(server.port, nursery)
            await nursery.start(relay.listen)
            url = f"http://127.0.0.1:{relay.port}/mcp"
            process = await trio.lowlevel.open_process(
                ["node", "second_get.mjs", url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=folder,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                async with process.stdin, process.stdout:
                    told = Told(process.stdout)
                    await told.until(get=200)
                    if first == "something was heard":
                        # It has the id of an event then, and asks for what came behind it.
                        await process.stdin.send_all(b"1\n")
                        await told.until(heard="memo://1")
                    await relay.forget()
                    await told.until(get=200)
                    await process.stdin.send_all(b"2\n")
                    await told.until(heard="memo://2")
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
                nursery.cancel_scope.cancel()
