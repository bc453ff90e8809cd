"""The official Python client at endpoints without sessions (``serve --stateless``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.programs import serving

pytestmark = [
    pytest.mark.interop,
    # Of the client.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


@pytest.mark.parametrize("mode, version", [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
async def test_the_official_client_needs_no_session(
    mode: str, version: str, tmp_path: Path
) -> None:
    mcp = pytest.importorskip("mcp")
    async with serving(tmp_path, "--http", "0", "--stateless") as program:
        url = (await program.stderr.next()).removeprefix("listening on ")
        async with mcp.Client(url, mode=mode) as client:
            assert client.protocol_version == version
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert names == {"echo", "wait_for", "fail"}
            for text in ("one", "two"):
                answer = await client.call_tool("echo", {"text": text})
                assert answer.content[0].text == text
