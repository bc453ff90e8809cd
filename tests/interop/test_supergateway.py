"""supergateway, which starts its server over stdio long before a client comes."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import final

import attrs
import pytest
import trio
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client

from tests.cli import shifted
from tests.cli.programs import TOY, guarded
from tests.interop.node import install

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent
PROGRAM = f"""{TOY}
import os, sys
from trio_mcp_session import run_stdio

print(f"the server is process {{os.getpid()}}.", file=sys.stderr, flush=True)
run_stdio(router)
"""


@final
@attrs.define(eq=False)
class Log:
    """What a program tells, with empty lines in it."""

    stream: trio.abc.ReceiveStream
    text: str = ""

    async def until(self, text: str) -> str:
        """Return what was told before a text; it begins after what was found before."""
        while text not in self.text:
            chunk = await self.stream.receive_some()
            assert chunk, f"the end came, and no {text!r} in {self.text!r}"
            self.text += chunk.decode()
        before, _, self.text = self.text.partition(text)
        return before

    async def drop(self) -> None:
        """Read and forget; a process that is not read may stand still."""
        async for _ in self.stream:
            pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def gateway(node_modules: Path, folder: Path, port: int) -> AsyncIterator[Log]:
    """Run the gateway with a server on a shifted clock; what it tells."""
    modules = await trio.to_thread.run_sync(
        install, HERE / "supergateway" / "package.json", node_modules
    )
    (folder / "program.py").write_text(PROGRAM, "utf-8")
    server = shlex.join([sys.executable, str(shifted.__file__), "program.py"])
    command = [str(modules / "node_modules" / ".bin" / "supergateway")]
    process = await trio.lowlevel.open_process(
        [*command, "--port", str(port), "--stdio", server],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
    )
    assert process.stdout is not None
    # Its server ends with it: at the end of its standard input.
    async with process.stdout, guarded(process):
        yield Log(process.stdout)


async def test_a_client_that_comes_two_days_after_the_server(
    node_modules: Path, tmp_path: Path
) -> None:
    port = free_port()
    async with gateway(node_modules, tmp_path, port) as told:
        # Each begins after the one before: other lines may have these words, too.
        await told.until("the server is process ")
        child = int(await told.until("."))
        await told.until("ready")
        for _ in range(4):
            os.kill(child, signal.SIGUSR1)
            await told.until("later")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(told.drop)
            url = f"http://127.0.0.1:{port}/sse"
            async with sse_client(url) as streams, ClientSession(*streams) as client:
                assert (await client.initialize()).server_info.name == "toy"
                answer = await client.call_tool("echo", {"text": "good morning"})
                assert answer.content[0].text == "good morning"  # type: ignore[union-attr]  # it is text
            nursery.cancel_scope.cancel()
