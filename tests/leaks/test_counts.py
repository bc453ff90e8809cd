"""What things cost, in counts that no machine changes: objects, calls, system calls, bytes.

A figure that exceeds its limit is a regression: find what was added, or change the limit together
with its reason. The benchmarks measure times.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any, Final

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

import trio_mcp_session
from tests.leaks.test_garbage import INITIALIZE, THING, Http, application, call, message
from trio_mcp_session import (
    MemoryEventStore,
    RateLimit,
    SessionConfig,
    SessionLimits,
    SessionManager,
    connect_memory,
    open_session_manager,
    serve_http,
)
from trio_mcp_session.handles.access import open_handle

MANY: Final = 50
PACKAGE: Final = str(Path(trio_mcp_session.__file__).parent)
SYSTEM_CALLS: Final = frozenset({"poll", "recv", "recv_into", "send", "sendmsg", "read", "write"})
CONFIG: Final = SessionConfig(limits=SessionLimits(opening_rate=RateLimit(inf)))


@attrs.frozen
class Limit:
    """The most that something may cost."""

    most: float
    reason: str


LIMITS: Final[Mapping[str, Limit]] = {
    # Where two variables of a context have similar hashes, Python keeps one object more for each
    # context; so the figures of objects vary by one or two between processes.
    "objects: session of the application": Limit(
        28, "25 measured; a task with a nursery and its scope is 20 of them"
    ),
    "objects: session over HTTP": Limit(31, "28 measured; the same, and what is known of a client"),
    "objects: connection in memory": Limit(
        71, "67 measured, with the client's end; two tasks with nurseries are 40 of them"
    ),
    "objects: handle": Limit(56, "53 measured; a session, what its opener makes, and a nursery"),
    "objects: parked handler": Limit(
        107, "103 measured; a session, a task with 18 coroutines, a request and a question"
    ),
    "objects: a call, a second later": Limit(
        2, "1 measured, the budget of bytes; its worker and its queue have gone"
    ),
    "bytes: event of 170 bytes": Limit(390, "332 measured; one object, its message and its time"),
    "calls: request in memory": Limit(101, "96 measured; functions of the library only"),
    "calls: request over HTTP": Limit(188, "179 measured; functions of the library only"),
    "system calls: request over HTTP": Limit(
        8.5, "8.2 measured; receive twice, send once, and a poll in each turn of the loop"
    ),
}


def check(what: str, figure: float) -> None:
    limit = LIMITS[what]
    assert figure <= limit.most, f"{what}: {figure}, more than {limit.most} ({limit.reason})"
    # A limit that is far away checks nothing.
    assert figure >= limit.most / 2, f"{what}: {figure}: lower the limit {limit.most}"


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


async def objects_of(open_one: Callable[[], Awaitable[object]], seconds: float = 0.02) -> float:
    """How many objects are there for each one that is opened."""
    kept = [await open_one() for _ in range(3)]
    await wait_all_tasks_blocked(seconds)
    before = objects()
    kept += [await open_one() for _ in range(MANY)]
    await wait_all_tasks_blocked(seconds)
    return (objects() - before) / MANY


@asynccontextmanager
async def managed() -> AsyncIterator[SessionManager]:
    async with open_session_manager(application(), config=CONFIG) as manager:
        yield manager


async def connected(manager: SessionManager) -> trio.abc.Channel[bytes]:
    channel = await connect_memory(manager)
    await channel.send(message(1, "initialize", INITIALIZE))
    await channel.receive()
    await channel.send(message(None, "notifications/initialized", {}))
    return channel


async def test_objects_of_a_session_of_the_application() -> None:
    async with managed() as manager:
        check("objects: session of the application", await objects_of(manager.create_session))


async def test_objects_of_a_connection() -> None:
    async with managed() as manager:
        check("objects: connection in memory", await objects_of(partial(connected, manager)))


async def test_objects_of_a_handle() -> None:
    async with managed() as manager:
        opening = partial(open_handle, manager, None, THING, (), {})
        check("objects: handle", await objects_of(opening))


async def test_objects_of_a_parked_handler() -> None:
    async with managed() as manager:
        channel = await connected(manager)
        number = 10

        async def park() -> None:
            nonlocal number
            number += 1
            frame = json.loads(call("ask", modern=True))
            await channel.send(json.dumps({**frame, "id": number}).encode())
            assert b"requestState" in await channel.receive()

        check("objects: parked handler", await objects_of(park))


async def test_objects_that_a_call_leaves_for_a_second() -> None:
    async with managed() as manager:
        channels = [await connected(manager) for _ in range(MANY)]

        async def call_on_each() -> None:
            for channel in channels:
                await channel.send(call("echo"))
                await channel.receive()

        await wait_all_tasks_blocked()
        before = objects()
        await call_on_each()
        await trio.sleep(1)
        check("objects: a call, a second later", (objects() - before) / MANY)


def test_bytes_of_an_event() -> None:
    async def main() -> float:
        store = MemoryEventStore(max_session_events=10_000)
        log = store.open_log("log")
        await trio.lowlevel.checkpoint()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(MANY):
                log.append(1000 + number, 1, b"x" * 130 + b"%40d" % number)
            return (tracemalloc.get_traced_memory()[0] - before) / MANY
        finally:
            tracemalloc.stop()

    check("bytes: event of 170 bytes", trio.run(main))


# Over HTTP: the client is a thread, which the profile of this thread does not see.


@asynccontextmanager
async def site() -> AsyncIterator[int]:
    async with managed() as manager, trio.open_nursery() as nursery:
        addresses = await nursery.start(serve_http, manager, "127.0.0.1:0")
        yield int(str(addresses[0]).rpartition(":")[2].split("/")[0])
        nursery.cancel_scope.cancel()


async def test_objects_of_a_session_over_http() -> None:
    async with site() as port:
        http = Http(port)
        stream = await http.connect()
        check("objects: session over HTTP", await objects_of(partial(http.open, stream)))
        await stream.aclose()


class Profile:
    """Counts calls of the library's functions, and system calls, in this thread."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def count(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.calls["library"] += 1
        elif event == "c_call" and argument.__name__ in SYSTEM_CALLS:
            self.calls["system"] += 1

    async def of(self, work: Callable[[], Awaitable[object]]) -> None:
        former = sys.getprofile()
        sys.setprofile(self.count)
        try:
            await work()
        finally:
            sys.setprofile(former)


