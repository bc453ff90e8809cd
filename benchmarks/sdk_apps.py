"""One application of the official SDK: on its own server, and on this library, in one run.

    python benchmarks/sdk_apps.py

Over stdio and over HTTP, in sessions of the legacy era and as stateless requests of the modern era.
All servers run at the same time and take turns in short slices; ratios are computed within a round.
See README.md.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Final

import http_calls
import stdio
from eras import ERAS, LEGACY
from http_contender import Contender as HttpContender
from http_goals import CONNECTIONS
from http_load import Target
from http_server import HttpServer
from http_sessions import PATIENCE, WARM_UP, Watcher, close_sessions, open_sessions
from load import Tally
from report import table

PROGRAM: Final = [sys.executable, str(Path(__file__).parent / "servers" / "sdk_app.py")]
OURS: Final = "ours"
THEIRS: Final = "theirs"
THEIRS_JSON: Final = "json"
NAMES: Final[Mapping[str, str]] = {
    THEIRS: "their server",
    THEIRS_JSON: "their server, JSON answers",
}
HTTP_SERVERS: Final = (THEIRS, THEIRS_JSON, OURS)
LESS_IS_BETTER: Final = ("µs", "ms", "KiB")

Figures = dict[str, dict[str, list[float]]]
"""The figures of each workload, round by round, by the server."""


def measure_stdio(rounds: int, seconds: float, in_flight: int) -> tuple[Figures, Tally, list[str]]:
    """Measure over pipes."""
    contenders = {
        (era.name, which): stdio.Contender(which, era, [*PROGRAM, which])
        for era in ERAS.values()
        for which in (THEIRS, OURS)
    }
    stdio.measure(list(contenders.values()), rounds, seconds, in_flight)
    figures: Figures = {}
    tally = Tally()
    for (era, which), it in contenders.items():
        tally.add(it.tally)
        for what, values, scale in (
            ("one at a time, p50 µs", it.latency, 1e6),
            (f"{in_flight} in flight, req/s", it.throughput, 1),
            ("start to first answer, ms", it.start, 1e3),
        ):
            row = figures.setdefault(f"{era}, stdio, {what}", {})
            row[which] = [value * scale for value in values]
    return figures, tally, failures(contenders.values())


def measure_http(rounds: int, seconds: float) -> tuple[Figures, Tally, list[str]]:
    """Measure over HTTP."""
    contenders = {
        which: HttpContender(which, [*PROGRAM, which, "--http"]) for which in HTTP_SERVERS
    }
    for which in (THEIRS, THEIRS_JSON):  # uvicorn shuts down, then sends itself the signal again
        contenders[which].ends_with = -signal.SIGTERM
    workloads = [
        http_calls.Workload(era, name, HTTP_SERVERS)
        for era in ERAS.values()
        for name in ("one", "many", "start")
    ]
    http_calls.measure(contenders, workloads, rounds, seconds)
    figures: Figures = {}
    tally = Tally()
    for which, it in contenders.items():
        for one in it.tallies.values():
            tally.add(one)
        for era in ERAS:
            for what, key, scale in (
                ("1 connection, p50 µs", "one", 1e6),
                (f"{CONNECTIONS} connections, req/s", "many", 1),
                ("start to first answer, ms", "start", 1e3),
            ):
                row = figures.setdefault(f"{era}, HTTP, {what}", {})
                row[which] = [value * scale for value in it.figures.get(f"{era} {key}", [])]
    return figures, tally, failures(contenders.values())


def measure_sessions(rounds: int, count: int) -> tuple[Figures, Tally]:
    """Measure what idle sessions take: each time in a new process."""
    row: dict[str, list[float]] = {which: [] for which in HTTP_SERVERS}
    tally = Tally()
    for _ in range(rounds):
        for which in HTTP_SERVERS:
            with closing(HttpServer([*PROGRAM, which, "--http"])) as server:
                target = Target(server.port, LEGACY, patience=PATIENCE)
                watcher = Watcher(target)
                for _ in range(20):
                    close_sessions(target, open_sessions(target, WARM_UP))
                before = watcher.footprint()
                opened = open_sessions(target, count)
                after = watcher.footprint()
                row[which].append((after["kib"] - before["kib"]) / count)
                close_sessions(target, opened)
                watcher.close()
                tally.add(target.tally)
    return {f"legacy, HTTP, {count:,} idle sessions, KiB each": row}, tally


def failures(contenders: Iterable[stdio.Contender | HttpContender]) -> list[str]:
    return [f"{it.name} did not finish: {it.failure}" for it in contenders if it.failure]


def rows_of(figures: Figures) -> list[Sequence[str]]:
    """Return a row for each workload and each of their servers."""
    rows: list[Sequence[str]] = []
    for what, row in figures.items():
        ours = row.get(OURS, [])
        for which, name in NAMES.items():
            theirs = row.get(which, [])
            if not ours or len(ours) != len(theirs):
                continue
            less = what.endswith(LESS_IS_BETTER) or "KiB" in what
            ratios = [b / a if less else a / b for a, b in zip(ours, theirs, strict=True)]
            better = f"{median(ratios):.2f}×"
            between = f"{min(ratios):.2f} to {max(ratios):.2f}"
            rows.append(
                (what, name, f"{median(theirs):,.1f}", f"{median(ours):,.1f}", better, between)
            )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4, help="length of a slice")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--sessions", type=int, default=500, help="idle sessions")
    parser.add_argument("--session-rounds", type=int, default=3)
    options = parser.parse_args()
    # A descriptor for each connection, here and in the servers, which inherit the limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    print(
        f"an MCPServer with the tool echo, 64-byte texts: {options.rounds} rounds of "
        f"{options.seconds} s slices"
    )
    figures, total, failed = measure_stdio(options.rounds, options.seconds, options.in_flight)
    over_http, tally, more = measure_http(options.rounds, options.seconds)
    total.add(tally)
    idle, tally = measure_sessions(options.session_rounds, options.sessions)
    total.add(tally)
    header = ("workload", "against", "theirs", "ours", "ours ×", "of the rounds")
    print(table(header, rows_of(figures | over_http | idle)))
    print("ours ×: how many times better this library is, median of the rounds; then all of them")
    for line in failed + more:
        print(f"\n{line}")
    print(f"\n{total.answers:,} answers: {total}")
    # Wrong answers and failures fail the run; slow figures do not.
    return 1 if total.faults or failed or more else 0


if __name__ == "__main__":
    raise SystemExit(main())
