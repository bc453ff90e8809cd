"""The cost of several processes: processor time per request, direct and behind HAProxy.

    python benchmarks/workers.py

All servers run at the same time and take turns in short slices, so that other load on the machine
affects all of them. HAProxy has the configuration that `serve --print-proxy haproxy` prints.
README.md says what each row means.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from eras import ERAS, Era
from http_load import Target
from load import ServerFailed
from processes import processor_seconds
from report import table

SERVERS: Final = Path(__file__).parent / "servers"
PATIENCE: Final = 30.0
HEADER: Final = ("", "requests/s", "server, us/request", "ratio", "HAProxy, us/request")
BIND: Final = "127.0.0.1:8080"
"""Where the printed configuration listens."""


@dataclass
class Row:
    """What is measured: the processes, and the ports that the load goes to."""

    name: str
    ports: Sequence[int]
    servers: Sequence[int]
    """Process ids of the servers."""
    proxies: Sequence[int] = ()
    rates: list[float] = field(default_factory=list)
    server_times: list[float] = field(default_factory=list)
    proxy_times: list[float] = field(default_factory=list)


def free_ports(count: int) -> int:
    """Return the first of several free ports in a row."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as found:
            first: int = found.getsockname()[1]
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first


@contextlib.contextmanager
def running(command: Sequence[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the length of a block."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, bufsize=0, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve_command(port: int, *options: str) -> list[str]:
    command = [sys.executable, "-m", "trio_mcp_session", "serve", "ours_http:router"]
    limits = ["--opening-rate", "inf", "--max-sessions-per-principal", "10000"]
    return [*command, "--http", f"127.0.0.1:{port}", *limits, *options]


@contextlib.contextmanager
def serving(*options: str, workers: int = 0) -> Iterator[tuple[int, list[int]]]:
    """Serve; return the first port, and the process ids of the servers."""
    port = free_ports(max(1, workers))
    more = ["--workers", str(workers)] if workers else []
    command = serve_command(port, *options, *more)
    with running(command, stderr=subprocess.PIPE, cwd=SERVERS) as process:
        assert process.stderr is not None
        said = b""
        wanted = rb"is process (\d+)\n" if workers else rb"(listening on) .*\n"
        end = time.monotonic() + PATIENCE
        while len(found := re.findall(wanted, said)) < max(1, workers):
            if not select.select([process.stderr], [], [], max(0, end - time.monotonic()))[0]:
                raise ServerFailed(said.decode())
            chunk = process.stderr.read(4096)
            if not chunk:
                raise ServerFailed(said.decode())
            said += chunk
        yield port, [int(one) for one in found] if workers else [process.pid]


@contextlib.contextmanager
def proxied(program: str, first: int, workers: int, folder: Path) -> Iterator[tuple[int, int]]:
    """Run HAProxy in front of the servers; return its port, and its process id."""
    command = serve_command(first, "--workers", str(workers), "--print-proxy", "haproxy")
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    bind = free_ports(1)
    config = folder / f"haproxy-{workers}.cfg"
    # One thread: the load generator and the servers need the other processors.
    config.write_text(
        printed.replace(BIND, f"127.0.0.1:{bind}").replace("\nglobal\n", "\nglobal\n  nbthread 1\n")
    )
    with running([program, "-db", "-f", str(config)], stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", bind), 1).close()
                break
            except OSError:
                if time.monotonic() > end:
                    raise ServerFailed("HAProxy does not listen") from None
                time.sleep(0.05)
        yield bind, process.pid


def drive(row: Row, targets: Sequence[Target], connections: int, seconds: float) -> None:
    """Put load on all ports of a row for one slice."""
    servers = sum(map(processor_seconds, row.servers))
    proxies = sum(map(processor_seconds, row.proxies))
    counts: list[int] = []
    rates: list[float] = []

    def load(target: Target) -> None:
        sample = target.calls(connections // len(targets), seconds)
        counts.append(sample.count)
        rates.append(sample.per_second)

    threads = [threading.Thread(target=load, args=(one,)) for one in targets]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if len(counts) != len(targets):
        raise ServerFailed(row.name)
    count = sum(counts)
    row.rates.append(sum(rates))
    row.server_times.append((sum(map(processor_seconds, row.servers)) - servers) / count)
    row.proxy_times.append((sum(map(processor_seconds, row.proxies)) - proxies) / count)


def measure(era: Era, rows: Sequence[Row], options: argparse.Namespace) -> None:
    targets = [[Target(port, era) for port in row.ports] for row in rows]
    for _ in range(options.rounds):
        for row, driven in zip(rows, targets, strict=True):
            drive(row, driven, options.connections, options.seconds)
    faults = sum(one.tally.faults for driven in targets for one in driven)
    print(
        f"\n{era.name}: {options.connections} connections, {options.rounds} slices of "
        f"{options.seconds:g} s each, {faults} faults\n"
    )
    base = median(rows[0].server_times)
    rows_shown = [
        [
            row.name,
            f"{median(row.rates):,.0f}",
            f"{median(row.server_times) * 1e6:.0f}",
            f"{median(row.server_times) / base:.2f}",
            f"{median(row.proxy_times) * 1e6:.0f}" if row.proxies else "-",
        ]
        for row in rows
    ]
    print(table(HEADER, rows_shown))
    if faults:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="measure several processes")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        raise SystemExit("haproxy is not installed")
    for name in ERAS:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rows = []
            port, pids = stack.enter_context(serving())
            rows.append(Row("direct, without a label", [port], pids))
            for workers in (1, 2):
                port, pids = stack.enter_context(serving(workers=workers))
                ports = range(port, port + workers)
                rows.append(Row(f"direct, {workers} of --workers", ports, pids))
                bind, pid = stack.enter_context(proxied(program, port, workers, folder))
                rows.append(Row(f"behind HAProxy, {workers} of --workers", [bind], pids, [pid]))
            measure(ERAS[name], rows, options)


if __name__ == "__main__":
    main()
