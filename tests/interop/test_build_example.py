"""The example of tasks, used by the official Python client, which does not know tasks."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import anyio
import mcp_types as types
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

pytestmark = pytest.mark.interop

BUILD = [str(Path(__file__).parents[2] / "examples" / "build.py"), "--step", "0.2"]
HANG_GUARD = 20.0
MODES = pytest.mark.parametrize("mode", ["2026-07-28", "auto", "legacy"])


async def accept(context: object, params: types.ElicitRequestParams) -> types.ElicitResult:
    assert params.message.endswith("?")
    return types.ElicitResult(action="accept", content={})


async def call(client: Client, tool: str, **arguments: object) -> str:
    (content,) = (await client.call_tool(tool, arguments)).content
    assert isinstance(content, types.TextContent)
    return content.text


async def use(client: Client, mode: str) -> None:
    """Build and publish, which takes longer than the half second after which it could be a task."""
    assert await call(client, "build", target="release") == "Built and published 4 modules."
    if mode == "legacy":
        assert await call(client, "delete_builds") == "Deleted 3 builds."
    else:
        with pytest.raises(MCPError, match="did not declare the extension"):
            await call(client, "delete_builds")


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Run the example over HTTP; yield where it listens."""
    command = [sys.executable, *BUILD, "--http", "127.0.0.1:0"]
    async with await anyio.open_process(command, stdin=None, stdout=None, stderr=PIPE) as process:
        assert process.stderr is not None
        log = BufferedByteReceiveStream(process.stderr)
        line = b""
        while b"listening on " not in line:
            line = await log.receive_until(b"\n", 2000)
        try:
            yield line.decode().partition("listening on ")[2].strip()
        finally:
            process.terminate()
        assert await process.wait() == 0


@MODES
def test_a_long_call_over_pipes(mode: str) -> None:
    async def main() -> None:
        parameters = StdioServerParameters(command=sys.executable, args=BUILD)
        with anyio.fail_after(HANG_GUARD):
            async with Client(
                stdio_client(parameters), mode=mode, elicitation_callback=accept
            ) as client:
                await use(client, mode)

    anyio.run(main)


@MODES
def test_a_long_call_over_http(mode: str) -> None:
    async def main() -> None:
        with anyio.fail_after(HANG_GUARD):
            async with serving() as url:
                async with Client(
                    streamable_http_client(url), mode=mode, elicitation_callback=accept
                ) as client:
                    await use(client, mode)

    anyio.run(main)
