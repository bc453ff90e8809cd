"""What has ended leaves nothing for the collector: reference counts free all of it.

A collection stands the whole process still, and takes longer the more there is. Each test lets
something begin and end many times without a collection, and then counts what only a collection
frees.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_mcp_session import (
    HandleKind,
    RequestContext,
    Router,
    Session,
    SessionManager,
    connect_memory,
    open_session_manager,
    serve_http,
)

ROUNDS = 5
INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}
META = "io.modelcontextprotocol/"

pytestmark = pytest.mark.filterwarnings("error")


async def garbage_of(once: Callable[[], Awaitable[object]], seconds: float = 0.02) -> Counter[str]:
    """Return what only the collector frees after a few rounds, by type."""
    await once()
    await once()
    gc.collect()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            await once()
        # Real sockets: their servers need a moment to see the end.
        await wait_all_tasks_blocked(seconds)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return Counter(type(one).__qualname__ for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@asynccontextmanager
async def something(*_: object) -> AsyncIterator[int]:
    yield 1


THING: HandleKind[int] = HandleKind("thing", something)


def application() -> Router:
    router = Router("test")

    @router.tool()
    async def echo(text: str) -> str:
        return text

    @router.tool()
    async def fail() -> str:
        raise ValueError("on purpose")

    @router.tool()
    async def report(ctx: RequestContext) -> str:
        await ctx.progress(1)
        return "done"

    @router.tool()
    async def ask(ctx: RequestContext) -> str:
        return str(await ctx.elicit("sure?", {"type": "object", "properties": {}}))

    @router.tool()
    async def wait() -> None:
        await trio.sleep_forever()

    @router.tool()
    async def use(ctx: RequestContext) -> str:
        handle_id = await ctx.open_handle(THING)
        async with ctx.use_handle(THING, handle_id) as value:
            assert value == 1
        return str(await ctx.close_handle(THING, handle_id))

    return router


# Sessions of an application.


async def end(session: Session) -> None:
    session.terminate()
    await session.wait_terminated()


async def a_session(manager: SessionManager) -> None:
    await end(await manager.create_session())


async def a_block(manager: SessionManager) -> None:
    async with manager.open_session():
        pass


async def a_session_with_a_lifespan(manager: SessionManager) -> None:
    await end(await manager.create_session(lifespan=something))


async def a_session_with_a_held_context(manager: SessionManager) -> None:
    session = await manager.create_session()
    await session.enter_async_context(something())
    await end(session)


async def a_session_with_a_task(manager: SessionManager) -> None:
    session = await manager.create_session()
    session.start_soon(trio.sleep_forever)
    await end(session)


async def a_session_with_a_subscriber(manager: SessionManager) -> None:
    session = await manager.create_session()
    with session.subscribe() as events:
        await end(session)
        assert [event async for event in events]


@pytest.mark.parametrize(
    "once",
    [
        a_session,
        a_block,
        a_session_with_a_lifespan,
        a_session_with_a_held_context,
        a_session_with_a_task,
        a_session_with_a_subscriber,
    ],
)
async def test_a_session_leaves_nothing_to_the_collector(
    once: Callable[[SessionManager], Awaitable[None]],
) -> None:
    async with open_session_manager(application()) as manager:
        assert await garbage_of(partial(once, manager)) == {}


# Connections.


def message(number: int | None, method: str, params: dict[str, Any]) -> bytes:
    named = {} if number is None else {"id": number}
    return json.dumps({"jsonrpc": "2.0", **named, "method": method, "params": params}).encode()


def call(tool: str, *, modern: bool = False, **more: Any) -> bytes:
    meta: dict[str, Any] = {"progressToken": 1}
    if modern:
        meta[f"{META}protocolVersion"] = "2026-07-28"
        meta[f"{META}clientInfo"] = INITIALIZE["clientInfo"]
        meta[f"{META}clientCapabilities"] = {"elicitation": {}}
    arguments = {"text": "x"} if tool == "echo" else {}
    params = {"name": tool, "arguments": arguments, "_meta": meta, **more}
    return message(2, "tools/call", params)


@pytest.mark.parametrize("tool", [None, "echo", "fail", "use"])
async def test_a_connection_leaves_nothing_to_the_collector(tool: str | None) -> None:
    async with open_session_manager(application()) as manager:

        async def once() -> None:
            channel = await connect_memory(manager)
            await channel.send(message(1, "initialize", INITIALIZE))
            await channel.receive()
            await channel.send(message(None, "notifications/initialized", {}))
            if tool is not None:
                await channel.send(call(tool))
                await channel.receive()
            await channel.aclose()
            for session in manager.sessions():
                await session.wait_terminated()

        assert await garbage_of(once) == {}


# HTTP.


class Http:
    """A client that leaves no garbage itself."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def send(
        self,
        stream: trio.SocketStream,
        body: bytes,
        *headers: str,
        method: str = "POST",
        version: str = "2025-06-18",
    ) -> None:
        lines = [
            f"{method} /mcp HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            f"MCP-Protocol-Version: {version}",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode() + body)

    async def answer(self, stream: trio.SocketStream) -> tuple[str, str]:
        data = b""
        while True:
            data += await stream.receive_some()
            head, _, body = data.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
            chunked = b"chunked" in head.lower()
            if body.endswith(b"0\r\n\r\n") if chunked else len(body) == int(length or 0):
                return head.decode(), body.decode()

    async def open(self, stream: trio.SocketStream) -> str:
        await self.send(stream, message(1, "initialize", INITIALIZE))
        head, _ = await self.answer(stream)
        (named,) = [one for one in head.split("\r\n") if one.lower().startswith("mcp-session-id")]
        await self.send(stream, message(None, "notifications/initialized", {}), named)
        await self.answer(stream)
        return named

    async def delete(self, stream: trio.SocketStream, named: str) -> None:
        await self.send(stream, b"", named, method="DELETE")
        await self.answer(stream)

    async def call_modern(self, stream: trio.SocketStream, tool: str, **more: Any) -> None:
        headers = ("Mcp-Method: tools/call", f"Mcp-Name: {tool}")
        body = call(tool, modern=True, **more)
        await self.send(stream, body, *headers, version="2026-07-28")


@asynccontextmanager
async def site() -> AsyncIterator[Http]:
    async with open_session_manager(application()) as manager, trio.open_nursery() as nursery:
        addresses = await nursery.start(serve_http, manager, "127.0.0.1:0")
        yield Http(int(str(addresses[0]).rpartition(":")[2].split("/")[0]))
        nursery.cancel_scope.cancel()


async def test_an_http_connection_leaves_nothing_to_the_collector() -> None:
    async with site() as http:

        async def once() -> None:
            await (await http.connect()).aclose()

        assert await garbage_of(once) == {}


@pytest.mark.parametrize("tool", [None, "echo", "fail", "report", "use"])
async def test_an_http_session_leaves_nothing_to_the_collector(tool: str | None) -> None:
    async with site() as http, await http.connect() as stream:

        async def once() -> None:
            named = await http.open(stream)
            if tool is not None:
                await http.send(stream, call(tool), named)
                await http.answer(stream)
            await http.delete(stream, named)

        assert await garbage_of(once) == {}


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_stream_for_get_leaves_nothing_to_the_collector(leaves: bool) -> None:
    async with site() as http, await http.connect() as stream:

        async def once() -> None:
            other = await http.connect()
            named = await http.open(stream)
            await http.send(other, b"", named, method="GET")
            await other.receive_some()
            if leaves:
                await other.aclose()
                await wait_all_tasks_blocked(0.01)
            await http.delete(stream, named)
            await other.aclose()

        assert await garbage_of(once) == {}


@pytest.mark.parametrize("tool", ["echo", "fail", "report", "use"])
async def test_a_stateless_request_leaves_nothing_to_the_collector(tool: str) -> None:
    async with site() as http, await http.connect() as stream:

        async def once() -> None:
            await http.call_modern(stream, tool)
            await http.answer(stream)

        assert await garbage_of(once) == {}


async def test_a_parked_handler_leaves_nothing_to_the_collector() -> None:
    async with site() as http, await http.connect() as stream:

        async def once() -> None:
            await http.call_modern(stream, "ask")
            _, body = await http.answer(stream)
            asked = json.loads(body[body.index("{") : body.rindex("}") + 1])["result"]
            (key,) = asked["inputRequests"]
            answers = {key: {"action": "accept", "content": {}}}
            state = asked["requestState"]
            await http.call_modern(stream, "ask", inputResponses=answers, requestState=state)
            await http.answer(stream)

        assert await garbage_of(once) == {}


async def test_a_request_whose_client_leaves_leaves_nothing_to_the_collector() -> None:
    async with site() as http:

        async def once() -> None:
            stream = await http.connect()
            await http.call_modern(stream, "wait")
            await wait_all_tasks_blocked(0.01)
            await stream.aclose()
            await wait_all_tasks_blocked(0.15)  # the sweeper looks for clients that have left

        assert await garbage_of(once, 0.15) == {}
