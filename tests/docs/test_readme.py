"""What the README shows works as shown."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_mcp_session
from trio_mcp_session import McpError, TerminationReason, open_session_manager
from trio_mcp_session.testing import check_leaks, connect_client

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HANG_GUARD = 60.0
PREFIX = "io.modelcontextprotocol/"
MODERN = {
    f"{PREFIX}protocolVersion": "2026-07-28",
    f"{PREFIX}clientCapabilities": {"elicitation": {}},
}


def servers() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def the_server() -> str:
    """The one with sessions, which is also served over HTTP."""
    return servers()[-1]


async def test_the_smallest_server() -> None:
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(servers()[0], namespace)  # noqa: S102  # it is ours
    async with open_session_manager(namespace["router"]) as manager:
        async with connect_client(manager) as client:
            result = await client.call_tool("add", {"a": 1, "b": 2})
    assert (result.text, result.structured) == ("3", {"result": 3})


async def test_the_server_with_sessions(caplog: pytest.LogCaptureFixture) -> None:
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(the_server(), namespace)  # noqa: S102  # it is ours
    async with check_leaks():
        async with open_session_manager(namespace["router"]) as manager:
            async with connect_client(manager) as client:
                await client.call_tool("remember", {"note": "milk"})
                result = await client.call_tool("remember", {"note": "bread"})
                assert result.text == "That makes 2."
                notes = client.session.get_state(namespace["NOTES"])
                # What a client that knows both revisions asks first.
                with pytest.raises(McpError) as caught:
                    await client.request("server/discover", {"_meta": MODERN})
    assert notes == []
    assert caught.value.code == -32022
    assert "2025-11-25" in caught.value.data["supported"]
    assert not caplog.records


async def test_the_server_for_every_client(mock_clock: MockClock) -> None:
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(servers()[1], namespace)  # noqa: S102  # it is ours
    kind = namespace["NOTEBOOKS"]

    async def accept(_: dict[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"action": "accept", "content": {}}

    async with (
        check_leaks(),
        open_session_manager(namespace["router"]) as manager,
        connect_client(manager, elicit=accept) as client,
    ):

        async def ask_alone(tool: str, **params: Any) -> Any:
            return await client.request("tools/call", {"name": tool, "_meta": MODERN, **params})

        # The one opens it, and the other continues.
        opened = await client.call_tool("open_notebook", {"title": "Plans"})
        assert opened.structured is not None
        written = {"arguments": {**opened.structured, "note": "sleep"}}
        result = await ask_alone("write", **written)
        assert result["content"][0]["text"] == "Plans has 1."

        # One is asked, and the other has to retry.
        closing = {"arguments": opened.structured}
        result = await ask_alone("close_notebook", **closing)
        closing["requestState"] = result["requestState"]
        closing["inputResponses"] = {"elicitation-1": {"action": "decline"}}
        result = await ask_alone("close_notebook", **closing)
        assert result["content"][0]["text"] == "decline"
        assert (await client.call_tool("close_notebook", opened.structured)).text == "accept"
        assert (await ask_alone("write", **written))["isError"]

        # It ends by itself.
        opened = await client.call_tool("open_notebook", {"title": "Plans"})
        (session,) = (one for one in manager.sessions() if one.handle is not None)
        assert kind.expiry == "Expires after 1 hour without use."
        assert session.handle is not None
        notes = session.handle.value
        mock_clock.jump(3600 + manager.config.cleanup.cleanup_interval)
        assert await session.wait_terminated() is TerminationReason.IDLE
        assert notes == []


def test_links_lead_somewhere() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def commands_over_http() -> list[str]:
    _, _, section = README.partition("\n## Over HTTP\n")
    return re.findall(r"```console\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)


@attrs.define(eq=False)
class Process:
    """A process that is talked to like a terminal."""

    process: trio.Process
    said: str = ""

    async def type(self, text: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(text.encode())

    async def wait_said(self, text: str) -> str:
        """Wait until it says this, and return all that it has said up to its end of line."""
        assert self.process.stdout is not None
        while not re.search(text + r".*\n", self.said):
            chunk = await self.process.stdout.receive_some()
            assert chunk, f"ended without {text!r}, after {self.said!r}"
            self.said += chunk.decode().replace("\r", "")
        said, self.said = self.said, ""
        return said


@asynccontextmanager
async def running(*command: str, cwd: Path) -> AsyncIterator[Process]:
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        # The package that is being tested, wherever the program looks first.
        env={**os.environ, "PYTHONPATH": str(Path(trio_mcp_session.__file__).parents[1])},
    )
    try:
        with trio.fail_after(HANG_GUARD):  # noqa: ASYNC100  # the block has some
            yield Process(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                await stream.aclose()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_way_over_http_can_be_followed(tmp_path: Path) -> None:
    (tmp_path / "notes.py").write_text(the_server(), encoding="utf-8")
    serve, *steps, inspector = commands_over_http()
    installing, serving = serve.splitlines()
    assert installing == 'python -m pip install ".[http]"'
    # Any other port will do, if this one is taken. All else is as it is written.
    python, *arguments = serving.replace("127.0.0.1:8000", "127.0.0.1:0").split()
    assert python == "python"
    endpoint = "http://127.0.0.1:8000/mcp"
    assert all(endpoint in command for command in inspector.splitlines())

    async with (
        running(sys.executable, *arguments, cwd=tmp_path) as server,
        running("bash", cwd=tmp_path) as shell,
    ):
        url = (await server.wait_said("listening on ")).split()[-1]
        opening, calling, listening, ending = (step.replace(endpoint, url) for step in steps)

        await shell.type(opening)
        await shell.type("echo\n")  # answers have no end of line, which a terminal doesn't need
        said = await shell.wait_said('"result"')
        assert "HTTP/1.1 200 OK" in said
        assert '"serverInfo":{"name":"notes","version":"1.0"}' in said

        await shell.type(calling)
        await shell.type("echo\n")
        said = await shell.wait_said('"result"')
        assert "HTTP/1.1 202 Accepted" in said
        assert "That makes 1." in said

        await shell.type(listening)
        assert "id: " in await shell.wait_said("data:")

        await shell.type(ending)
        await shell.type("echo\n")
        said = await shell.wait_said("Session not found")
        assert re.findall(r"HTTP/1.1 (\d+)|(The stream has come to its end)", said) == [
            ("204", ""),
            ("", "The stream has come to its end"),
            ("404", ""),
        ]
