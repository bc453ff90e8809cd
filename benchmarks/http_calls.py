"""The echo server of this library beside those of the official SDK, over HTTP, in one run.

    python benchmarks/http_calls.py

In sessions of the legacy era, and as stateless requests of the modern era. All servers run at the
same time and take turns in short slices, so that other load on the machine affects all of them.
Ratios are computed within a round; the result is their median. See README.md.
"""

from __future__ import annotations

import argparse
import gc
import os
import selectors
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from eras import ERAS, LEGACY, MODERN, Era
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
from report import percentile, ratio, table

SERVERS: Final = Path(__file__).parent / "servers"
STOPS: Final = 3  # rounds that also stop servers with open streams, which takes long
PATIENCE: Final = 15.0  # seconds that a server has to end

JSON_SERVERS: Final = (BUILTIN, HYPERCORN, MCP, MCP_HYPERCORN)
FLOORS: Final = (FLOOR, FLOOR_HYPERCORN)


@dataclass(frozen=True)
class Workload:
    """What is measured, in which era, and of which servers."""

    era: Era
    name: str
    servers: Sequence[str]

    @property
    def key(self) -> str:
        """Return the name of its figures."""
        return f"{self.era.name} {self.name}"


WORKLOADS: Final = (
    Workload(LEGACY, "one", (*FLOORS, *JSON_SERVERS)),
    Workload(LEGACY, "many", (*FLOORS, *JSON_SERVERS)),
    Workload(LEGACY, "sse", (BUILTIN_SSE, MCP_SSE)),
    Workload(LEGACY, "churn", JSON_SERVERS),
    Workload(LEGACY, "start", JSON_SERVERS),
    Workload(LEGACY, "stop", JSON_SERVERS),
    # In either mode a modern answer is a stream only if other messages come before it.
    Workload(MODERN, "one", (*FLOORS, *JSON_SERVERS, MCP_SSE)),
    Workload(MODERN, "many", (*FLOORS, *JSON_SERVERS, MCP_SSE)),
    Workload(MODERN, "start", JSON_SERVERS),
)
COLUMNS: Final = (
    ("p50 µs", "one", ".0f", 1e6),
    ("p99 µs", "one p99", ".0f", 1e6),
    ("req/s", "many", ",.0f", 1),
    ("p99 ms", "many p99", ".1f", 1e3),
    ("CPU µs", "many CPU", ".0f", 1e6),
    ("load", "many load", ".0%", 1),
    ("sessions/s", "churn", ",.0f", 1),
    ("start ms", "start", ".0f", 1e3),
    ("stop ms", "stop", ".0f", 1e3),
    ("ends", "stop ends", ".0f", 1),
)


def connect(it: Contender) -> None:
    """Start the server for all slices of load."""
    it.server = HttpServer(it.command)
    it.targets = {name: Target(it.server.port, era) for name, era in ERAS.items()}


def one(it: Contender, work: Workload, seconds: float) -> None:
    times = it.targets[work.era.name].calls(1, seconds).latencies
    it.add(work.key, percentile(times, 50))
    it.add(f"{work.key} p99", percentile(times, 99))


def many(it: Contender, work: Workload, seconds: float) -> None:
    assert it.server is not None
    used = it.server.processor_seconds()
    sample = it.targets[work.era.name].calls(CONNECTIONS, seconds)
    used = it.server.processor_seconds() - used
    it.add(work.key, sample.per_second)
    it.add(f"{work.key} p99", percentile(sample.latencies, 99))
    it.add(f"{work.key} CPU", used / len(sample.latencies))
    it.add(f"{work.key} load", sample.busy)


def churn(it: Contender, work: Workload, seconds: float) -> None:
    it.add(work.key, it.targets[work.era.name].churn(CONNECTIONS, seconds).per_second)


def start(it: Contender, work: Workload, seconds: float) -> None:
    """Measure a new server, from before its process exists to its first answer."""
    began = perf_counter()
    server = HttpServer(it.command)
    target = Target(server.port, work.era)
    try:
        target.first_answer()
        it.add(work.key, perf_counter() - began)
    finally:
        it.close(server, target)


def stop(it: Contender, work: Workload, seconds: float) -> None:
    """Measure a new server: SIGTERM while many GET streams are open."""
    server = HttpServer(it.command)
    target = Target(server.port, work.era, patience=PATIENCE)
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
        it.add(work.key, perf_counter() - began)
        it.add(f"{work.key} ends", proper)
    finally:
        for wire in wires:
            wire.close()
        it.close(server, target)


SLICES: Final[Mapping[str, Callable[[Contender, Workload, float], None]]] = {
    "one": one,
    "many": many,
    "sse": many,
    "churn": churn,
    "start": start,
    "stop": stop,
}


