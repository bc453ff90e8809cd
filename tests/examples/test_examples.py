"""The examples, run as their users run them: as processes, over pipes and over TCP.

Those over HTTP are in `test_http_examples.py`.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import trio_mcp_session

EXAMPLES = Path(__file__).parents[2] / "examples"
HANG_GUARD = 60.0


@attrs.define(eq=False)
class Client:
    """Speaks JSON-RPC, one message a line. Keeps what comes between answers in ``notes``."""

    stream: trio.abc.Stream
    notes: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])
    received: bytes = b""
    last_id: int = 0

    async def send(self, **message: Any) -> None:
        await self.stream.send_all(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        while b"\n" not in self.received:
            chunk = await self.stream.receive_some()
            assert chunk, "the server has closed the connection"
            self.received += chunk
        line, _, self.received = self.received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        assert message.pop("jsonrpc") == "2.0"
        return message

    async def request(self, method: str, **params: Any) -> Any:
        self.last_id += 1
        await self.send(id=self.last_id, method=method, params=params)
        while "method" in (message := await self.receive()):
            self.notes.append(message)
        assert message["id"] == self.last_id
        return message["result"] if "result" in message else message["error"]

    async def call(self, tool: str, **arguments: Any) -> Any:
        result = await self.request("tools/call", name=tool, arguments=arguments)
        data = result.get("structuredContent")
        return data if data and "result" not in data else result["content"][0]["text"]

    async def next_note(self) -> dict[str, Any]:
        return self.notes.pop(0) if self.notes else await self.receive()

    async def shake_hands(self, name: str) -> Any:
        greeting = await self.request(
            "initialize",
            protocolVersion="2025-11-25",
            capabilities={},
            clientInfo={"name": name, "version": "1"},
        )
        await self.send(method="notifications/initialized")
        return greeting


@attrs.define(eq=False)
class Program:
    """An example that runs."""

    process: trio.Process
    client: Client
    said: bytearray = attrs.field(factory=bytearray)
    """What it has written to standard error."""
    heard: trio.Event = attrs.field(factory=trio.Event)

    async def listen(self) -> None:
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            self.said += chunk
            self.heard.set()
            self.heard = trio.Event()

    async def wait_said(self, text: str) -> str:
        """Wait until a line with ``text`` is complete, and return what comes after it."""
        while True:
            for line in bytes(self.said).decode().splitlines(keepends=True):
                if text in line and line.endswith("\n"):
                    return line.partition(text)[2].strip()
            await self.heard.wait()

    async def leave(self) -> int:
        """Close its standard input, and wait for its end."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        return await self.process.wait()


