"""The echo server of this library beside those of the official SDK, over HTTP, in one run.

    python benchmarks/http_calls.py

All servers are alive at once and take turns in short slices, so that what the machine does besides
hits all of them. Ratios are taken within a round; their median is what counts. See README.md.
"""

from __future__ import annotations

import argparse
import gc
import os
import selectors
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from http_contender import Contender
from http_drive import CHUNK, Wire
from http_goals import (
    BUILTIN,
    BUILTIN_SSE,
    CONNECTIONS,
    FLOOR,
    FLOOR_HYPERCORN,
    HYPERCORN,
    MCP,
    MCP_HYPERCORN,
    MCP_SSE,
    STREAMS,
    judge,
)
from http_load import Target
from http_server import HttpServer
from load import ServerFailed, Tally
from report import percentile, table

SERVERS: Final = Path(__file__).parent / "servers"
STOPS: Final = 3  # in so many rounds servers with open streams are stopped: it takes long
PATIENCE: Final = 15.0  # for a server to end

JSON_SERVERS: Final = (BUILTIN, HYPERCORN, MCP, MCP_HYPERCORN)
WORKLOADS: Final = {
    "one": (FLOOR, FLOOR_HYPERCORN, *JSON_SERVERS),
    "many": (FLOOR, FLOOR_HYPERCORN, *JSON_SERVERS),
    "sse": (BUILTIN_SSE, MCP_SSE),
    "churn": JSON_SERVERS,
    "start": JSON_SERVERS,
    "stop": JSON_SERVERS,
}
"""Who takes part in what."""


def connect(it: Contender) -> None:
    """Start the server that takes all the slices of load."""
    it.server = HttpServer(it.command)
    it.target = Target(it.server.port)


def one(it: Contender, seconds: float) -> None:
    assert it.target is not None
    times = it.target.calls(1, seconds).latencies
    it.add("one", percentile(times, 50))
    it.add("one p99", percentile(times, 99))


def many(it: Contender, seconds: float, name: str) -> None:
    assert it.target is not None
    assert it.server is not None
    used = it.server.processor_seconds()
    sample = it.target.calls(CONNECTIONS, seconds)
    it.used += it.server.processor_seconds() - used
    it.calls += len(sample.latencies)
    it.busy.append(sample.busy)
    it.add(name, sample.per_second)
    it.add(f"{name} p99", percentile(sample.latencies, 99))


def churn(it: Contender, seconds: float) -> None:
    assert it.target is not None
    it.add("churn", it.target.churn(CONNECTIONS, seconds).per_second)


def start(it: Contender) -> None:
    """A server of its own: from before the process exists to its first answer."""
    began = perf_counter()
    server = HttpServer(it.command)
    target = Target(server.port)
    try:
        target.first_answer()
        it.add("start", perf_counter() - began)
    finally:
        it.close(server, target)


def stop(it: Contender) -> None:
    """A server of its own: SIGTERM, with many GET streams open."""
    server = HttpServer(it.command)
    target = Target(server.port, patience=PATIENCE)
    wires: list[Wire] = []
    try:
        while len(wires) < STREAMS:
            with closing(Wire(server.port, PATIENCE)) as wire:
                session = target.open_session(wire)
            wires.append(target.open_stream(session))
        began = perf_counter()
        server.terminate()
        proper = await_ends(wires)
        if not server.wait(PATIENCE):
            raise ServerFailed("SIGTERM does not end it")
        it.add("stop", perf_counter() - began)
        it.add("stop ends", proper)
    finally:
        for wire in wires:
            wire.close()
        it.close(server, target)


def await_ends(wires: Sequence[Wire]) -> int:
    """Read streams until their connections are closed.

    Returns:
        how many of them ended as HTTP wants it, by the last chunk.
    """
    proper = 0
    end = perf_counter() + PATIENCE
    with selectors.DefaultSelector() as selector:
        for wire in wires:
            wire.socket.setblocking(False)
            selector.register(wire.socket, selectors.EVENT_READ, wire)
        while selector.get_map() and perf_counter() < end:
            for key, _ in selector.select(1):
                wire = key.data
                try:
                    chunk = wire.socket.recv(CHUNK)
                except ConnectionError:
                    chunk = b""
                if chunk:
                    proper += wire.answers.feed(chunk) is not None
                else:
                    selector.unregister(wire.socket)
    return proper


