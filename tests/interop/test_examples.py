"""The example of handles, used by the official Python client: both eras, and many connections."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import anyio
import mcp_types as types
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

pytestmark = pytest.mark.interop

DATABASES = str(Path(__file__).parents[2] / "examples" / "databases.py")
HANG_GUARD = 20.0
TABLE = "CREATE TABLE notes (text)"
INSERT = "INSERT INTO notes VALUES ('milk')"
SELECT = "SELECT text FROM notes"
TOKENS = {"ada": "one", "bob": "two"}


async def call(client: Client, tool: str, **arguments: object) -> Any:
    """Call a tool; return its value, or the text of its error."""
    result = await client.call_tool(tool, arguments)
    if not result.is_error:
        return result.structured_content
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Run the example over HTTP; yield where it listens."""
    tokens = [f"--token={name}={token}" for name, token in TOKENS.items()]
    command = [sys.executable, DATABASES, "--http", "127.0.0.1:0", *tokens]
    async with await anyio.open_process(command, stdin=None, stdout=None, stderr=PIPE) as process:
        assert process.stderr is not None
        line = await BufferedByteReceiveStream(process.stderr).receive_until(b"\n", 200)
        try:
            yield line.decode().removeprefix("listening on ")
        finally:
            process.terminate()
        assert await process.wait() == 0


@asynccontextmanager
async def connected(url: str, mode: str, name: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {TOKENS[name]}"}
    async with create_mcp_http_client(headers=headers) as http_client:
        async with Client(
            streamable_http_client(url, http_client=http_client), mode=mode
        ) as client:
            yield client


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("mode", ["2026-07-28", "auto", "legacy"])
def test_handles_over_http_with_reconnects(backend: str, mode: str) -> None:
    async def main() -> None:
        with anyio.fail_after(HANG_GUARD):
            async with serving() as url:
                async with connected(url, mode, "ada") as client:
                    told = await call(client, "open_database", statements=[TABLE])
                    database_id = told["database_id"]
                async with connected(url, mode, "ada") as client:
                    await call(client, "execute", database_id=database_id, sql=INSERT)
                async with connected(url, mode, "bob") as client:
                    told = await call(client, "execute", database_id=database_id, sql=SELECT)
                    assert database_id in told
                    assert "expired" in told
                # Whatever the client speaks now.
                for later in ("legacy", "2026-07-28"):
                    async with connected(url, later, "ada") as client:
                        told = await call(client, "execute", database_id=database_id, sql=SELECT)
                        assert told == {"rows": [["milk"]]}
                async with connected(url, mode, "ada") as client:
                    told = await call(client, "close_database", database_id=database_id)
                    assert told == {"closed": True}

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("mode", ["2026-07-28", "auto", "legacy"])
def test_handles_over_pipes(backend: str, mode: str, tmp_path: Path) -> None:
    async def main() -> None:
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        parameters = StdioServerParameters(
            command=sys.executable, args=[DATABASES], env=environment
        )
        with anyio.fail_after(HANG_GUARD):
            async with Client(stdio_client(parameters), mode=mode) as client:
                told = await call(client, "open_database", statements=[TABLE, INSERT])
                database_id = told["database_id"]
                told = await call(client, "execute", database_id=database_id, sql=SELECT)
                assert told == {"rows": [["milk"]]}
                assert len(list(tmp_path.iterdir())) == 1  # noqa: ASYNC240  # it is a test

    anyio.run(main, backend=backend)
    assert not list(tmp_path.iterdir())
