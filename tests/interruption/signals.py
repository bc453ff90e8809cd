"""Real processes, and signals at random moments.

::

    python -m tests.interruption.signals --runs 200                      all programs
    python -m tests.interruption.signals --runs 200 --program http --python .../python3.13
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, final

import attrs
import msgspec
import trio

from tests.helpers import initialize, notification, request
from tests.transports.http.live import connect
from trio_mcp_session import BoundAddress

from .programs import command
from .watchdog import unless

HANG: Final = 30.0
"""Seconds after which a process counts as hung: all budgets, on a slow machine."""

HERE: Final = str(Path(__file__).parent)

MARGIN: Final = 0.1
"""Seconds that a signal may be on its way."""


@final
@attrs.define(eq=False)
class Run:
    """One process, the signals that it was sent, and how it ended."""

    seed: int
    signals: Sequence[signal.Signals]
    within: float = attrs.field(default=0.8, kw_only=True)
    """Seconds in which the signals are sent."""
    status: int = attrs.field(default=0, kw_only=True)
    out: bytes = attrs.field(default=b"", init=False)
    err: bytes = attrs.field(default=b"", kw_only=True)
    hung: bool = attrs.field(default=False, kw_only=True)
    sent: list[tuple[signal.Signals, float]] = attrs.field(
        factory=list[tuple[signal.Signals, float]], init=False
    )
    seconds: float = attrs.field(default=0, init=False)
    """From the last signal to the end."""
    ready: trio.Event = attrs.field(factory=trio.Event, init=False)
    listening: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def go(
        self, arguments: Sequence[str], client: Callable[[Run, trio.Process], Any]
    ) -> None:
        process = await trio.lowlevel.open_process(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=HERE,
        )
        try:
            with trio.move_on_after(HANG) as scope:
                async with trio.open_nursery() as nursery:
                    assert process.stderr is not None
                    nursery.start_soon(self._read_errors, process.stderr)
                    nursery.start_soon(client, self, process)
                    await self.ready.wait()
                    scope.deadline = trio.current_time() + HANG  # However slow the machine is.
                    await self._send_signals(process)
                    last = time.monotonic()
                    self.status = await process.wait()
                    self.seconds = time.monotonic() - last
            self.hung = scope.cancelled_caught
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                assert pipe is not None
                await trio.aclose_forcefully(pipe)

    async def _send_signals(self, process: trio.Process) -> None:
        dice = random.Random(self.seed)  # noqa: S311  # no secret
        moments = sorted(dice.uniform(0, self.within) for _ in self.signals)
        start = trio.current_time()
        for number, moment in zip(self.signals, moments, strict=True):
            await trio.sleep_until(start + moment)
            if process.poll() is None:
                self.sent.append((number, time.monotonic()))
                process.send_signal(number)

    async def _read_errors(self, stream: trio.abc.ReceiveStream) -> None:
        async for chunk in stream:
            self.err += chunk
            if b"/mcp\n" in self.err:
                self.listening.set()

    # What is wrong.

    def problems(self) -> list[str]:
        if self.hung:
            return ["it hangs"]
        return list(unless(b"Traceback" not in self.err, f"a traceback: {self.err!r}"))

    @property
    def later(self) -> set[signal.Signals]:
        """All signals that it was sent but the first."""
        return {number for number, _ in self.sent[1:]}


@final
@attrs.frozen
class Program:
    """A program to send signals to."""

    command: Callable[[str, int], Sequence[str]]
    """What runs it, from a Python and a seed."""
    client: Callable[[Run, trio.Process], Awaitable[None]]
    judge: Callable[[Run], Iterator[str]]
    signals: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
    within: float = 0.8


# A manager in a program of another author.


async def watch_library(run: Run, process: trio.Process) -> None:
    assert process.stdout is not None
    async for chunk in process.stdout:
        run.out += chunk
        if b"ready\n" in run.out:
            run.ready.set()


def judge_library(run: Run) -> Iterator[str]:
    """Every interrupt comes out, and nothing is left."""
    if run.status != 0:
        yield f"status {run.status}"
        return
    told = json.loads(run.out.splitlines()[-1])
    yield from told["problems"]
    kinds = Counter(told["kinds"])
    in_time = [number for number, sent in run.sent if sent < told["end"] - MARGIN]
    came_out = bool(kinds.pop("KeyboardInterrupt", 0))
    yield from unless(came_out or not in_time, f"{len(in_time)} interrupts, and none came out")
    kinds.pop("BodyError", None)
    if came_out:
        # An interrupt in a session's task ends sessions that the body waits for.
        kinds.pop("SessionTerminated", None)
    yield from unless(not kinds, f"out came {dict(kinds)}")


# Servers.


def judge_server(run: Run) -> Iterator[str]:
    """The first signal drains, the second cancels, the third ends the process at once."""
    allowed = {0} | {128 + number for number in run.later}
    # When all is over, a signal has the effect that the system gives it.
    allowed |= {-number for number in run.later}
    sent = [number.name for number, _ in run.sent]
    yield from unless(run.status in allowed, f"status {run.status} after {sent}")
    if len(run.sent) < 3 or run.status == 0:
        steps = [line.split() for line in run.err.decode().splitlines()]
        entered = {step[1] for step in steps if step[:1] == ["entered"]}
        left = {step[1] for step in steps if step[:1] == ["left"]}
        yield from (f"session {one} was never left" for one in entered - left)


def calls(seed: int) -> Iterator[dict[str, Any]]:
    """Calls of a tool without end, and with every other seed a long one before them."""
    for number in count(1 - seed % 2):  # pragma: no branch  # without end
        arguments = {"rounds": 1_000 if number == 0 else 9}
        yield request(number, "tools/call", {"name": "work", "arguments": arguments})


async def use_stdio(run: Run, process: trio.Process) -> None:
    """Call a tool again and again, until the server has left."""
    assert process.stdin is not None
    assert process.stdout is not None
    messages: list[object] = [initialize("hello"), notification("notifications/initialized")]
    with suppress(trio.BrokenResourceError):
        for call in calls(run.seed):  # pragma: no branch  # without end
            messages.append(call)
            await process.stdin.send_all(b"".join(msgspec.json.encode(m) + b"\n" for m in messages))
            messages.clear()
            if call["id"] == 0:
                continue
            chunk = await process.stdout.receive_some()
            if not chunk:
                break
            run.out += chunk
            run.ready.set()
    for line in run.out.splitlines():
        json.loads(line)


async def use_http(run: Run, process: trio.Process) -> None:
    """Several clients that call a tool again and again."""
    await run.listening.wait()
    line = next(line for line in run.err.decode().splitlines() if line.endswith("/mcp"))
    host, _, port = line.rpartition("http://")[2].removesuffix("/mcp").rpartition(":")
    address = BoundAddress(host=host, port=int(port))
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(_call_over_http, run, address, run.seed + number)


async def _call_over_http(run: Run, address: BoundAddress, seed: int) -> None:
    with suppress(EOFError, OSError, trio.BrokenResourceError):
        async with await connect(address) as wire:
            answer = await wire.request("POST", initialize("hello"))
            headers = {"Mcp-Session-Id": answer.headers["mcp-session-id"]}
            await wire.request("POST", notification("notifications/initialized"), headers)
            run.ready.set()
            for call in calls(seed):  # pragma: no branch  # without end
                await wire.request("POST", call, headers)


def _library(mode: str) -> Callable[[str, int], Sequence[str]]:
    return lambda python, seed: command("library", mode, str(seed), python=python)


def _serve_http(python: str, _: int) -> Sequence[str]:
    serve = ("-m", "trio_mcp_session", "serve", "busy:router", "--http", "127.0.0.1:0")
    return [python, *serve, "--drain-grace", "0.3", "--cleanup-budget", "2"]


PROGRAMS: Final[Mapping[str, Program]] = {
    "library": Program(_library("three"), watch_library, judge_library, (signal.SIGINT,)),
    "many": Program(_library("many"), watch_library, judge_library, (signal.SIGINT,), within=4),
    "stdio": Program(lambda python, _: [python, f"{HERE}/busy.py"], use_stdio, judge_server),
    "http": Program(_serve_http, use_http, judge_server),
    "terminal": Program(
        _serve_http, use_http, judge_server, (signal.SIGHUP, signal.SIGHUP, signal.SIGINT)
    ),
}


async def run_once(
    name: str, seed: int, python: str = sys.executable, *, signals: int | None = None
) -> Run:
    """Run a program; the seed decides which signals it is sent, how many, and when."""
    program = PROGRAMS[name]
    dice = random.Random(seed)  # noqa: S311  # no secret
    number = dice.randint(1, 5) if signals is None else signals
    run = Run(seed, dice.choices(program.signals, k=number), within=program.within)
    await run.go(program.command(python, seed), program.client)
    return run


def problems_of(name: str, run: Run) -> list[str]:
    return run.problems() or list(PROGRAMS[name].judge(run))


async def run_many(name: str, seeds: Iterable[int], python: str) -> list[str]:
    """Run a program with many seeds, and report it; return what is wrong."""
    runs = [(seed, await run_once(name, seed, python)) for seed in seeds]
    statuses = Counter(run.status for _, run in runs)
    sent = Counter(number.name for _, run in runs for number, _ in run.sent)
    longest = max(run.seconds for _, run in runs)
    print(f"{name}: {len(runs)} runs, {dict(sent)}, statuses {dict(statuses)}, ", end="")
    print(f"longest end {longest:.2f} s")
    return [
        f"--program {name} --first {seed}: {'; '.join(problems)}"
        for seed, run in runs
        if (problems := problems_of(name, run))
    ]


async def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--program", choices=PROGRAMS, action="append")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args(arguments)
    seeds = range(options.first, options.first + options.runs)
    found = [
        problem
        for name in options.program or PROGRAMS
        for problem in await run_many(name, seeds, options.python)
    ]
    print(*found, f"{len(found)} runs failed", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(trio.run(main))  # pragma: no cover  # the tests call it