class BlockingClient:
    """Sends one request after another, and reads each answer."""

    def __init__(self, port: int, named: str) -> None:
        body = call("echo")
        head = (
            f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            "Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-06-18\r\n"
            f"{named}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.request = head.encode() + body
        self.socket = socket.create_connection(("127.0.0.1", port))

    def ask(self, count: int) -> None:
        for _ in range(count):
            self.socket.sendall(self.request)
            data = b""
            while not data.endswith(b"}"):
                data += self.socket.recv(65_536)
            assert b'"text":"x"' in data


async def test_calls_and_system_calls_of_a_request_over_http() -> None:
    async with site() as port:
        http = Http(port)
        stream = await http.connect()
        client = BlockingClient(port, await http.open(stream))
        await stream.aclose()
        await trio.to_thread.run_sync(client.ask, 3)
        profile = Profile()
        await profile.of(lambda: trio.to_thread.run_sync(client.ask, MANY))
        client.socket.close()
    check("calls: request over HTTP", profile.calls["library"] / MANY)
    check("system calls: request over HTTP", profile.calls["system"] / MANY)


async def test_calls_of_a_request_in_memory() -> None:
    async with managed() as manager:
        channel = await connected(manager)

        async def ask() -> None:
            for _ in range(MANY):
                await channel.send(call("echo"))
                await channel.receive()

        await ask()
        profile = Profile()
        await profile.of(ask)
    check("calls: request in memory", profile.calls["library"] / MANY)
