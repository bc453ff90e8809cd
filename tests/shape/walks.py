"""Six walks through the package, traced: ``python -m tests.shape.walks [--calls]``.

Each is done twice before it is counted, in virtual time, over connections in memory: nothing of
the client runs in the package. ``--calls`` prints each call, too.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import initialize, notification, request
from tests.transports.http.asgi_client import Client
from tests.transports.http.modern import headers_of, modern
from trio_mcp_session import (
    HandleKind,
    Principal,
    RequestContext,
    Router,
    SessionManager,
    http_app,
    open_session_manager,
    serve_stream,
)

from .tracing import Counts, Trace

USER: Final = Principal("user")
WARM_UP: Final = 2
ELICITATION: Final[Mapping[str, Any]] = {"elicitation": {}}


@asynccontextmanager
async def open_box() -> AsyncIterator[str]:
    """Open what the handle of a walk stands for."""
    yield "box"


BOXES: Final = HandleKind[str]("box", open_box)


def make_router(trace: Trace) -> Router:
    """Return a server with a tool for each walk."""
    router = Router("walks", "1")

    @router.tool()
    async def add(ctx: RequestContext, a: int, b: int) -> int:
        await trio.lowlevel.checkpoint()
        return a + b

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        return (await ctx.elicit("Go on?", {"type": "object", "properties": {}}, key="go")).action

    @router.tool()
    async def open_handle(ctx: RequestContext) -> str:
        return await ctx.open_handle(BOXES)

    @router.tool()
    async def use_handle(ctx: RequestContext, handle: str) -> str:
        with trace.recording():
            async with ctx.use_handle(BOXES, handle) as box:
                return box

    return router


class Pipe:
    """A client by hand at the other end of a byte stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.last_id = 0

    async def send(self, message: Mapping[str, Any]) -> None:
        await self.stream.send_all(msgspec.json.encode(message) + b"\n")

    async def ask(self, message: Mapping[str, Any]) -> Any:
        """Send a request, and return the result."""
        await self.send(message)
        line = b""
        while not line.endswith(b"\n"):
            line += await self.stream.receive_some()
        await wait_all_tasks_blocked()
        return msgspec.json.decode(line)["result"]

    async def call(self, tool: str, **arguments: object) -> Any:
        """Call a tool in the session, and return its text."""
        self.last_id += 1
        params = {"name": tool, "arguments": arguments}
        result = await self.ask(request(self.last_id, "tools/call", params))
        return result["content"][0]["text"]

    async def initialize(self) -> None:
        await self.ask(initialize())
        await self.send(notification("notifications/initialized"))
        await wait_all_tasks_blocked()


@asynccontextmanager
async def pipe(manager: SessionManager) -> AsyncIterator[Pipe]:
    """Connect a client to a manager over a byte stream."""
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_stream(manager, server, principal=USER)

        nursery.start_soon(serve)  # noqa: ASYNC113  # the first request waits for it
        yield Pipe(client)
        await client.aclose()


# The walks.


async def call_on_pipe(manager: SessionManager, trace: Trace) -> None:
    """One tools/call on a pipe."""
    async with pipe(manager) as client:
        await client.initialize()
        for _ in range(WARM_UP):
            await client.call("add", a=1, b=2)
        with trace.recording():
            assert await client.call("add", a=1, b=2) == "3"


async def legacy_post(manager: SessionManager, trace: Trace) -> None:
    """One tools/call of a session over HTTP."""
    client = await Client(http_app(manager), {"host": "localhost"}).initialize()
    message = request(1, "tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
    for _ in range(WARM_UP):
        await client.request("POST", message)
    await wait_all_tasks_blocked()
    with trace.recording():
        response = await client.request("POST", message)
        await wait_all_tasks_blocked()
    assert b'"3"' in response.body


async def modern_post(manager: SessionManager, trace: Trace) -> None:
    """One tools/call of 2026-07-28 over HTTP."""
    client = Client(http_app(manager), {"host": "localhost"})
    message = modern(1, "tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
    for _ in range(WARM_UP):
        await client.request("POST", message, headers=headers_of(message))
    await wait_all_tasks_blocked()
    with trace.recording():
        response = await client.request("POST", message, headers=headers_of(message))
        await wait_all_tasks_blocked()
    assert b'"3"' in response.body


async def handle_use(manager: SessionManager, trace: Trace) -> None:
    """One use of a handle, without the request around it."""
    async with pipe(manager) as client:
        await client.initialize()
        handle = await client.call("open_handle")
        for _ in range(WARM_UP + 1):
            assert await client.call("use_handle", handle=handle) == "box"


async def parked_question(manager: SessionManager, trace: Trace) -> None:
    """One question of 2026-07-28 on a pipe: the call, its retry with the answer, the result."""
    async with pipe(manager) as client:

        async def call(number: int) -> Any:
            params = {"name": "ask", "arguments": {}}
            first = modern(f"{number}a", "tools/call", params, capabilities=ELICITATION)
            asked = await client.ask(first)
            params |= {
                "requestState": asked["requestState"],
                "inputResponses": {"go": {"action": "decline"}},
            }
            again = modern(f"{number}b", "tools/call", params, capabilities=ELICITATION)
            return await client.ask(again)

        for number in range(WARM_UP):
            await call(number)
        with trace.recording():
            result = await call(WARM_UP)
        assert result["content"][0]["text"] == "decline"


async def session_end(manager: SessionManager, trace: Trace) -> None:
    """One end of a session whose pipe was closed, until nothing of it is left."""
    for _ in range(WARM_UP + 1):
        async with pipe(manager) as client:
            await client.initialize()
            await client.call("add", a=1, b=2)
            with trace.recording():
                await client.stream.aclose()
                await wait_all_tasks_blocked()
            assert manager.sessions() == []


WALKS: Final[Mapping[str, Callable[[SessionManager, Trace], Awaitable[None]]]] = {
    "tools/call on a pipe": call_on_pipe,
    "legacy POST": legacy_post,
    "modern POST": modern_post,
    "handle use": handle_use,
    "parked question": parked_question,
    "session end": session_end,
}


def walk(name: str) -> Trace:
    """Go one of the walks, and return what was recorded.

    Tasks take their turns in the same order every time.
    """
    trace = Trace()

    async def run() -> None:
        async with open_session_manager(make_router(trace)) as manager:
            await WALKS[name](manager, trace)

    run_module = trio._core._run
    before = vars(run_module)["_ALLOW_DETERMINISTIC_SCHEDULING"]
    vars(run_module)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    run_module._r.seed(0)
    try:
        trio.run(run, clock=MockClock(autojump_threshold=0))
    finally:
        vars(run_module)["_ALLOW_DETERMINISTIC_SCHEDULING"] = before
    return trace


def counts(name: str) -> Counts:
    """Go one of the walks, and count it."""
    return walk(name).counts()


def main(arguments: list[str]) -> None:
    """Print the counts of all walks."""
    for name in WALKS:
        trace = walk(name)
        print(f"{name}: {trace.counts()}")
        if "--calls" in arguments:
            for module, function in trace.calls:
                print(f"  {module}: {function}")


if __name__ == "__main__":
    main(sys.argv[1:])
