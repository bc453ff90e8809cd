"""The command line of the MCP Inspector, and `serve --http`, as the README shows them."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.node import install

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent
SERVER = HERE / "server"
PATIENCE = 30
"""Seconds for a program to start, to answer, or to end. Only a hang takes as long."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The endpoint of a server that the command runs."""
    command = [sys.executable, "-m", "trio_mcp_session", "serve", "server:router"]
    command += ["--http", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=SERVER, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            ready, _, _ = select.select([process.stderr], [], [], PATIENCE)
            told = process.stderr.readline() if ready else ""
            found = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+/mcp)\n", told)
            assert found, told
            yield found[1]
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.fixture
def inspect(node_modules: Path, url: str, tmp_path: Path) -> Callable[..., Any]:
    """Let the Inspector ask the server; what it says."""
    modules = install(HERE / "inspector" / "package.json", node_modules) / "node_modules"
    node, inspector = modules / "node" / "bin" / "node", modules / ".bin" / "mcp-inspector"
    # It keeps what it knows of servers below the home directory.
    environment = {**os.environ, "HOME": str(tmp_path)}

    def inspect(*arguments: str) -> Any:
        command = [str(node), str(inspector), "--cli", url, "--transport", "http", *arguments]
        result = subprocess.run(
            command,
            capture_output=True,
            check=False,
            encoding="utf-8",
            env=environment,
            timeout=PATIENCE,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return inspect


def test_tools_list(inspect: Callable[..., Any]) -> None:
    # Strict: it fails where a schema is not understood everywhere.
    listed = inspect("--method", "tools/list", "--strict")
    tools = {tool["name"]: tool for tool in listed["tools"]}
    assert tools["echo"]["description"] == "Return the text as it came."
    assert tools["add"]["inputSchema"]["required"] == ["a"]


def test_tools_call(inspect: Callable[..., Any]) -> None:
    call = ["--method", "tools/call", "--tool-name", "add", "--tool-arg", "a=2", "b=3"]
    assert inspect(*call)["structuredContent"] == {"sum": 5}


def test_resources_read(inspect: Callable[..., Any]) -> None:
    read = inspect("--method", "resources/read", "--uri", "memo://one")
    assert [content["text"] for content in read["contents"]] == ["the first memo"]
