"""The longest pauses of a server while tens of thousands of sessions open, live, expire and end.

    python benchmarks/pauses.py [--count 10000 50000] [--streams 5000]

Each row is a phase of one server process, without and with `gc_freeze`. A pinger in a process of
its own asks the server 200 times per second meanwhile. README.md says what each column means.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, nullcontext
from pathlib import Path
from typing import Any, Final, final

import trio
from http_drive import Wire
from http_load import Target
from report import percentile, table

from trio_mcp_session import (
    CleanupConfig,
    Principal,
    RateLimit,
    Router,
    SessionConfig,
    SessionLimits,
    SessionManager,
    open_session_manager,
    serve_http,
    serve_tcp,
)
from trio_mcp_session.cli.gc_freeze import short_collections

OPENERS: Final = 32
IDLE: Final = 8.0
LIVES: Final = 5.0
STREAMS_LIVE: Final = 40.0
PING_EVERY: Final = 0.005
HELLO: Final = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "pinger", "version": "1"},
}
OWNERS: Final = [Principal(f"owner {number}") for number in range(50)]
"""The sessions are shared among them: 1,000 each, the default limit, where there are 50,000."""

Span = tuple[float, float]


@final
class Ticks(trio.abc.Instrument):
    """The longest turns of the event loop, and the longest collections of garbage."""

    def __init__(self) -> None:
        self.own = self.wall = self.collection = self.outside = 0.0
        self._turn = self._began = (0.0, 0.0)
        self._collecting = 0.0

    def reset(self) -> None:
        self.own = self.wall = self.collection = self.outside = 0.0

    def after_io_wait(self, timeout: float) -> None:
        self._turn = (time.thread_time(), time.perf_counter())
        self._collecting = 0.0

    def before_io_wait(self, timeout: float) -> None:
        own = time.thread_time() - self._turn[0]
        if self._turn[0]:
            self.own = max(self.own, own)
            self.outside = max(self.outside, own - self._collecting)
            self.wall = max(self.wall, time.perf_counter() - self._turn[1])

    def on_collection(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = (time.thread_time(), 0.0)
        else:
            took = time.thread_time() - self._began[0]
            self._collecting += took
            self.collection = max(self.collection, took)


@final
class Phases:
    """Runs one phase after the other, and keeps what was measured."""

    def __init__(self) -> None:
        self.ticks = Ticks()
        self.found: dict[str, dict[str, float]] = {}

    @asynccontextmanager
    async def measured(self) -> AsyncIterator[Phases]:
        trio.lowlevel.add_instrument(self.ticks)
        gc.callbacks.append(self.ticks.on_collection)
        try:
            yield self
        finally:
            gc.callbacks.remove(self.ticks.on_collection)
            trio.lowlevel.remove_instrument(self.ticks)

    async def run(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        self.ticks.reset()
        began = time.monotonic()
        await work()
        await trio.lowlevel.checkpoint()
        self.found[name] = {
            "began": began,
            "ended": time.monotonic(),
            "own": self.ticks.own * 1e3,
            "outside": self.ticks.outside * 1e3,
            "wall": self.ticks.wall * 1e3,
            "collection": self.ticks.collection * 1e3,
        }


@final
class Crowd:
    """The sessions of one server."""

    def __init__(self, manager: SessionManager, count: int) -> None:
        self._manager = manager
        self._count = count

    async def open(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(OPENERS):
                share = self._count * (number + 1) // OPENERS - self._count * number // OPENERS
                nursery.start_soon(self._open_some, share)

    async def _open_some(self, count: int) -> None:
        for number in range(count):
            await self._manager.create_session(principal=OWNERS[number % len(OWNERS)])

    async def live(self) -> None:
        """Use some of them, and look at the figures as a monitor does."""
        until = trio.current_time() + LIVES
        sessions = self._manager.sessions()
        while trio.current_time() < until:
            for number, session in enumerate(sessions):
                session.touch()
                if number % 1000 == 0:
                    self._manager.statistics()
                    await trio.sleep(0.001)

    async def gone(self) -> None:
        while len(self._manager.store) > 1:  # noqa: ASYNC110  # the pinger's session stays
            await trio.sleep(0.05)

    async def revoke(self) -> None:
        for owner in OWNERS:
            self._manager.revoke(owner)
            await trio.lowlevel.checkpoint()
        await self.gone()


async def serve_sessions(count: int, phases: Phases, port: int) -> None:
    limits = SessionLimits(max_sessions=count + 10, max_sessions_per_principal=count + 10)
    clocks = CleanupConfig(max_idle_time=IDLE, idle_after=2, connection_idle_time=math.inf)
    config = SessionConfig(limits=limits, cleanup=clocks)
    async with open_session_manager(Router("pauses"), config=config) as manager:
        with trio.CancelScope() as serving:
            async with trio.open_nursery() as nursery, phases.measured():
                await nursery.start(serve_tcp, manager, port)
                pinger = await start_pinger(port)
                crowd = Crowd(manager, count)
                await phases.run("open", crowd.open)
                await phases.run("live", crowd.live)
                await phases.run("expire", crowd.gone)
                await crowd.open()
                await phases.run("revoke", crowd.revoke)
                await crowd.open()
                await trio.sleep(0.1)
                await phases.run("drain", manager.drain)
                await stop_pinger(pinger, phases)
                serving.cancel()


async def serve_streams(count: int, phases: Phases, port: int) -> None:
    limits = SessionLimits(
        max_sessions=count + 10,
        max_sessions_per_principal=count + 10,
        opening_rate=RateLimit(math.inf),
    )
    config = SessionConfig(limits=limits)
    async with open_session_manager(Router("pauses"), config=config) as manager:
        with trio.CancelScope() as serving:
            async with trio.open_nursery() as nursery, phases.measured():
                [address] = await nursery.start(serve_http, manager, "127.0.0.1:0")
                await nursery.start(serve_tcp, manager, port)
                pinger = await start_pinger(port)
                http_port = str(address.url).rpartition(":")[2]
                command = [sys.executable, str(Path(__file__)), "--clients", http_port, str(count)]
                clients = await trio.lowlevel.open_process(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                assert clients.stdout is not None

                async def opened() -> None:
                    assert clients.stdout is not None
                    assert await clients.stdout.receive_some() == b"open\n"

                await phases.run("open streams", opened)

                async def live() -> None:
                    await trio.sleep(STREAMS_LIVE)

                await phases.run("streams live", live)

                async def told() -> None:
                    manager.broadcast("notifications/tools/list_changed")
                    await trio.sleep(2)

                await phases.run("broadcast", told)
                await phases.run("drain streams", manager.drain)
                clients.kill()
                await clients.wait()
                await stop_pinger(pinger, phases)
                serving.cancel()


async def start_pinger(port: int) -> trio.Process:
    command = [sys.executable, __file__, "--ping", str(port)]
    return await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def stop_pinger(pinger: trio.Process, phases: Phases) -> None:
    """Add the latencies of the pinger to the phases in which it asked."""
    assert pinger.stdin is not None
    assert pinger.stdout is not None
    await pinger.stdin.aclose()
    data = b""
    while chunk := await pinger.stdout.receive_some():
        data += bytes(chunk)
    await pinger.wait()
    pings: list[Span] = json.loads(data)
    for found in phases.found.values():
        times = [took for at, took in pings if found["began"] <= at <= found["ended"]]
        found["pings"] = len(times)
        for name, share in (("p50", 50), ("p99.9", 99.9), ("worst", 100)):
            found[name] = percentile(times, share) * 1e3 if times else math.nan


def ping(port: int) -> None:
    """Ask until standard input ends; print when each question began, and how long it took."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = connection.makefile("rwb", buffering=0)

    def ask(method: str, params: dict[str, Any]) -> None:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        lines.write(json.dumps(message).encode() + b"\n")
        lines.readline()

    ask("initialize", HELLO)
    lines.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
    times: list[Span] = []
    while not select.select([0], [], [], PING_EVERY)[0]:
        began = time.monotonic()
        try:
            ask("ping", {})
        except OSError:
            break
        times.append((began, time.monotonic() - began))
    print(json.dumps(times))


