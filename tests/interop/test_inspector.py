"""The MCP Inspector, by its command line: with `serve --http`, and as `inspect` starts it.

All is skipped where npm cannot install the Inspector.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
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


@pytest.fixture(scope="module")
def inspector(node_modules: Path) -> list[str]:
    """Command line of the Inspector, which prints what a server answers."""
    try:
        modules = install(HERE / "inspector" / "package.json", node_modules) / "node_modules"
    except subprocess.CalledProcessError as error:  # pragma: no cover  # not where there is npm
        pytest.skip(f"npm cannot install the Inspector: {error}")
    program = modules / ".bin" / "mcp-inspector"
    return [str(modules / "node" / "bin" / "node"), str(program), "--cli"]


def answer_of(command: Sequence[str], home: Path, **variables: str) -> Any:
    """Run a command, and read the JSON that it prints."""
    result = subprocess.run(
        command,
        capture_output=True,
        check=False,
        cwd=SERVER,
        encoding="utf-8",
        # It keeps what it knows of servers below the home directory.
        env={**os.environ, "HOME": str(home), **variables},
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def inspect(inspector: list[str], url: str, tmp_path: Path) -> Callable[..., Any]:
    """Let the Inspector ask the server over HTTP; what it says."""
    return lambda *arguments: answer_of(
        [*inspector, url, "--transport", "http", *arguments], tmp_path
    )


@pytest.fixture
def inspect_command(inspector: list[str], tmp_path: Path) -> Callable[..., Any]:
    """Let our `inspect` start the Inspector, which starts the server; what the Inspector says."""
    npx = tmp_path / "npx"

    def inspect(*arguments: str) -> Any:
        # `inspect` opens the Inspector's page. This `npx` takes the package as installed, and adds
        # what makes it a command line; the rest is as `inspect` wrote it.
        run = shlex.join([*inspector, *arguments])
        npx.write_text(f'#!/bin/sh\nshift 2\nexec {run} "$@"\n', "utf-8")
        npx.chmod(0o755)
        command = [sys.executable, "-m", "trio_mcp_session", "inspect", "-e", "GIVEN=a b"]
        command += ["server:router", "--log-level", "warning"]
        return answer_of(command, tmp_path, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

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


def test_our_command_starts_the_inspector_and_it_lists_tools(
    inspect_command: Callable[..., Any],
) -> None:
    listed = inspect_command("--method", "tools/list")
    assert {"echo", "add"} <= {tool["name"] for tool in listed["tools"]}


def test_our_command_starts_the_inspector_and_it_calls_a_tool(
    inspect_command: Callable[..., Any],
) -> None:
    call = ["--method", "tools/call", "--tool-name", "add", "--tool-arg", "a=2", "b=3"]
    assert inspect_command(*call)["structuredContent"] == {"sum": 5}
