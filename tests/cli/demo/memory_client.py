"""The demo's clients in memory and in virtual time, with the same scripts as the processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, final

import attrs
import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

from tests.cli.programs import Connection, Lines
from trio_mcp_session.cli.demo.client import SCRIPTS, ScriptedClient


class HungUp(Exception):
    """The server has disconnected, or has answered with an error."""


@final
@attrs.define(eq=False)
class MemoryClient:
    """One client of the demo."""

    name: str
    stream: trio.abc.Stream
    sink: MemorySendStream
    source: MemoryReceiveStream
    failure: str | None = None
    progress: int = 0
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    gone: trio.Event = attrs.field(factory=trio.Event)
    answers: dict[int, Any] = attrs.field(factory=dict)
    answered: trio.Condition = attrs.field(factory=trio.Condition)
    connection: Connection = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.connection = Connection(self.sink, Lines(self.source))

    @property
    def peer(self) -> str:
        return f"memory {self.name}"

    def kill(self) -> None:
        self.scope.cancel()

    async def wait_gone(self) -> str | None:
        await self.gone.wait()
        return self.failure

    async def live(self) -> None:
        scripted = ScriptedClient(self.call)
        try:
            with self.scope:
                await self.connection.initialize(self.name)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.listen, scripted)
                    await SCRIPTS[self.name](scripted)
                    self.scope.cancel()
        except* (HungUp, EOFError, trio.BrokenResourceError):
            pass
        finally:
            self.gone.set()
            self.sink.close()
            self.source.close()

    async def listen(self, scripted: ScriptedClient) -> None:
        while line := await self.connection.lines.next():
            match json.loads(line):
                case {"method": "notifications/message", "params": {"data": text}}:
                    scripted.instruct(text)
                case {"method": "notifications/progress"}:
                    self.progress += 1
                case answer:
                    async with self.answered:
                        self.answers[answer["id"]] = answer
                        self.answered.notify_all()
        self.scope.cancel()

    async def call(self, tool: str, arguments: Mapping[str, Any], progress: bool) -> None:
        number = len(self.answers) + 1
        meta = {"_meta": {"progressToken": number}} if progress else {}
        await self.connection.send(
            "tools/call", {"name": tool, "arguments": arguments, **meta}, number
        )
        async with self.answered:
            while number not in self.answers:
                await self.answered.wait()
        if "error" in self.answers[number]:
            raise HungUp


@final
@attrs.define(eq=False)
class MemoryClients:
    """Starts clients in memory, and keeps them by name."""

    nursery: trio.Nursery
    clients: dict[str, MemoryClient] = attrs.field(factory=dict)

    async def __call__(self, name: str) -> MemoryClient:
        near, far = memory_stream_pair()
        client = MemoryClient(name, near, far.send_stream, far.receive_stream)
        self.clients[name] = client
        await trio.lowlevel.checkpoint()
        self.nursery.start_soon(client.live)
        return client
