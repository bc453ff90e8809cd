"""What very many sessions, handles, parked handlers and streams cost, now and ten minutes later.

    python benchmarks/scale.py [--wait 600]

Each column is measured in its own process, after a full garbage collection. README.md says what
each row means.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final, final

import trio
from client import Client, Lines, socket_pair
from processes import resident_bytes
from report import percentile, table

from trio_mcp_session import (
    HandleKind,
    RateLimit,
    RequestContext,
    Router,
    SessionConfig,
    SessionLimits,
    SessionManager,
    connect_memory,
    open_session_manager,
    serve_http,
    serve_stream,
)

CALLS: Final = 3_000
OPENERS: Final = 32
SETTLES: Final = 2.0
COUNTS: Final = {"sessions": 100_000, "handles": 10_000, "parked": 10_000, "streams": 5_000}
META: Final = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "scale", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
}

router = Router(name="scale", version="1.0")


@router.tool()
async def echo(text: str) -> str:
    """Return the text."""
    return text


@router.tool()
async def ask(ctx: RequestContext) -> str:
    """Ask, and wait for the answer."""
    return str(await ctx.elicit("sure?", {"type": "object", "properties": {}}))


@asynccontextmanager
async def make_thing() -> AsyncIterator[object]:
    yield object()


THING: Final[HandleKind[object]] = HandleKind("thing", make_thing)


@router.tool()
async def make(ctx: RequestContext, count: int) -> str:
    """Open handles."""
    for _ in range(count):
        await ctx.open_handle(THING)
    return "done"


async def open_sessions(manager: SessionManager, count: int) -> None:
    async def open_some(share: int) -> None:
        for _ in range(share):
            await manager.create_session()

    async with trio.open_nursery() as nursery:
        for _ in range(OPENERS):
            nursery.start_soon(open_some, count // OPENERS)


async def open_handles(manager: SessionManager, count: int) -> None:
    client = Client(await connect_memory(manager))
    await client.handshake()
    await client.request("tools/call", {"name": "make", "arguments": {"count": count}})


async def park(manager: SessionManager, count: int) -> None:
    channel = await connect_memory(manager)
    for number in range(count):
        params = {"name": "ask", "arguments": {}, "_meta": META}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        await channel.send(json.dumps(message).encode())
        assert b"requestState" in await channel.receive()


@final
class Streams:
    """Streams of GET, whose clients are another process. Each has a session, which counts here."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def open(self, manager: SessionManager, count: int) -> None:
        [address] = await self._nursery.start(serve_http, manager, "127.0.0.1:0")
        port = str(address.url).rpartition(":")[2]
        pauses = str(Path(__file__).with_name("pauses.py"))
        clients = await trio.lowlevel.open_process(
            [sys.executable, pauses, "--clients", port, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert clients.stdout is not None
        assert await clients.stdout.receive_some() == b"open\n"
        self._nursery.start_soon(self._end_with_nursery, clients)

    @staticmethod
    async def _end_with_nursery(clients: trio.Process) -> None:
        try:
            await trio.sleep_forever()
        finally:
            clients.kill()


async def call_times(client: Client) -> list[float]:
    for _ in range(200):
        await client.call("x" * 64)
    return [await client.call("x" * 64) for _ in range(CALLS)]


def look() -> tuple[float, int]:
    """Return the memory in KiB and the tracked objects, after a full collection."""
    gc.collect()
    return resident_bytes() / 1024, len(gc.get_objects())


async def measure(kind: str, count: int, wait: float) -> dict[str, float]:
    many = count + 1000
    limits = SessionLimits(
        max_sessions=many, max_sessions_per_principal=many, opening_rate=RateLimit(inf)
    )
    config = SessionConfig(limits=limits)
    found: dict[str, float] = {"count": count}
    async with (
        open_session_manager(router, config=config) as manager,
        trio.open_nursery() as nursery,
    ):
        near, far = socket_pair()
        nursery.start_soon(serve_stream, manager, far)
        client = Client(Lines(near))
        await client.handshake()
        openers: dict[str, Callable[[SessionManager, int], Awaitable[None]]] = {
            "sessions": open_sessions,
            "handles": open_handles,
            "parked": park,
            "streams": Streams(nursery).open,
        }
        before = await call_times(client)
        memory, tracked = look()
        began = perf_counter()
        await openers[kind](manager, count)
        found["open µs"] = (perf_counter() - began) / count * 1e6
        await trio.sleep(SETTLES)

        async def describe(when: str) -> None:
            kib, objects = look()
            found[f"KiB each{when}"] = (kib - memory) / count
            found[f"objects each{when}"] = (objects - tracked) / count
            times = await call_times(client)
            found[f"call ratio{when}"] = percentile(times, 50) / percentile(before, 50)
            found[f"call p99 µs{when}"] = percentile(times, 99) * 1e6

        await describe("")
        used = process_time()
        await trio.sleep(max(wait, 5.0))
        found["idle CPU %"] = (process_time() - used) / max(wait, 5.0) * 100
        if wait:
            await describe(", later")
        found["call alone µs"] = percentile(before, 50) * 1e6
        began = perf_counter()
        await manager.drain(grace=0)
        found["drain ms"] = (perf_counter() - began) * 1e3
        nursery.cancel_scope.cancel()
    return found


ROWS: Final = {
    "count": ",.0f",
    "open µs": ".0f",
    "KiB each": ".2f",
    "KiB each, later": ".2f",
    "objects each": ".1f",
    "objects each, later": ".1f",
    "call alone µs": ".0f",
    "call ratio": ".2f",
    "call ratio, later": ".2f",
    "call p99 µs": ".0f",
    "call p99 µs, later": ".0f",
    "idle CPU %": ".2f",
    "drain ms": ",.0f",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=COUNTS, default=list(COUNTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the counts, for a quick look")
    parser.add_argument("--wait", type=float, default=0, help="seconds until the second look")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    if options.inside:
        kind, count = options.inside
        print(json.dumps(trio.run(measure, kind, int(count), options.wait)))
        return 0

    columns: dict[str, dict[str, Any]] = {}
    for kind in options.only:
        count = str(int(COUNTS[kind] * options.share))
        command = [sys.executable, __file__, "--inside", kind, count, "--wait", str(options.wait)]
        patience = 600 + 2 * options.wait
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=patience, check=True)
        columns[kind] = json.loads(done.stdout)
    rows = [
        (name, *(format(found[name], form) for found in columns.values()))
        for name, form in ROWS.items()
        if all(name in found for found in columns.values())
    ]
    print(table(("", *columns), rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
