"""The cost of thousands of idle sessions in one process.

    python benchmarks/sessions.py [--also 50000]

Each column is measured in its own process, because freed memory does not go back to the system.
README.md says what each row means.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from time import perf_counter, process_time
from typing import Final, Protocol

import trio
from client import Client, Lines, socket_pair
from processes import resident_bytes
from report import percentile, table

from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionLimits,
    SessionManager,
    SessionState,
    TerminationReason,
    connect_memory,
    open_session_manager,
    serve_stream,
)

EXPIRING: Final = 100
CALLS: Final = 3_000
IDLE_AFTER: Final = 4.0

router = Router(name="echo", version="1.0")


@router.tool()
async def echo(ctx: RequestContext, text: str) -> str:
    """Return the text."""
    return text


class LongestTick(trio.abc.Instrument):
    """The longest time between two rounds of I/O of the event loop."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = perf_counter()

    def after_io_wait(self, timeout: float) -> None:
        self._since = perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        self.seconds = max(self.seconds, perf_counter() - self._since)

    async def during(self, work: Callable[[], Awaitable[None]]) -> None:
        self.seconds = 0.0
        trio.lowlevel.add_instrument(self)
        try:
            await work()
            await trio.lowlevel.checkpoint()
        finally:
            trio.lowlevel.remove_instrument(self)


class Crowd(Protocol):
    """Many sessions of one kind."""

    async def open(self, count: int) -> None: ...
    def touch_all(self) -> None: ...
    async def close(self) -> None: ...


class HandleCrowd:
    """Sessions that the application opened itself."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        self._sessions: list[Session] = []

    async def open(self, count: int) -> None:
        for _ in range(count):
            self._sessions.append(await self._manager.create_session())

    def touch_all(self) -> None:
        for session in self._sessions:
            session.touch()

    async def close(self) -> None:
        for session in self._sessions:
            session.terminate(TerminationReason.REQUESTED)
        for session in self._sessions:
            await session.wait_terminated()
        self._sessions.clear()


class MemoryCrowd:
    """In-memory connections after their handshake; their cost includes the client's end."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        self._clients: list[Client] = []
        self._others = set(manager.sessions())

    async def open(self, count: int) -> None:
        for _ in range(count):
            client = Client(await connect(self._manager))
            await client.handshake()
            self._clients.append(client)

    def touch_all(self) -> None:
        for session in self._manager.sessions():
            session.touch()

    async def close(self) -> None:
        ending = [it for it in self._manager.sessions() if it not in self._others]
        for client in self._clients:
            await client.channel.aclose()
        for session in ending:
            await session.wait_terminated()
        self._clients.clear()


async def connect(manager: SessionManager) -> trio.abc.Channel[bytes]:
    return await connect_memory(manager)


CROWDS: Final[dict[str, Callable[[SessionManager], Crowd]]] = {
    "handle": HandleCrowd,
    "memory": MemoryCrowd,
}


def resident_kib() -> float:
    """Return the memory of this process, after a full garbage collection."""
    gc.collect()
    return resident_bytes() / 1024


def collection_ms() -> float:
    """Return the duration of a garbage collection that finds no garbage."""
    gc.collect()
    times = []
    for _ in range(3):
        began = perf_counter()
        gc.collect()
        times.append(perf_counter() - began)
    return min(times) * 1e3


async def call_times(client: Client) -> list[float]:
    text = "x" * 64
    for _ in range(200):
        await client.call(text)
    return [await client.call(text) for _ in range(CALLS)]


async def expire_some(manager: SessionManager) -> tuple[float, float]:
    """Let 100 sessions expire while nothing else happens.

    Returns:
        the milliseconds of processor time that it took, and of the longest tick of the loop.
    """
    clocks = CleanupConfig(max_idle_time=1.0, idle_after=10, cleanup_interval=0.25)
    sessions = [await manager.create_session(clocks=clocks) for _ in range(EXPIRING)]
    await trio.sleep(0.3)
    gc.collect()

    async def wait() -> None:
        for session in sessions:
            await session.wait_terminated()

    tick = LongestTick()
    began = process_time()
    await tick.during(wait)
    return (process_time() - began) * 1e3, tick.seconds * 1e3


