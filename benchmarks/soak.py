"""Ten minutes of mixed load over HTTP, with clients that behave as clients do.

    python benchmarks/soak.py [--minutes 10] [--workers 16] [--seed 1]

They disconnect during a call, read slowly or not at all, cancel, delete their session during a
call, and resume streams or abandon them. Every answer and every event is checked. At the end no
session, task or descriptor may be left, and the memory may be at most 20 % above that after the
first minute. README.md lists the actions and the counters.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import trio
from eras import LEGACY
from http_server import HttpServer
from report import table
from soak_actions import delete, live, open_session
from soak_call import Ledger
from soak_record import Memory
from soak_worker import Worker

SERVER: Final = Path(__file__).parent / "servers" / "soak_http.py"
IDLE: Final = 15.0  # seconds after which the server ends an unused session
SETTLING: Final = IDLE + 15
GROWTH: Final = 1.2  # of the memory, from the first minute on
LONG_ENOUGH: Final = 180.0  # seconds; in less, memory has not settled
LEFTOVERS: Final = ("sessions", "in flight", "tasks", "descriptors")


async def stats(worker: Worker) -> dict[str, float]:
    """Read the counts of the server, in a separate session."""
    await open_session(worker)
    call = worker.call("stats")
    _, body = await worker.session.ask("POST", call.message, [200])
    text = LEGACY.echoed(json.loads(body))
    await delete(worker)
    worker.session.close()
    found: dict[str, float] = json.loads(text or "{}")
    return found


async def settle(worker: Worker, before: dict[str, float]) -> dict[str, float]:
    """Wait until the abandoned sessions have ended."""
    end = trio.current_time() + SETTLING
    while True:
        after = await stats(worker)
        left = [after[name] > before[name] for name in LEFTOVERS]
        if not any(left) or trio.current_time() > end:
            return after
        await trio.sleep(1)


async def soak(server: HttpServer, workers: int, seconds: float, seed: int) -> bool:
    """Run the load.

    Returns:
        whether there was no fault.
    """
    ledger = Ledger()
    watcher = Worker(server.port, ledger, random.Random(seed))  # noqa: S311 (dice)
    before = await stats(watcher)
    memory = Memory([server.pid])
    used = server.processor_seconds()
    async with trio.open_nursery() as sampling:
        sampling.start_soon(memory.run)
        until = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            for number in range(workers):
                dice = random.Random(f"{seed}-{number}")  # noqa: S311 (dice)
                nursery.start_soon(live, Worker(server.port, ledger, dice), until)
        used = server.processor_seconds() - used
        first, last = int(min(60, seconds / 4)), len(memory.samples)
        after = await settle(watcher, before)
        sampling.cancel_scope.cancel()

    done = [
        (name, f"{times:,}", f"{ledger.seconds[name] / times * 1e3:,.0f}")
        for name, times in sorted(ledger.done.items())
    ]
    print(table(("what clients did", "times", "mean ms"), done))
    names = sorted(set(before) & set(after))
    rows = [(name, f"{before[name]:,.0f}", f"{after[name]:,.0f}") for name in names]
    print()
    print(table(("the server", "before", "after"), rows))
    early, late = memory.around(first), memory.around(last)
    print(
        f"\nmemory: {early:.1f} MiB after {first} s, {late:.1f} MiB after {last} s "
        f"({late / early - 1:+.1%}), at most {max(memory.samples):.1f} MiB"
    )
    minutes = [f"{mib:.0f}" for mib in memory.minutes()]
    if minutes:
        print(f"minute by minute: {' '.join(minutes)}")
    print(f"processor: {used / seconds:.0%} of one")
    print(f"{ledger.tally.answers:,} answers: {ledger.tally}")
    for note in ledger.notes:
        print(f"  {note}")
    left = [name for name in LEFTOVERS if after[name] > before[name]]
    if left:
        print(f"left over: {', '.join(left)}")
    grown = seconds >= LONG_ENOUGH and late > early * GROWTH
    if grown:
        print(f"memory has grown by more than {GROWTH - 1:.0%}")
    return not (ledger.tally.faults or left or grown)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--server", choices=["builtin", "hypercorn"], default="builtin")
    options = parser.parse_args()
    command = [sys.executable, str(SERVER), "--idle", str(IDLE), "--server", options.server]
    print(
        f"{options.minutes:g} minutes, {options.workers} clients, seed {options.seed}, "
        f"{options.server}\n"
    )
    with closing(HttpServer(command)) as server:
        good = trio.run(soak, server, options.workers, options.minutes * 60, options.seed)
        server.terminate()
        words = server.last_words()
        complaints = server.complaints()
        status = server.close()
    print(f"after SIGTERM: exit status {status}, {words}")
    if complaints:
        print(f"the server complains:\n{complaints}")
    clean = bool(words) and json.loads(words)["sessions"] == 0
    return 0 if good and clean and not status and not complaints else 1


if __name__ == "__main__":
    raise SystemExit(main())
