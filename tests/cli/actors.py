"""Stand-ins for the demo's client processes: the same roles, over memory, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, final

import attrs
import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

from tests.cli.programs import Connection, Lines
from trio_mcp_session.cli.demo_client import ROLES, Player


class HungUp(Exception):
    """The server is gone, or has answered with an error."""


@final
@attrs.define(eq=False)
class MemoryActor:
    """One client of the demo."""

    name: str
    stream: trio.abc.Stream
    sink: MemorySendStream
    source: MemoryReceiveStream
    complaint: str | None = None
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
        return self.complaint

    async def live(self) -> None:
        player = Player(self.call)
        try:
            with self.scope:
                await self.connection.initialize(self.name)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.listen, player)
                    await ROLES[self.name](player)
                    self.scope.cancel()
        except* (HungUp, EOFError, trio.BrokenResourceError):
            pass
        finally:
            self.gone.set()
            self.sink.close()
            self.source.close()

    async def listen(self, player: Player) -> None:
        while line := await self.connection.lines.next():
            match json.loads(line):
                case {"method": "notifications/message", "params": {"data": cue}}:
                    player.cue(cue)
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
class Agency:
    """Starts stand-ins, and knows them."""

    nursery: trio.Nursery
    actors: dict[str, MemoryActor] = attrs.field(factory=dict)

    async def __call__(self, name: str) -> MemoryActor:
        near, far = memory_stream_pair()
        actor = MemoryActor(name, near, far.send_stream, far.receive_stream)
        self.actors[name] = actor
        await trio.lowlevel.checkpoint()
        self.nursery.start_soon(actor.live)
        return actor
