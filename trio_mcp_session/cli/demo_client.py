"""The demo's clients: each a process of its own, with the official SDK's client in it.

``python -m trio_mcp_session.cli.demo_client NAME`` speaks MCP over its standard input and output.
What a client does, and when, is cued by the demo with log messages, so that the play goes the
same way on fast and on slow machines.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Self, final

import attrs
import trio

CHATTER: Final = 0.6
"""Seconds between two calls of a client that has nothing particular to do."""

LONG: Final = 60.0
"""Seconds of a call that nobody waits for."""

Call = Callable[[str, dict[str, Any], bool], Awaitable[None]]
"""Calls a tool, with or without asking for progress, and returns when it is answered."""


@final
@attrs.define(eq=False)
class Player:
    """A client, as its role sees it."""

    _call: Call = attrs.field(alias="call")
    _cues: defaultdict[str, trio.Event] = attrs.field(
        factory=lambda: defaultdict(trio.Event), init=False
    )

    async def call(self, tool: str, *, progress: bool = False, **arguments: Any) -> None:
        """Call a tool."""
        await self._call(tool, arguments, progress)

    def cue(self, text: str) -> None:
        """Tell the client that its moment has come."""
        self._cues[text].set()

    async def wait_for(self, text: str) -> None:
        """Wait for the cue."""
        await self._cues[text].wait()

    async def chat_until(self, text: str) -> None:
        """Make small calls until the cue."""
        while not self._cues[text].is_set():
            await self.call("note", text="hello")
            with trio.move_on_after(CHATTER):
                await self.wait_for(text)


async def ada(player: Player) -> None:
    """Work on, up to the end."""
    await player.chat_until("last call")
    await player.call("crunch", progress=True, seconds=1.5)
    await trio.sleep_forever()


async def cleo(player: Player) -> None:
    """Let the server work in the background; leave when that is done."""
    await player.chat_until("index")
    await player.call("index", seconds=9.0)
    await player.wait_for("indexed")
    await player.chat_until("leave")


async def dave(player: Player) -> None:
    """Call a tool that has a bug."""
    await player.chat_until("sabotage")
    await player.call("sabotage")
    await trio.sleep_forever()


async def quiet(player: Player) -> None:
    """Fall silent."""
    await player.chat_until("silence")
    await trio.sleep_forever()


async def fay(player: Player) -> None:
    """Make a call and be killed in the middle of it."""
    await player.chat_until("last call")
    # Without progress: so the server learns of the end by reading, never by writing.
    await player.call("crunch", seconds=LONG)


async def gus(player: Player) -> None:
    """Make a call that takes too long."""
    await player.chat_until("last call")
    await player.call("crunch", progress=True, seconds=LONG)


ROLES: Final[Mapping[str, Callable[[Player], Awaitable[None]]]] = {
    "ada": ada,
    "ben": quiet,
    "cleo": cleo,
    "dave": dave,
    "eve": quiet,
    "fay": fay,
    "gus": gus,
    "hal": quiet,
}
"""Who plays what."""


@final
@attrs.define(eq=False)
class _Lines:
    """Standard input, line by line, as the SDK reads a file; tells when there is no more."""

    _source: trio.abc.ReceiveStream
    _at_end: Callable[[], None]
    _lines: deque[bytes] = attrs.field(factory=deque[bytes], init=False)
    _rest: bytes = attrs.field(default=b"", init=False)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._lines:
            chunk = await self._source.receive_some()
            if not chunk:
                self._at_end()
                raise StopAsyncIteration
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._lines.extend(lines)
        return self._lines.popleft().decode()


@final
@attrs.define(eq=False)
class _Writer:
    """Standard output, as the SDK writes a file."""

    _sink: trio.abc.SendStream

    async def write(self, text: str) -> None:
        await self._sink.send_all(text.encode())

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()


async def play(name: str) -> None:  # pragma: no cover  # needs the SDK: tests/interop plays it
    """Be the client of that name, until its role is over or the server hangs up."""
    # Here, so that all the rest of this module can do without the SDK.
    from mcp.client.client import Client  # noqa: PLC0415
    from mcp.server.stdio import stdio_server  # noqa: PLC0415
    from mcp.shared.exceptions import MCPError  # noqa: PLC0415
    from mcp_types import (  # noqa: PLC0415
        Implementation,
        LoggingMessageNotificationParams,
    )

    async def call(tool: str, arguments: dict[str, Any], progress: bool) -> None:  # noqa: FBT001
        callback = on_progress if progress else None
        await client.call_tool(tool, arguments, progress_callback=callback)

    async def on_progress(
        progress: float,  # noqa: ARG001  # it is enough that they come
        total: float | None,  # noqa: ARG001
        message: str | None,  # noqa: ARG001
    ) -> None:
        await trio.lowlevel.checkpoint()

    async def on_log(params: LoggingMessageNotificationParams) -> None:
        player.cue(str(params.data))
        await trio.lowlevel.checkpoint()

    player = Player(call)
    with trio.CancelScope() as life:
        lines: Any = _Lines(trio.lowlevel.FdStream(0), life.cancel)
        writer: Any = _Writer(trio.lowlevel.FdStream(1))
        # The SDK's own stdio client starts its server. Here the server started the client; its
        # other stdio transport speaks the same lines, and takes standard streams as they are.
        client = Client(
            stdio_server(lines, writer),
            mode="legacy",
            client_info=Implementation(name=name, version="1.0"),
            logging_callback=on_log,
        )
        async with client:
            try:
                await ROLES[name](player)
            except MCPError as error:
                print(f"{name}: {error}", file=sys.stderr)
            life.cancel()


def main() -> None:  # pragma: no cover  # as above
    """Run the client whose name is on the command line."""
    trio.run(play, sys.argv[1])


if __name__ == "__main__":  # pragma: no cover  # as above
    main()