def hold_streams(port: int, count: int) -> None:
    """Open sessions, each with a stream, and read nothing."""
    target = Target(port, patience=60)
    with closing(Wire(port, 60)) as wire:
        wires = [target.open_stream(target.open_session(wire)) for _ in range(count)]
    print("open", flush=True)
    sys.stdin.read()
    assert len(wires) == count


def measure(count: int, streams: int, *, gc_freeze: bool) -> dict[str, dict[str, float]]:
    phases = Phases()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with short_collections() if gc_freeze else nullcontext():
        if streams:
            trio.run(serve_streams, streams, phases, port)
        else:
            trio.run(serve_sessions, count, phases, port)
    return phases.found


COLUMNS: Final = {
    "longest turn, own ms": ("own", ".1f"),
    "without collections": ("outside", ".1f"),
    "longest collection": ("collection", ".1f"),
    "longest turn, wall ms": ("wall", ".1f"),
    "ping p50 ms": ("p50", ".2f"),
    "p99.9": ("p99.9", ".1f"),
    "worst": ("worst", ".1f"),
    "pings": ("pings", ",.0f"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, nargs="*", default=[10_000, 50_000])
    parser.add_argument("--streams", type=int, default=5_000, help="open GET streams; 0: none")
    parser.add_argument("--inside", nargs=3, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ping", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--clients", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    if options.ping:
        ping(options.ping)
        return 0
    if options.clients:
        hold_streams(*options.clients)
        return 0
    if options.inside:
        count, streams, gc_freeze = options.inside
        print(json.dumps(measure(count, streams, gc_freeze=bool(gc_freeze))))
        return 0

    runs = [(count, 0) for count in options.count]
    runs += [(0, options.streams)] if options.streams else []
    for count, streams in runs:
        rows = []
        for gc_freeze in (0, 1):
            inside = ["--inside", str(count), str(streams), str(gc_freeze)]
            done = subprocess.run(
                [sys.executable, str(Path(__file__)), *inside],
                stdout=subprocess.PIPE,
                timeout=900,
                check=True,
            )
            for phase, found in json.loads(done.stdout).items():
                figures = (format(found[key], form) for key, form in COLUMNS.values())
                rows.append((phase, "yes" if gc_freeze else "no", *figures))
        print(f"\n{count:,} sessions" if count else f"\n{streams:,} open streams")
        print(table(("phase", "gc_freeze", *COLUMNS), rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