def measure(
    contenders: dict[str, Contender], workloads: Sequence[str], rounds: int, seconds: float
) -> None:
    slices: dict[str, Callable[[Contender], None]] = {
        "one": lambda it: one(it, seconds),
        "many": lambda it: many(it, seconds, "many"),
        "sse": lambda it: many(it, seconds, "sse"),
        "churn": lambda it: churn(it, seconds),
        "start": start,
        "stop": stop,
    }
    loaded = [it for it in workloads if it not in {"start", "stop"}]
    servers = [it for it in contenders.values() if takes_part(it, loaded)]
    gc.disable()
    try:
        for it in servers:
            it.attempt(connect)
        for name in loaded:
            run_slices(contenders, name, slices[name])
        for it in servers:  # that was to warm up
            it.figures.clear()
            it.busy.clear()
        for number in range(rounds):
            for name in workloads:
                if name != "stop" or number < STOPS:
                    run_slices(contenders, name, slices[name])
    finally:
        gc.enable()
        for it in servers:
            it.finish()


def run_slices(
    contenders: dict[str, Contender], name: str, work: Callable[[Contender], None]
) -> None:
    """One after the other, so that what the machine does besides hits all of them."""
    for it in contenders.values():
        if it.name in WORKLOADS[name]:
            it.attempt(work)
    gc.collect()


def takes_part(it: Contender, workloads: Sequence[str]) -> bool:
    return any(it.name in WORKLOADS[name] for name in workloads)


def show_figures(contenders: Sequence[Contender]) -> None:
    def cell(it: Contender, name: str, form: str, scale: float = 1) -> str:
        values = it.figures.get(name) or it.figures.get(name.replace("many", "sse"))
        return format(median(values) * scale, form) if values else "-"

    rows = [
        (
            it.name,
            cell(it, "one", ".0f", 1e6),
            cell(it, "one p99", ".0f", 1e6),
            cell(it, "many", ",.0f"),
            cell(it, "many p99", ".1f", 1e3),
            f"{it.used / it.calls * 1e6:.0f}" if it.calls else "-",
            f"{median(it.busy):.0%}" if it.busy else "-",
            cell(it, "churn", ",.0f"),
            cell(it, "start", ".0f", 1e3),
            cell(it, "stop", ".0f", 1e3),
            cell(it, "stop ends", ".0f"),
            f"{it.tally.answers:,}",
            f"{it.tally.faults}",
        )
        for it in contenders
    ]
    header = (
        "server, p50 µs, p99 µs, req/s, p99 ms, CPU µs, load, sessions/s, start ms, stop ms, "
        "ends, answers, faults"
    )
    print(table(header.split(", "), rows))
    print()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slice", type=float, default=0.4, help="length of a slice, seconds")
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", choices=WORKLOADS)
    parser.add_argument("--no-gate", action="store_true", help="missed goals are no failure")
    parser.add_argument(
        "--mcp-python",
        default=os.environ.get("BENCH_MCP_PYTHON", sys.executable),
        help="an interpreter that has `mcp`, `uvicorn`, `httptools` and `hypercorn` "
        "(default: this one, or BENCH_MCP_PYTHON)",
    )
    options = parser.parse_args()
    workloads = [name for name in WORKLOADS if not options.only or name in options.only]

    ours = [sys.executable, str(SERVERS / "ours_http.py")]
    mcp = [options.mcp_python, str(SERVERS / "mcp_http.py")]
    commands = {
        FLOOR: [sys.executable, str(SERVERS / "floor_http.py")],
        FLOOR_HYPERCORN: [sys.executable, str(SERVERS / "floor_hypercorn.py")],
        BUILTIN: ours,
        HYPERCORN: [*ours, "--server", "hypercorn"],
        MCP: mcp,
        MCP_HYPERCORN: [*mcp, "--server", "hypercorn"],
        BUILTIN_SSE: [*ours, "--answers", "sse"],
        MCP_SSE: [*mcp, "--answers", "sse"],
    }
    contenders = {name: Contender(name, command) for name, command in commands.items()}
    for name in (FLOOR, MCP, MCP_SSE):  # uvicorn shuts down, then gives itself the signal again
        contenders[name].ends_with = -signal.SIGTERM
    print(
        f"HTTP, tool echo, 64-byte texts: {options.rounds} rounds of {options.slice} s slices, "
        f"1 and {CONNECTIONS} connections\n"
    )
    measure(contenders, workloads, options.rounds, options.slice)
    taking_part = [it for it in contenders.values() if takes_part(it, workloads)]
    show_figures(taking_part)
    good = judge(contenders, workloads) or options.no_gate
    total = Tally()
    for it in taking_part:
        total.add(it.tally)
        if it.failure:
            print(f"\n{it.name} did not finish: {it.failure}")
    print(f"\n{total.answers:,} answers: {total}")
    failed = any(contenders[name].failure for name in (BUILTIN, HYPERCORN, BUILTIN_SSE))
    return 1 if total.faults or failed or not good else 0


if __name__ == "__main__":
    raise SystemExit(main())
