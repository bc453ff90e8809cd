"""The echo server of this library beside those of the official SDKs, over stdio, in one run.

    python benchmarks/stdio.py

In sessions of the legacy era, and as stateless requests of the modern era. All servers run at the
same time and take turns in short slices, so that other load on the machine affects all of them.
Ratios are computed within a round; the result is their median. See README.md.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from eras import ERAS, LEGACY, MODERN, Era
from load import Connection, ServerFailed, Tally
from report import percentile, ratio, table

HERE: Final = Path(__file__).parent
SERVERS: Final = HERE / "servers"
OURS: Final = "trio_mcp_session"
BASELINE: Final = "mcp, asyncio"
TYPESCRIPT: Final = "TypeScript SDK"
TYPESCRIPT_PROGRAMS: Final = {LEGACY.name: "legacy.mjs", MODERN.name: "modern.mjs"}
KEYS: Final = ("ours", "mcp", "trio", "typescript", "floor")


@dataclass
class Contender:
    """A server and its figures, one entry per round."""

    name: str
    era: Era
    command: Sequence[str]
    tally: Tally = field(default_factory=Tally)
    failure: str = ""
    connection: Connection | None = None
    latency: list[float] = field(default_factory=list)
    latency99: list[float] = field(default_factory=list)
    throughput: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)

    def attempt(self, work: Callable[[Contender], None]) -> None:
        """Run a slice; a server that fails is left out of all further slices."""
        if self.failure:
            return
        try:
            work(self)
        except (ServerFailed, OSError) as error:
            self.failure = str(error)

    def open(self) -> Connection:
        return Connection(self.command, self.era)

    def close(self, connection: Connection) -> None:
        status = connection.close()
        self.tally.add(connection.tally)
        if status and not self.failure:
            self.failure = f"exit status {status} at the end of its input"


def measure(contenders: Sequence[Contender], rounds: int, seconds: float, in_flight: int) -> None:
    def connect(it: Contender) -> None:
        it.connection = it.open()
        it.connection.one_at_a_time(seconds)
        it.connection.many_in_flight(seconds, in_flight)  # warm-up for both

    def one(it: Contender) -> None:
        assert it.connection is not None
        times = it.connection.one_at_a_time(seconds)
        it.latency.append(percentile(times, 50))
        it.latency99.append(percentile(times, 99))

    def many(it: Contender) -> None:
        assert it.connection is not None
        it.throughput.append(it.connection.many_in_flight(seconds, in_flight).per_second)

    def start(it: Contender) -> None:
        connection = it.open()
        it.start.append(connection.start_seconds)
        it.close(connection)

    def finish(it: Contender) -> None:
        if it.connection is not None:
            it.close(it.connection)

    gc.disable()
    try:
        for work in (connect, *(one, many, start) * rounds):
            for it in contenders:
                it.attempt(work)
            gc.collect()
    finally:
        gc.enable()
        for it in contenders:
            finish(it)


def measured(it: Contender | None) -> bool:
    return it is not None and not it.failure and bool(it.start)


def show_figures(contenders: Sequence[Contender], ours: Contender) -> None:
    def against(better: Sequence[float], than: Sequence[float]) -> str:
        return f"{ratio(better, than):.2f}" if measured(ours) else "-"

    rows = [
        (
            it.name,
            f"{median(it.latency) * 1e6:.0f}",
            f"{median(it.latency99) * 1e6:.0f}",
            against(it.latency, ours.latency),
            f"{median(it.throughput):,.0f}",
            against(ours.throughput, it.throughput),
            f"{median(it.start) * 1e3:.0f}",
            against(it.start, ours.start),
            f"{it.tally.answers:,}",
            f"{it.tally.faults}",
        )
        for it in contenders
        if measured(it)
    ]
    header = "server, p50 µs, p99 µs, ours ×, req/s, ours ×, start ms, ours ×, answers, faults"
    print(table(header.split(", "), rows))
    print("ours ×: how many times better this library is than that server, median of the rounds\n")


def show_verdicts(contenders: Sequence[Contender], ours: Contender, in_flight: int) -> None:
    """Print the goals over stdio, and the measured figures."""
    by_name = {it.name: it for it in contenders}

    def row(what: str, peer: str, kind: str, accept: float, aim: float) -> tuple[str, ...]:
        other = by_name.get(peer)
        if other is None or not measured(other) or not measured(ours):
            return (what, peer, "not measured", f"{accept}×", "-", f"{aim}×", "-")
        mine, theirs = getattr(ours, kind), getattr(other, kind)
        got = ratio(mine, theirs) if kind == "throughput" else ratio(theirs, mine)
        verdicts = ("met" if got >= goal else "missed" for goal in (accept, aim))
        first, second = verdicts
        return (what, peer, f"{got:.2f}×", f"{accept}×", first, f"{aim}×", second)

    rows = [
        row("one at a time, p50", BASELINE, "latency", 3.5, 5),
        row(f"{in_flight} in flight, req/s", BASELINE, "throughput", 15, 30),
        row(f"{in_flight} in flight, req/s", TYPESCRIPT, "throughput", 0.8, 1.5),
        row("start to first answer", BASELINE, "start", 2.5, 3.5),
    ]
    print(table(("workload", "against", "measured", "accept", "", "aim", ""), rows))


def show_eras(legacy: Sequence[Contender], modern: Sequence[Contender]) -> None:
    """Print the modern figures of each server, compared with its legacy figures."""
    before = {it.name: it for it in legacy if measured(it)}
    rows = [
        (
            it.name,
            f"{ratio(before[it.name].latency, it.latency):.2f}×",
            f"{ratio(it.throughput, before[it.name].throughput):.2f}×",
            f"{ratio(before[it.name].start, it.start):.2f}×",
        )
        for it in modern
        if measured(it) and it.name in before
    ]
    if rows:
        print("\nmodern against legacy: how many times better the same server is")
        print(table(("server", "p50", "req/s", "start"), rows))


def install_typescript(folder: Path) -> str | None:
    """Install both versions of the SDK, once, outside of the repository.

    Returns:
        why it is missing; None if it is installed.
    """
    if not (shutil.which("node") and shutil.which("npm")):
        return "needs node and npm"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", *TYPESCRIPT_PROGRAMS.values()):
        shutil.copy(SERVERS / "typescript" / name, folder)
    npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    done = subprocess.run(npm, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    return (done.stderr.strip() or "npm install failed") if done.returncode else None


def default_cache() -> Path:
    if chosen := os.environ.get("BENCH_TYPESCRIPT_DIR"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "trio-mcp-session" / "typescript"


def line_up(era: Era, options: argparse.Namespace) -> dict[str, Contender]:
    """Return the servers that can run, by their names for `--only`."""
    python, mcp = sys.executable, options.mcp_python
    typescript = str(options.typescript_dir / TYPESCRIPT_PROGRAMS[era.name])
    commands = {
        "ours": (OURS, [python, str(SERVERS / "ours.py")]),
        "mcp": (BASELINE, [mcp, str(SERVERS / "mcp_asyncio.py")]),
        "trio": ("mcp, trio", [mcp, str(SERVERS / "mcp_trio.py")]),
        "typescript": (TYPESCRIPT, ["node", typescript]),
        "floor": ("(no server)", [python, str(SERVERS / "floor.py")]),
    }
    return {key: Contender(name, era, command) for key, (name, command) in commands.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4, help="length of a slice")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--era", choices=ERAS, help="the era to measure (default: both)")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=KEYS, help=" ".join(KEYS))
    parser.add_argument(
        "--mcp-python",
        default=os.environ.get("BENCH_MCP_PYTHON", sys.executable),
        help="an interpreter that has `mcp` and `trio` (default: this one, or BENCH_MCP_PYTHON)",
    )
    parser.add_argument(
        "--typescript-dir",
        type=Path,
        default=default_cache(),
        help="where the TypeScript SDK is, or gets, installed (or BENCH_TYPESCRIPT_DIR)",
    )
    options = parser.parse_args()

    eras = [era for era in ERAS.values() if options.era in {None, era.name}]
    known = {era.name: line_up(era, options) for era in eras}
    contenders = {
        name: [it for key, it in line.items() if not options.only or key in options.only]
        for name, line in known.items()
    }
    everyone = [it for line in contenders.values() for it in line]
    typescript = [it for it in everyone if it.name == TYPESCRIPT]
    missing = install_typescript(options.typescript_dir) if typescript else None
    for it in typescript:
        it.failure = missing or ""

    print(
        f"stdio, tool echo, 64-byte texts: {options.rounds} rounds of {options.seconds} s slices, "
        f"{options.in_flight} in flight"
    )
    measure(everyone, options.rounds, options.seconds, options.in_flight)
    for era in eras:
        print(f"\n{era.name}, {era.revision}:")
        show_figures(contenders[era.name], known[era.name]["ours"])
        show_verdicts(contenders[era.name], known[era.name]["ours"], options.in_flight)
    if len(eras) > 1:
        show_eras(contenders[LEGACY.name], contenders[MODERN.name])
    total = Tally()
    for it in everyone:
        total.add(it.tally)
        if it.failure:
            print(f"\n{it.name}, {it.era.name}, did not finish: {it.failure}")
    print(f"\n{total.answers:,} answers: {total}")
    # Wrong answers and a failure of this library's server fail the run; slow figures do not.
    return 1 if total.faults or any(line["ours"].failure for line in known.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
