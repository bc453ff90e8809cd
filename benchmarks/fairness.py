"""One client with a thousand calls in flight: how long does another one wait?

    python benchmarks/fairness.py

Two principals call tools with requests of 2026-07-28 over HTTP, on sockets. The quiet one makes
one call at a time. Its median is measured alone, then while the other one keeps a number of calls
in flight, then alone again. This is done for a tool that waits for 50 ms, as one that asks another
service does, and for one that returns at once, where the processor is all that there is to share.
Server, flood and measurement are three processes. On a machine with fewer free processors the
server waits for one while it has work, and the quiet client waits longer by that share: it is in
the last column (Linux only).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio
from processes import wait_quiet
from report import table

from trio_mcp_session import (
    Principal,
    RequestContext,
    Router,
    SessionConfig,
    SessionLimits,
    open_session_manager,
    serve_http,
)

WAIT: Final = 0.05
PAUSE: Final = 0.002
QUIET: Final = 0.05
PATIENCE: Final = 60.0
PREFIX: Final = "io.modelcontextprotocol/"
VERSION: Final = "2026-07-28"

router = Router(name="fairness", version="1.0")


@router.tool()
async def work(ctx: RequestContext) -> str:
    """Wait, as a tool does that asks another service."""
    await trio.sleep(WAIT)
    return "done"


@router.tool()
async def echo(ctx: RequestContext) -> str:
    """Return at once."""
    return "done"


async def authenticate(_: object, headers: Mapping[str, str]) -> Principal:
    """Trust the name that a client gives."""
    return Principal(headers["authorization"])


def serve(told: Connection, queued: int) -> None:
    """Run the server until the process is ended."""

    async def main() -> None:
        limits = SessionLimits(max_queued=queued, max_stateless_queued=2 * queued)
        async with (
            open_session_manager(router, config=SessionConfig(limits=limits)) as manager,
            trio.open_nursery() as nursery,
        ):
            start = partial(serve_http, manager, "127.0.0.1:0", authenticate=authenticate)
            (address,) = await nursery.start(start)
            told.send(int(address.url.rpartition(":")[2]))
            await trio.sleep_forever()

    trio.run(main)


def request_of(tool: str, who: str) -> bytes:
    """Return a whole HTTP request that calls a tool."""
    meta = {f"{PREFIX}protocolVersion": VERSION, f"{PREFIX}clientCapabilities": {}}
    params: dict[str, Any] = {"name": tool, "arguments": {}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    head = (
        f"POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: {who}\r\n"
        "content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
        f"mcp-protocol-version: {VERSION}\r\nmcp-method: tools/call\r\nmcp-name: {tool}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


async def call(stream: trio.SocketStream, request: bytes) -> bool:
    """Make a call; return whether it was served."""
    await stream.send_all(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await received(stream)
    head, _, body = answer.partition(b"\r\n\r\n")
    (length,) = [
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    while len(body) < length:
        body += await received(stream)
    return head.startswith(b"HTTP/1.1 200") and b'"done"' in body


async def received(stream: trio.SocketStream) -> bytes:
    chunk = await stream.receive_some()
    if not chunk:
        raise ConnectionError("the server closed a connection")
    return bytes(chunk)


def flood(told: Connection, port: int, tool: str, in_flight: int) -> None:
    """Keep calls in flight until the process is ended; tell how many were served."""
    request = request_of(tool, "flood")
    counts = {True: 0, False: 0}

    async def one(number: int, burst: set[int], burst_over: trio.Event) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            while True:
                served = await call(stream, request)
                counts[served] += 1
                burst.discard(number)
                if not burst:
                    burst_over.set()
                if not served:
                    await trio.sleep(1)

    async def main() -> None:
        burst, burst_over = set(range(in_flight)), trio.Event()
        async with trio.open_nursery() as nursery:
            for number in range(in_flight):
                nursery.start_soon(one, number, burst, burst_over)
            with trio.fail_after(PATIENCE):
                await burst_over.wait()
            told.send(None)
            before, began = dict(counts), time.perf_counter()
            await trio.to_thread.run_sync(told.recv)
            seconds = time.perf_counter() - began
            told.send([(counts[how] - before[how]) / seconds for how in (True, False)])
            await trio.sleep_forever()

    trio.run(main)


async def measure(port: int, tool: str, seconds: float) -> list[float]:
    """Call one at a time; return how long each call took."""
    request = request_of(tool, "quiet")
    took: list[float] = []
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            if not await call(stream, request):
                raise ConnectionError("a call of the quiet client was refused")
            took.append(time.perf_counter() - began)
            await trio.sleep(PAUSE)
    return took


def delayed(pid: int) -> float:
    """Return for how many seconds a process had work and no processor; 0 if that is unknown."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return 0.0


def beside(
    port: int, tool: str, in_flight: int, seconds: float, server: int
) -> tuple[list[float], list[float], float]:
    """Measure beside a flood.

    Returns:
        The times, the calls of the flood per second, and the share of the time for which the
        server, a process of this id, had work and no processor.
    """
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=flood, args=(theirs, port, tool, in_flight))
    process.start()
    try:
        ours.recv()
        before, began = delayed(server), time.perf_counter()
        took = trio.run(measure, port, tool, seconds)
        share = (delayed(server) - before) / (time.perf_counter() - began)
        ours.send(None)
        return took, ours.recv(), share
    finally:
        process.kill()
        process.join()


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[100, 1_000])
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(
        target=serve, args=(theirs, max(options.in_flight)), daemon=True
    )
    server.start()
    rows: list[list[str]] = []
    assert server.pid is not None
    try:
        port = ours.recv()
        for tool in ("work", "echo"):
            for in_flight in options.in_flight:
                alone = trio.run(measure, port, tool, options.seconds)
                crowded, (served, refused), share = beside(
                    port, tool, in_flight, options.seconds, server.pid
                )
                wait_quiet(server.pid, QUIET)  # it notices that the flood has left
                alone += trio.run(measure, port, tool, options.seconds)
                before, after = median(alone) * 1e3, median(crowded) * 1e3
                rows.append(
                    [
                        f"{tool}, {in_flight:,} in flight",
                        f"{before:.1f}",
                        f"{after:.1f}",
                        f"{after / before:.1f}",
                        f"{served:,.0f}",
                        f"{refused:,.0f}",
                        f"{share:.0%}",
                    ]
                )
    finally:
        server.kill()
        server.join()
    header = [
        "flood",
        "p50 alone, ms",
        "beside, ms",
        "ratio",
        "flood served/s",
        "refused/s",
        "delayed",
    ]
    print(table(header, rows))


if __name__ == "__main__":
    main()