async def wait_idle(manager: SessionManager, count: int) -> int:
    """Wait until the watcher has moved them to *idle*.

    Returns:
        how many are idle.
    """
    with trio.move_on_after(IDLE_AFTER * 5):  # noqa: ASYNC912 - a guard; the loop waits inside
        while manager.statistics().states.get(SessionState.IDLE, 0) < count:  # noqa: ASYNC110
            await trio.sleep(0.1)
    return manager.statistics().states.get(SessionState.IDLE, 0)


async def measure(kind: str, count: int) -> dict[str, float]:
    limits = SessionLimits(max_sessions=count + 1000, max_sessions_per_principal=count + 1000)
    cleanup = CleanupConfig(idle_after=IDLE_AFTER, cleanup_interval=0.25)
    config = SessionConfig(limits=limits, cleanup=cleanup)
    found: dict[str, float] = {"sessions": count}
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(open_session_manager(router, config=config))
        nursery = await stack.enter_async_context(trio.open_nursery())
        near, far = socket_pair()
        nursery.start_soon(serve_stream, manager, far)
        client = Client(Lines(near))
        await client.handshake()

        warm_up = CROWDS[kind](manager)
        await warm_up.open(500)
        await warm_up.close()
        found["expire alone ms"], _ = await expire_some(manager)
        before = await call_times(client)
        found["gc alone ms"] = collection_ms()

        memory, tracked = resident_kib(), len(gc.get_objects())
        crowd = CROWDS[kind](manager)
        began = perf_counter()
        await crowd.open(count)
        found["open µs"] = (perf_counter() - began) / count * 1e6
        began = perf_counter()
        for _ in range(5):
            crowd.touch_all()
        found["touch µs"] = (perf_counter() - began) / (5 * count) * 1e6

        found["idle"] = await wait_idle(manager, count)
        found["KiB each"] = (resident_kib() - memory) / count
        found["objects each"] = (len(gc.get_objects()) - tracked) / count
        found["gc ms"] = collection_ms()
        among = await call_times(client)
        found["expire ms"], found["expire tick ms"] = await expire_some(manager)

        tick = LongestTick()
        began = perf_counter()
        await tick.during(crowd.close)
        found["close µs"] = (perf_counter() - began) / count * 1e6
        found["close tick ms"] = tick.seconds * 1e3
        after = await call_times(client)

        alone = (percentile(before, 50) + percentile(after, 50)) / 2
        found["call alone µs"] = alone * 1e6
        found["call µs"] = percentile(among, 50) * 1e6
        found["call ratio"] = percentile(among, 50) / alone
        found["call alone p99 µs"] = percentile(before + after, 99) * 1e6
        found["call p99 µs"] = percentile(among, 99) * 1e6
        await client.channel.aclose()
    return found


ROWS: Final = {
    "sessions": (",.0f", ""),
    "idle": (",.0f", ""),
    "KiB each": (".2f", "8 / 4.5"),
    "objects each": (".1f", ""),
    "open µs": (".1f", ""),
    "close µs": (".1f", ""),
    "close tick ms": (".1f", ""),
    "touch µs": (".2f", "1 / 0.3"),
    "expire alone ms": (".1f", ""),
    "expire ms": (".1f", ""),
    "expire tick ms": (".1f", ""),
    "gc alone ms": (".1f", ""),
    "gc ms": (".1f", ""),
    "call alone µs": (".0f", ""),
    "call µs": (".0f", ""),
    "call ratio": (".2f", "1.1 / 1.05"),
    "call alone p99 µs": (".0f", ""),
    "call p99 µs": (".0f", ""),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--also", type=int, nargs="*", default=[], help="more counts, handles only")
    parser.add_argument("--kind", nargs="+", choices=sorted(CROWDS), default=sorted(CROWDS))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(trio.run(measure, options.kind[0], options.count)))
        return 0

    columns: list[tuple[str, dict[str, float]]] = []
    wanted = [(kind, options.count) for kind in options.kind]
    for kind, count in wanted + [("handle", count) for count in options.also]:
        command = [sys.executable, __file__, "--inside", "--kind", kind, "--count", str(count)]
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=600, check=True)
        columns.append((kind, json.loads(done.stdout)))
    rows = [
        (name, *(format(found[name], form) for _, found in columns), goal)
        for name, (form, goal) in ROWS.items()
    ]
    print(table(("", *(kind for kind, _ in columns), "accept / aim"), rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