@asynccontextmanager
async def running(example: str, *arguments: str) -> AsyncIterator[Program]:
    # The package that is being tested, wherever the programs look first.
    package = str(Path(trio_mcp_session.__file__).parents[1])
    process = await trio.lowlevel.open_process(
        [sys.executable, "-W", "error::ResourceWarning", str(EXAMPLES / example), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": package},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with process.stdin, process.stdout, process.stderr:
            with trio.fail_after(HANG_GUARD):
                async with trio.open_nursery() as nursery:
                    stream = trio.StapledStream(process.stdin, process.stdout)
                    program = Program(process, Client(stream))
                    nursery.start_soon(program.listen)
                    yield program
    finally:
        if process.poll() is None:
            process.kill()  # pragma: no cover  # only where the test fails


def test_each_example_is_tested() -> None:
    tested = {
        "authenticated.py",  # test_http_examples.py, as the other one over HTTP
        "build.py",  # test_build.py
        "composed.py",
        "databases.py",  # test_databases.py
        "everything.py",  # all of it in tests/interop/everything
        "minimal.py",
        "mounted.py",
        "stateful.py",
    }
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    for name in tested:
        assert f"[{name}]({name})" in readme


def test_the_smallest_is_small() -> None:
    source = (EXAMPLES / "minimal.py").read_text("utf-8")
    assert len(source.splitlines()) <= 20
    assert ast.get_docstring(ast.parse(source))


def test_the_one_with_everything_has_a_hundred_lines() -> None:
    lines = map(str.strip, (EXAMPLES / "everything.py").read_text("utf-8").splitlines())
    assert sum(bool(line) and not line.startswith("#") for line in lines) <= 100


async def test_everything() -> None:
    async with running("everything.py") as program:
        client = program.client
        greeting = await client.shake_hands("test")
        assert greeting["serverInfo"]["title"] == "Everything"
        assert await client.call("divide", a=7, b=2, by="//") == "3.0"
        assert await client.call("divide", a=1, b=0) == "b must not be 0"
        assert await client.call("status") == {"calls": 3, "in_thread": True}
        await client.request("resources/subscribe", uri="notes://home")
        assert await client.call("add_note", topic="home", text="milk") == "written"
        (note,) = client.notes
        assert note["params"] == {"uri": "notes://home"}
        read = await client.request("resources/read", uri="notes://home?limit=1")
        assert read["contents"][0]["text"] == "milk"
        assert await program.leave() == 0
    assert not program.said


async def test_minimal() -> None:
    async with running("minimal.py") as program:
        client = program.client
        greeting = await client.shake_hands("test")
        assert greeting["serverInfo"] == {"name": "minimal", "version": "1.0"}
        (tool,) = (await client.request("tools/list"))["tools"]
        assert tool["description"] == "Greet a person by name."
        assert tool["inputSchema"]["required"] == ["name"]
        assert await client.call("greet", name="Ada") == "Hello, Ada."
        assert await client.call("greet", name="Ada", excited=True) == "Hello, Ada!"
        assert "Invalid arguments" in await client.call("greet")
        assert await program.leave() == 0
    assert not program.said


async def test_stateful() -> None:
    changed = {"method": "notifications/resources/updated", "params": {"uri": "notes:all"}}
    async with running("stateful.py") as program:
        client = program.client
        await client.shake_hands("test")
        assert await client.request("resources/subscribe", uri="notes:all") == {}

        assert await client.call("add_note", text="one") == {"count": 1}
        assert client.notes == [changed]

        # Progress.
        client.notes.clear()
        result = await client.request(
            "tools/call",
            name="import_notes",
            arguments={"texts": ["two", "three"]},
            _meta={"progressToken": "t"},
        )
        assert result["structuredContent"] == {"imported": 2}
        assert [note["params"] for note in client.notes if note != changed] == [
            {"progressToken": "t", "progress": 1, "total": 2, "message": "wrote 'two'"},
            {"progressToken": "t", "progress": 2, "total": 2, "message": "wrote 'three'"},
        ]
        assert "texts is empty" in await client.call("import_notes", texts=[])

        # Work that outlives its request.
        client.notes.clear()
        assert "will be written in 0 seconds" in await client.call("remind", text="four", seconds=0)
        assert await client.next_note() == changed

        # The notes, as resources.
        (resource,) = (await client.request("resources/list"))["resources"]
        (content,) = (await client.request("resources/read", uri=resource["uri"]))["contents"]
        assert json.loads(content["text"]) == ["one", "two", "three", "four"]
        contents = (await client.request("resources/read", uri="notes:4"))["contents"]
        assert [content["text"] for content in contents] == ["four"]
        assert (await client.request("resources/read", uri="notes:5"))["code"] == -32002

        # A folder that is held.
        path = trio.Path((await client.call("export_notes"))["path"])
        assert await path.read_text("utf-8") == "one\ntwo\nthree\nfour\n"
        other = trio.Path((await client.call("export_notes"))["path"])
        assert other != path

        # And all of it ends, work that is not done included.
        await client.call("remind", text="never", seconds=3600)
        assert await program.leave() == 0
        for held in (path, other):
            assert not await held.parent.exists()
    assert not program.said


async def test_composed() -> None:
    async with running("composed.py", "--interval", "0.001") as program:
        port = int(await program.wait_said("listening on port "))
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            first, second = program.client, Client(stream)
            for name, client in [("first", first), ("second", second)]:
                await client.shake_hands(name)
                await program.wait_said(f"{name} is connected")

            # The program works, and its subscribers are notified.
            assert await second.request("resources/subscribe", uri="counter:count") == {}
            for _ in range(2):
                assert await second.next_note() == {
                    "method": "notifications/resources/updated",
                    "params": {"uri": "counter:count"},
                }
            (content,) = (await first.request("resources/read", uri="counter:count"))["contents"]
            assert int(content["text"]) >= 2
            assert not first.notes
            (resource,) = (await first.request("resources/list"))["resources"]
            assert resource["uri"] == "counter:count"
            assert (await first.request("resources/read", uri="x:"))["code"] == -32002

            # Clients share the program, not their sessions.
            assert await first.call("set_step", step=0) == {"old": 1}
            assert await second.call("set_step", step=1) == {"old": 0}

            # The one that started it leaves, and the other is let go.
            assert await program.leave() == 0
            assert b"".join([chunk async for chunk in stream]).count(b"error") == 0
        assert await program.wait_said("a session has ended: client closed") == ""
        assert await program.wait_said("a session has ended: shutdown") == ""
        assert await program.wait_said("all sessions have ended") == ""
        assert b"Traceback" not in program.said


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_composed_is_stopped(stop: signal.Signals) -> None:
    async with running("composed.py") as program:
        port = int(await program.wait_said("listening on port "))
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await Client(stream).shake_hands("other")
            await program.client.shake_hands("test")
            await program.wait_said("other is connected")
            await program.wait_said("test is connected")
            program.process.send_signal(stop)
            assert await program.process.wait() == 0
            assert await stream.receive_some() == b""
        await program.wait_said("all sessions have ended")
        assert program.said.count(b"a session has ended: shutdown") == 2
        assert b"Traceback" not in program.said