def await_ends(wires: Sequence[Wire]) -> int:
    """Read streams until their connections are closed.

    Returns:
        how many of them ended correctly, with the last chunk.
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
    contenders: dict[str, Contender], workloads: Sequence[Workload], rounds: int, seconds: float
) -> None:
    loaded = [work for work in workloads if work.name not in {"start", "stop"}]
    servers = [it for it in contenders.values() if takes_part(it, loaded)]
    gc.disable()
    try:
        for it in servers:
            it.attempt(connect)
        for work in loaded:
            run_slices(contenders, work, seconds)
        for it in servers:  # the warm-up is not counted
            it.figures.clear()
        for number in range(rounds):
            for work in workloads:
                if work.name != "stop" or number < STOPS:
                    run_slices(contenders, work, seconds)
    finally:
        gc.enable()
        for it in servers:
            it.finish()


def run_slices(contenders: dict[str, Contender], work: Workload, seconds: float) -> None:
    """Run the slices one after the other: other load on the machine affects all servers."""
    for it in contenders.values():
        if it.name in work.servers:
            it.attempt(lambda it: SLICES[work.name](it, work, seconds))
    gc.collect()


def takes_part(it: Contender, workloads: Sequence[Workload]) -> bool:
    return any(it.name in work.servers for work in workloads)


def show_figures(era: Era, contenders: Sequence[Contender]) -> None:
    """Print the figures of this era; columns without figures are left out."""

    def values(it: Contender, name: str) -> list[float]:
        # A server that streams its answers has its own figures, in the same columns.
        streamed = it.figures.get(f"{era.name} {name.replace('many', 'sse')}", [])
        return it.figures.get(f"{era.name} {name}", streamed)

    def cell(it: Contender, name: str, form: str, scale: float) -> str:
        return format(median(values(it, name)) * scale, form) if values(it, name) else "-"

    columns = [column for column in COLUMNS if any(values(it, column[1]) for it in contenders)]
    rows = []
    for it in contenders:
        tally = it.tallies.get(era.name, Tally())
        cells = [cell(it, *column[1:]) for column in columns]
        rows.append((it.name, *cells, f"{tally.answers:,}", f"{tally.faults}"))
    header = ("server", *(column[0] for column in columns), "answers", "faults")
    print(f"{era.name}, {era.revision}:\n{table(header, rows)}\n")


def show_eras(contenders: Sequence[Contender]) -> None:
    """Print the modern figures of each server, compared with its legacy figures."""
    rows = []
    for it in contenders:
        figures = [it.figures.get(key, []) for key in ("legacy one", "modern one")]
        rates = [it.figures.get(key, []) for key in ("modern many", "legacy many")]
        if all(figures + rates):
            rows.append((it.name, f"{ratio(*figures):.2f}×", f"{ratio(*rates):.2f}×"))
    if rows:
        print("modern against legacy: how many times better the same server is")
        print(table(("server", "p50", "req/s"), rows), end="\n\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slice", type=float, default=0.4, help="length of a slice, seconds")
    parser.add_argument("--era", choices=ERAS, help="the era to measure (default: both)")
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", choices=SLICES)
    parser.add_argument(
        "--no-gate", action="store_true", help="missed goals do not change the exit status"
    )
    parser.add_argument(
        "--mcp-python",
        default=os.environ.get("BENCH_MCP_PYTHON", sys.executable),
        help="an interpreter that has `mcp`, `uvicorn`, `httptools` and `hypercorn` "
        "(default: this one, or BENCH_MCP_PYTHON)",
    )
    options = parser.parse_args()
    workloads = [
        work
        for work in WORKLOADS
        if (not options.only or work.name in options.only) and options.era in {None, work.era.name}
    ]

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
    for name in (FLOOR, MCP, MCP_SSE):  # uvicorn shuts down, then sends itself the signal again
        contenders[name].ends_with = -signal.SIGTERM
    print(
        f"HTTP, tool echo, 64-byte texts: {options.rounds} rounds of {options.slice} s slices, "
        f"1 and {CONNECTIONS} connections\n"
    )
    measure(contenders, workloads, options.rounds, options.slice)
    taking_part = [it for it in contenders.values() if takes_part(it, workloads)]
    for era in ERAS.values():
        its = [work for work in workloads if work.era == era]
        if its:
            show_figures(era, [it for it in taking_part if takes_part(it, its)])
    show_eras(taking_part)
    good = judge(contenders, [work.key for work in workloads]) or options.no_gate
    total = Tally()
    for it in taking_part:
        for tally in it.tallies.values():
            total.add(tally)
        if it.failure:
            print(f"\n{it.name} did not finish: {it.failure}")
    print(f"\n{total.answers:,} answers: {total}")
    failed = any(contenders[name].failure for name in (BUILTIN, HYPERCORN, BUILTIN_SSE))
    return 1 if total.faults or failed or not good else 0


if __name__ == "__main__":
    raise SystemExit(main())
