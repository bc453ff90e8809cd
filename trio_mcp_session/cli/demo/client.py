"""The demo's clients: each is a process with the client of the official SDK.

``python -m trio_mcp_session.cli.demo.client NAME`` speaks MCP over its standard input and output.
The demo sends log messages as instructions, which say when a client takes its next step. So the
demo runs in the same order on fast and on slow machines.
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
"""Seconds of a call that takes longer than the demo."""

Call = Callable[[str, dict[str, Any], bool], Awaitable[None]]
"""Calls a tool, with or without asking for progress, and returns when it is answered."""


@final
@attrs.define(eq=False)
class ScriptedClient:
    """A client, as its script uses it."""

    _call: Call = attrs.field(alias="call")
    _instructions: defaultdict[str, trio.Event] = attrs.field(
        factory=lambda: defaultdict(trio.Event), init=False
    )

    async def call(self, tool: str, *, progress: bool = False, **arguments: Any) -> None:
        """Call a tool."""
        await self._call(tool, arguments, progress)

    def instruct(self, text: str) -> None:
        """Note an instruction of the demo."""
        self._instructions[text].set()

    async def wait_for(self, text: str) -> None:
        """Wait for an instruction."""
        await self._instructions[text].wait()

    async def chat_until(self, text: str) -> None:
        """Make small calls until an instruction comes."""
        while not self._instructions[text].is_set():
            await self.call("note", text="hello")
            with trio.move_on_after(CHATTER):
                await self.wait_for(text)


async def ada(client: ScriptedClient) -> None:
    """Make calls until the server ends."""
    await client.chat_until("last call")
    await client.call("crunch", progress=True, seconds=1.5)
    await trio.sleep_forever()


async def cleo(client: ScriptedClient) -> None:
    """Start background work on the server; disconnect when it is done."""
    await client.chat_until("index")
    await client.call("index", seconds=9.0)
    await client.wait_for("indexed")
    await client.chat_until("leave")


async def dave(client: ScriptedClient) -> None:
    """Call a tool that has a bug."""
    await client.chat_until("sabotage")
    await client.call("sabotage")
    await trio.sleep_forever()


async def quiet(client: ScriptedClient) -> None:
    """Stop sending."""
    await client.chat_until("silence")
    await trio.sleep_forever()


async def fay(client: ScriptedClient) -> None:
    """Make a call; the demo kills the process during the call."""
    await client.chat_until("last call")
    # Without progress: so the server detects the end when it reads, never when it writes.
    await client.call("crunch", seconds=LONG)


async def gus(client: ScriptedClient) -> None:
    """Make a call that takes too long."""
    await client.chat_until("last call")
    await client.call("crunch", progress=True, seconds=LONG)


SCRIPTS: Final[Mapping[str, Callable[[ScriptedClient], Awaitable[None]]]] = {
    "ada": ada,
    "ben": quiet,
    "cleo": cleo,
    "dave": dave,
    "eve": quiet,
    "fay": fay,
    "gus": gus,
    "hal": quiet,
}
"""The script of each client."""


@final
@attrs.define(eq=False)
class _Lines:
    """Standard input, line by line, as the SDK reads a file; calls back at its end."""

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


async def run_client(name: str) -> None:  # pragma: no cover  # needs the SDK: tests/interop
    """Run the client of that name, until its script ends or the server disconnects."""
    # Here, so that the rest of this module can be imported without the SDK.
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
        progress: float,  # noqa: ARG001  # only their arrival matters
        total: float | None,  # noqa: ARG001
        message: str | None,  # noqa: ARG001
    ) -> None:
        await trio.lowlevel.checkpoint()

    async def on_log(params: LoggingMessageNotificationParams) -> None:
        scripted.instruct(str(params.data))
        await trio.lowlevel.checkpoint()

    scripted = ScriptedClient(call)
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
                await SCRIPTS[name](scripted)
            except MCPError as error:
                print(f"{name}: {error}", file=sys.stderr)
            life.cancel()


def main() -> None:  # pragma: no cover  # as above
    """Run the client whose name is on the command line."""
    trio.run(run_client, sys.argv[1])


if __name__ == "__main__":  # pragma: no cover  # as above
    main()
