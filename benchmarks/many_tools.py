"""What do a thousand tools cost: to register, and to list?

    python benchmarks/many_tools.py

The same functions are registered on this library, on the official SDK (`MCPServer`) and on FastMCP.
Each round starts one process of each; the client speaks raw JSON-RPC over pipes, follows the pages
of the list, and counts the tools. Ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from report import ratio, table

SERVER: Final = Path(__file__).parent / "servers" / "tools.py"
LISTS: Final = 10


def ask(server: subprocess.Popen[bytes], number: int, method: str, params: object) -> Any:
    """Send one request, and return its result."""
    assert server.stdin is not None
    assert server.stdout is not None
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    server.stdin.write(json.dumps(message).encode() + b"\n")
    server.stdin.flush()
    while True:
        answer = json.loads(server.stdout.readline())
        if answer.get("id") == number:
            return answer["result"]


def list_all(server: subprocess.Popen[bytes], numbers: Iterator[int]) -> int:
    """List the tools, page by page; return how many there are."""
    count = 0
    params: dict[str, str] = {}
    while True:
        page = ask(server, next(numbers), "tools/list", params)
        count += len(page["tools"])
        if "nextCursor" not in page:
            return count
        params = {"cursor": page["nextCursor"]}


def measure(command: Sequence[str], tools: int) -> tuple[float, float]:
    """Return the milliseconds of the registration, and of one list (median)."""
    with tempfile.TemporaryFile() as errors:
        server = subprocess.Popen(
            [*command, str(tools)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            numbers = iter(range(1, 1_000_000))
            info = {"name": "bench", "version": "1"}
            ask(
                server,
                next(numbers),
                "initialize",
                {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info},
            )
            assert server.stdin is not None
            server.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
            times: list[float] = []
            for _ in range(LISTS):
                began = time.perf_counter()
                found = list_all(server, numbers)
                times.append((time.perf_counter() - began) * 1000)
                if found != tools:
                    raise SystemExit(f"{command} listed {found} of {tools} tools")
            server.stdin.close()
            server.wait(30)
        finally:
            server.kill()
            server.wait()
        errors.seek(0)
        registered = re.search(rb"registered in ([\d.]+)", errors.read())
    assert registered is not None
    return float(registered[1]) * 1000, median(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tools", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    for peer in ("mcp", "fastmcp"):
        variable = f"BENCH_{peer.upper()}_PYTHON"
        parser.add_argument(
            f"--{peer}-python",
            default=os.environ.get(variable, sys.executable),
            help=f"an interpreter that has `{peer}` (default: this one, or {variable})",
        )
    options = parser.parse_args()
    pythons = {
        "ours": sys.executable,
        "mcp": options.mcp_python,
        "fastmcp": options.fastmcp_python,
    }
    for peer in ("mcp", "fastmcp"):
        imported = subprocess.run(
            [pythons[peer], "-c", f"import {peer}"], check=False, stderr=subprocess.DEVNULL
        )
        if imported.returncode:
            print(f"{peer} is not installed: it is skipped")
            del pythons[peer]
    figures: dict[str, list[tuple[float, float]]] = {kind: [] for kind in pythons}
    for _ in range(options.rounds):
        for kind, python in pythons.items():
            figures[kind].append(measure([python, str(SERVER), kind], options.tools))
    rows = [
        [
            kind,
            f"{median(one for one, _ in found):.0f}",
            f"{ratio([a for a, _ in found], [a for a, _ in figures['ours']]):.1f}",
            f"{median(one for _, one in found):.1f}",
            f"{ratio([b for _, b in found], [b for _, b in figures['ours']]):.1f}",
        ]
        for kind, found in figures.items()
    ]
    print(f"{options.tools} tools, medians of {options.rounds} rounds")
    print(table(["library", "register, ms", "× ours", "list, ms", "× ours"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
