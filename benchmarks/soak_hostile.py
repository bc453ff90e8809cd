"""Ten minutes with hostile clients beside good ones, over HTTP, TCP and pipes.

    python benchmarks/soak_hostile.py [--app router] [--minutes 10] [--good 200] [--hostile 200]

Each answer to a good client is checked, and each refusal of a hostile one. Printed are the wrong
answers, the memory minute by minute and its slope, and what calls of good clients take. README.md
lists the actions. All connections are on the loopback.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import attrs
import trio
from http_wire import Malformed
from report import percentile, table
from soak_hostile_http import (
    GOOD_ADDRESS,
    PATIENCE,
    Ended,
    HttpSide,
    Web,
    modern_call,
    modern_headers,
    post,
)
from soak_hostile_lines import Lines, PipeSide, TcpSide
from soak_record import Memory, Record, Wrong

SERVER: Final = str(Path(__file__).parent / "servers" / "soak_transports.py")
IDLE: Final = 10.0  # seconds after which the server ends an unused session
SETTLING: Final = IDLE + 20
SLOPE: Final = 0.1  # MiB a minute
LONG_ENOUGH: Final = 10.0  # minutes; in less, caches and pools make the slope
LANES: Final = 10  # tasks that act at an even pace, each for the good and the hostile
WORKERS: Final = 64  # at most so many more tasks: workers that the server keeps for the next calls
ROUNDS: Final = 3  # of the large messages, at the beginning
WARM_UP: Final = 30.0  # seconds after them
BURST: Final = 24  # of each at once: together more than an address may hold, which is 64 MiB
LINGERING: Final = 60  # slow attacks at the same time
LEFTOVERS: Final = ("sessions", "in flight", "tasks", "descriptors")
FAULTS: Final = (Wrong, Ended, Malformed, OSError, ValueError, trio.BrokenResourceError)

Action = Callable[[], Awaitable[None]]


@attrs.define
class Sides:
    """The clients of one task, with dice of their own."""

    http: HttpSide
    tcp: TcpSide
    pipe: PipeSide


@attrs.define(eq=False)
class Siege:
    """The servers, their clients, and what came of it."""

    ports: dict[str, int]
    pipe: Lines
    record: Record
    seed: int
    until: float
    nursery: trio.Nursery
    """For attacks that take their time."""
    reading: trio.Nursery
    """For the readers of connections that are kept."""
    lingering: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(LINGERING))

    def sides(self, dice: random.Random) -> Sides:
        return Sides(
            HttpSide(self.ports["http"], self.record, dice),
            TcpSide(self.ports["tcp"], self.record, dice, self.reading),
            PipeSide(self.pipe, self.record, dice),
        )

    async def guarded(self, name: str, action: Action, *, good: bool) -> None:
        """Run an action, and note what is wrong with it."""
        try:
            with trio.fail_after(PATIENCE):
                await action()
        except (*FAULTS, trio.TooSlowError) as error:
            self.record.note(name, error)
        else:
            (self.record.good if good else self.record.hostile)[name] += 1

    async def good_lane(self, name: str, rate: float) -> None:
        dice = random.Random(f"{self.seed}-good-{name}")  # noqa: S311 (dice)
        sides = self.sides(dice)
        actions: list[tuple[str, Action]] = [
            ("http, legacy", sides.http.legacy),
            ("http, modern", sides.http.modern),
            ("tcp", sides.tcp.good),
            ("pipes", sides.pipe.good),
        ]
        pace = Pace(rate, self.until)
        while await pace.goes_on():
            what, action = dice.choice(actions)
            await self.guarded(what, action, good=True)
        sides.http.close()
        await sides.tcp.close()

    async def hostile_lane(self, name: str, rate: float) -> None:
        dice = random.Random(f"{self.seed}-hostile-{name}")  # noqa: S311 (dice)
        pace = Pace(rate, self.until)
        while await pace.goes_on():
            # Dice for each attack: what a slow one throws does not change the next.
            sides = self.sides(random.Random(dice.getrandbits(64)))  # noqa: S311 (dice)
            attacks = [*sides.http.attacks, *sides.tcp.attacks, *sides.pipe.attacks]
            weights = [weight for _, _, weight, _ in attacks]
            [(what, action, _, slow)] = dice.choices(attacks, weights)
            if slow:
                self.nursery.start_soon(self.linger, what, action)
            else:
                await self.guarded(what, action, good=False)

    async def warm_up(self, options: argparse.Namespace) -> None:
        """Send what is large many times at once, then act for a while as later.

        So memory is at its height from the beginning.
        """
        for _ in range(ROUNDS):
            await self.send_large()
        self.until = trio.current_time() + WARM_UP
        async with trio.open_nursery() as nursery:
            self.start_lanes(nursery, options, "warm")
        self.record.restart()

    async def send_large(self) -> None:
        """Send each of the large messages so often that the bytes of one address are used up."""
        dice = random.Random(f"{self.seed}-large")  # noqa: S311 (dice)
        async with trio.open_nursery() as nursery:
            for _ in range(BURST):
                sides = self.sides(random.Random(dice.getrandbits(64)))  # noqa: S311 (dice)
                for name, action in sides.http.large + sides.pipe.large:
                    nursery.start_soon(partial(self.guarded, name, action, good=False))

    def start_lanes(self, nursery: trio.Nursery, options: argparse.Namespace, name: str) -> None:
        """Start all actions; they end when it is `until`."""
        for number in range(LANES):
            lane = f"{name}-{number}"
            nursery.start_soon(self.good_lane, lane, options.good / LANES)
            nursery.start_soon(self.hostile_lane, lane, options.hostile / LANES)

    async def linger(self, name: str, action: Action) -> None:
        """Run an attack that takes its time, unless there are enough of them."""
        try:
            self.lingering.acquire_on_behalf_of_nowait(trio.lowlevel.current_task())
        except trio.WouldBlock:
            return
        try:
            await self.guarded(name, action, good=False)
        finally:
            self.lingering.release_on_behalf_of(trio.lowlevel.current_task())


@attrs.define
class Pace:
    """An even pace; what is late is caught up with for a second at most."""

    rate: float
    until: float
    due: float = attrs.field(factory=trio.current_time)

    async def goes_on(self) -> bool:
        """Wait for the next action; return whether there is time for it."""
        self.due = max(self.due + 1 / self.rate, trio.current_time() - 1)
        await trio.sleep_until(self.due)
        return trio.current_time() < self.until


@asynccontextmanager
async def server(
    errors: IO[bytes], *options: str, stdin: int = subprocess.DEVNULL
) -> AsyncIterator[trio.Process]:
    """Run the server; it is ended in any case."""
    command = [sys.executable, SERVER, "--idle", str(IDLE), *options]
    process = await trio.lowlevel.open_process(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=errors
    )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            with trio.move_on_after(15):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()


async def ports_of(process: trio.Process) -> dict[str, int]:
    assert process.stdout is not None
    text = b""
    while b"\n" not in text:
        chunk = await process.stdout.receive_some()
        if not chunk:
            raise SystemExit("the server does not listen")
        text += chunk
    found: dict[str, int] = json.loads(text)
    return found


async def stats(port: int) -> dict[str, float]:
    """Read the counts of the server."""
    web = await Web.open(port, GOOD_ADDRESS)
    try:
        message = modern_call(1, "stats")
        del message["params"]["arguments"]["text"]
        _, body = await web.ask(post(message, **modern_headers(Mcp_Name="stats")))
        found: dict[str, float] = json.loads(json.loads(body)["result"]["content"][0]["text"])
        return found
    finally:
        web.cut()


async def settle(port: int, before: dict[str, float]) -> dict[str, float]:
    """Wait until the clocks of the server have ended what was left."""
    end = trio.current_time() + SETTLING
    while True:
        after = await stats(port)
        if not left_over(before, after) or trio.current_time() > end:
            return after
        await trio.sleep(1)


def left_over(before: dict[str, float], after: dict[str, float]) -> list[str]:
    allowed = {"tasks": WORKERS}
    return [name for name in LEFTOVERS if after[name] > before[name] + allowed.get(name, 0)]


async def besiege(options: argparse.Namespace, errors: IO[bytes]) -> bool:
    """Run it all.

    Returns:
        whether there was no fault.
    """
    record = Record()
    seconds = options.minutes * 60
    app = ("--app", options.app)
    async with (
        server(errors, *app) as sockets,
        server(errors, *app, "--stdio", stdin=subprocess.PIPE) as piped,
        trio.open_nursery() as reading,
    ):
        ports = await ports_of(sockets)
        assert piped.stdin is not None
        assert piped.stdout is not None
        lines = Lines(piped.stdin, piped.stdout)
        await reading.start(lines.read)
        await lines.initialize(next(record.numbers))
        before = await stats(ports["http"])
        memory = Memory([sockets.pid, piped.pid])
        async with trio.open_nursery() as nursery:
            siege = Siege(ports, lines, record, options.seed, 0, nursery, reading)
            await siege.warm_up(options)
            siege.until = trio.current_time() + seconds
            used = memory.processor_seconds()
            reading.start_soon(memory.run)
            siege.start_lanes(nursery, options, "lane")
        used = memory.processor_seconds() - used
        memory.freeze()
        after = await settle(ports["http"], before)
        survived = sockets.returncode is None and piped.returncode is None and not lines.ended
        reading.cancel_scope.cancel()
    print(f"processor of both servers: {used / seconds:.0%} of one\n")
    return report(options, record, memory, before, after, survived=survived)


def report(
    options: argparse.Namespace,
    record: Record,
    memory: Memory,
    before: dict[str, float],
    after: dict[str, float],
    *,
    survived: bool,
) -> bool:
    rows: list[list[str]] = []
    seconds = options.minutes * 60
    for kind, done in (("good", record.good), ("hostile", record.hostile)):
        rows += [[f"{kind}: {name}", f"{times:,}"] for name, times in sorted(done.items())]
    print(table(("what clients did", "times"), rows))
    print()
    rows = [
        [name, f"{len(times):,}", *(f"{percentile(times, p) * 1e3:.1f}" for p in (50, 99, 100))]
        for name, times in sorted(record.latencies.items())
    ]
    print(table(("calls of good clients", "calls", "p50 ms", "p99 ms", "max ms"), rows))
    print()
    rows = [[name, f"{before[name]:,.0f}", f"{after[name]:,.0f}"] for name in sorted(before)]
    print(table(("the server", "before", "after"), rows))
    slope = memory.slope()
    minutes = " ".join(f"{one:.1f}" for one in memory.minutes())
    print(f"\nmemory of both servers, MiB, minute by minute: {minutes}")
    print(f"at most {max(memory.samples):.1f} MiB; slope {slope:+.3f} MiB a minute")
    rates = [record.good.total() / seconds, record.hostile.total() / seconds]
    print(f"{rates[0]:.0f} good and {rates[1]:.0f} hostile actions a second")
    print(f"{record.wrong.total()} wrong answers {dict(record.wrong) or ''}")
    for note in record.notes:
        print(f"  {note}")
    faults: list[Any] = [
        name
        for name, bad in (
            ("a server has ended", not survived),
            ("wrong answers", record.wrong.total()),
            (
                "too few actions",
                rates[0] < options.good * 0.95 or rates[1] < options.hostile * 0.95,
            ),
            ("memory grows", options.minutes >= LONG_ENOUGH and slope > SLOPE),
            (f"left over: {left_over(before, after)}", left_over(before, after)),
        )
        if bad
    ]
    print("faults: " + (", ".join(faults) or "none"))
    return not faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--app", choices=["router", "sdk"], default="router")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--good", type=int, default=200, help="good actions a second")
    parser.add_argument("--hostile", type=int, default=200, help="hostile actions a second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{options.app}, {options.minutes:g} minutes, seed {options.seed}\n")
    with tempfile.TemporaryFile() as errors:
        fine = trio.run(besiege, options, errors)
        errors.seek(0)
        said = errors.read()
        print(f"{said.count(b'Traceback')} tracebacks in {len(said):,} bytes of standard error")
        if b"Traceback" in said:
            print(said[:4000].decode(errors="replace"))
            fine = False
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
