"""What thousands of idle HTTP sessions cost, and what open GET streams add to that.

    python benchmarks/http_sessions.py

Each server is a separate process; its sessions are opened over real sockets, which are closed
afterwards. README.md says what each row means.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Final

from http_drive import Wire
from http_load import Target, bodies
from http_server import HttpServer
from load import Tally
from report import percentile, table

SERVERS: Final = Path(__file__).parent / "servers"
PATIENCE: Final = 30.0
PER_CONNECTION: Final = 100  # sessions are opened over connections that are closed again
WARM_UP: Final = 20  # few at once: memory that they free would be used again and not be counted


class Watcher:
    """Reads the state of a server, from its own session."""

    def __init__(self, target: Target) -> None:
        self._target = target
        [self._session] = open_sessions(target, 1)

    def footprint(self) -> dict[str, float]:
        """Return the memory and objects of the server, after a full garbage collection."""
        request = (
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
            b'"params":{"name":"footprint","arguments":{}}}'
        )
        with closing(Wire(self._target.port, PATIENCE)) as wire:
            answer = wire.ask(self._target.post(self._session, request))
        message = json.loads(bodies(answer)[-1])
        found: dict[str, float] = json.loads(message["result"]["content"][0]["text"])
        return found

    def close(self) -> None:
        close_sessions(self._target, [self._session])


def open_sessions(target: Target, count: int) -> list[bytes]:
    sessions: list[bytes] = []
    while len(sessions) < count:
        with closing(Wire(target.port, PATIENCE)) as wire:
            number = min(PER_CONNECTION, count - len(sessions))
            sessions += [target.open_session(wire) for _ in range(number)]
    return sessions


def close_sessions(target: Target, sessions: list[bytes]) -> None:
    with closing(Wire(target.port, PATIENCE)) as wire:
        while sessions:
            target.close_session(wire, sessions.pop())


def call_times(target: Target, seconds: float) -> tuple[float, float]:
    """The p50 and p99 of calls over one connection: the medians of some slices."""
    slices = [target.calls(1, seconds / 5).latencies for _ in range(5)]
    p50, p99 = (median(percentile(it, share) for it in slices) for share in (50, 99))
    return p50, p99


def processor_share(server: HttpServer, seconds: float) -> float:
    """Return the percentage of a processor that the server uses without requests."""
    used, began = server.processor_seconds(), perf_counter()
    sleep(seconds)
    return (server.processor_seconds() - used) / (perf_counter() - began) * 100


def measure(
    command: Sequence[str], sessions: int, streams: int, seconds: float
) -> tuple[dict[str, float], Tally]:
    found: dict[str, float] = {"sessions": sessions, "streams": streams}
    with closing(HttpServer(command)) as server:
        target = Target(server.port, patience=PATIENCE)
        watcher = Watcher(target)
        for _ in range(20):
            close_sessions(target, open_sessions(target, WARM_UP))
        call_times(target, seconds)
        before = watcher.footprint()
        calm = call_times(target, seconds)
        found["idle CPU alone %"] = processor_share(server, 2 * seconds)

        began = perf_counter()
        opened = open_sessions(target, sessions)
        found["open µs"] = (perf_counter() - began) / sessions * 1e6
        among = watcher.footprint()
        found["KiB each"] = (among["kib"] - before["kib"]) / sessions
        found["objects each"] = (among["objects"] - before["objects"]) / sessions
        found["idle CPU %"] = processor_share(server, 2 * seconds)
        crowded = call_times(target, seconds)

        wires = [target.open_stream(session) for session in opened[:streams]]
        listening = watcher.footprint()
        found["stream KiB each"] = (listening["kib"] - among["kib"]) / streams
        found["stream objects each"] = (listening["objects"] - among["objects"]) / streams
        found["idle CPU, streams %"] = processor_share(server, 2 * seconds)
        beside = call_times(target, seconds)

        for wire in wires:
            wire.close()
        began = perf_counter()
        close_sessions(target, opened)
        found["close µs"] = (perf_counter() - began) / sessions * 1e6
        after = watcher.footprint()
        found["KiB left each"] = (after["kib"] - before["kib"]) / sessions
        found["objects left"] = after["objects"] - before["objects"]
        again = call_times(target, seconds)
        target.close()
        watcher.close()

    for i, name in enumerate(("p50", "p99")):
        alone = (calm[i] + again[i]) / 2
        found[f"call {name} alone µs"] = alone * 1e6
        found[f"call {name} µs"] = crowded[i] * 1e6
        found[f"call {name}, streams µs"] = beside[i] * 1e6
        found[f"{name} ratio"] = crowded[i] / alone
        found[f"{name} ratio, streams"] = beside[i] / alone
    return found, target.tally


ROWS: Final = {
    "sessions": (",.0f", ""),
    "KiB each": (".2f", "12 / 6"),
    "objects each": (".1f", ""),
    "open µs": (".0f", ""),
    "close µs": (".0f", ""),
    "KiB left each": (".2f", ""),
    "objects left": (",.0f", ""),
    "streams": (",.0f", ""),
    "stream KiB each": (".2f", ""),
    "stream objects each": (".1f", ""),
    "idle CPU alone %": (".2f", ""),
    "idle CPU %": (".2f", ""),
    "idle CPU, streams %": (".2f", ""),
    "call p50 alone µs": (".0f", ""),
    "call p50 µs": (".0f", ""),
    "p50 ratio": (".2f", "1.1 / 1.05"),
    "call p50, streams µs": (".0f", ""),
    "p50 ratio, streams": (".2f", ""),
    "call p99 alone µs": (".0f", ""),
    "call p99 µs": (".0f", ""),
    "call p99, streams µs": (".0f", ""),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=5_000, help="idle sessions of this library")
    parser.add_argument("--streams", type=int, default=1_000, help="open GET streams")
    parser.add_argument("--mcp-count", type=int, default=1_000, help="idle sessions of mcp")
    parser.add_argument("--seconds", type=float, default=5, help="length of each measurement")
    parser.add_argument("--only", nargs="+", choices=["ours", "hypercorn", "mcp"])
    parser.add_argument("--mcp-python", default=os.environ.get("BENCH_MCP_PYTHON", sys.executable))
    options = parser.parse_args()

    # A descriptor for each stream, here and in the server, which inherits the limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    ours = [sys.executable, str(SERVERS / "ours_http.py")]
    kinds = {
        "ours": (ours, options.count),
        "hypercorn": ([*ours, "--server", "hypercorn"], options.count),
        "mcp": ([options.mcp_python, str(SERVERS / "mcp_http.py")], options.mcp_count),
    }
    total = Tally()
    columns: dict[str, dict[str, float]] = {}
    for name, (command, count) in kinds.items():
        if not options.only or name in options.only:
            streams = min(options.streams, count)
            columns[name], tally = measure(command, count, streams, options.seconds)
            total.add(tally)
    rows = [
        (name, *(format(found[name], form) for found in columns.values()), goal)
        for name, (form, goal) in ROWS.items()
    ]
    print(table(("", *columns, "accept / aim"), rows))
    print(f"\n{total.answers:,} answers: {total}")
    return 1 if total.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
