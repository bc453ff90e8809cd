"""A neutral load generator: newline-delimited JSON-RPC over the pipes of a server subprocess.

It calls the tool `echo` with a text of 64 bytes that is different in every call, one at a time or
with many calls in flight, and checks every answer: after a handshake, or, in the modern era, with
stateless requests.

It must be faster than every server. So it blocks in `os.read` and `os.write`, and compares bytes:
the first answer of a server, checked as JSON, is the template for all others. An answer that
differs from the template is not yet an error: it is parsed and checked.

    python benchmarks/load.py -- python benchmarks/servers/ours.py
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Final

from eras import ERAS, LEGACY, TEXT, Era
from report import percentile

FIRST: Final = 1_000_000  # ids of one length, so that all messages have one
CHUNK: Final = 1 << 16
MAX_IN_FLIGHT: Final = 256  # so many requests fit into a pipe: a write never waits for the server


class ServerFailed(Exception):
    """The server could not be started, ended, or did not answer in time and was ended."""


@dataclass
class Tally:
    """The results of the calls; all fields except `answers` must stay 0."""

    answers: int = 0
    wrong: int = 0
    missing: int = 0
    doubled: int = 0
    crossed: int = 0

    @property
    def faults(self) -> int:
        return self.wrong + self.missing + self.doubled + self.crossed

    def add(self, other: Tally) -> None:
        for name in ("answers", "wrong", "missing", "doubled", "crossed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        return (
            f"{self.wrong} wrong, {self.missing} missing, "
            f"{self.doubled} doubled, {self.crossed} crossed"
        )


@dataclass
class Rate:
    """Answers that arrived in a period of time."""

    answers: int
    seconds: float
    per_second: float = field(init=False)

    def __post_init__(self) -> None:
        self.per_second = self.answers / self.seconds


class Connection:
    """One server subprocess, past its handshake, if the era has one, and its first answer.

    The process is ended in every case: by the end of its input, or, if it does not answer
    within `patience` seconds, or does not leave within five, by a signal to this one process.
    """

    def __init__(
        self,
        command: Sequence[str],
        era: Era = LEGACY,
        *,
        env: dict[str, str] | None = None,
        patience: float = 30,
    ) -> None:
        self.tally = Tally()
        self._era = era
        self._call = era.call + b"\n"
        self._patience = patience
        self._next = FIRST
        self._expected: set[bytes] = set()
        self._template = b""
        self._rest = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close())
        began = perf_counter_ns()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=env,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        try:
            with self._bounded(0):
                self._begin()
        except BaseException:
            self.close()
            raise
        self.start_seconds = (perf_counter_ns() - began) / 1e9
        """From before the process exists to the answer of its first `tools/call`."""

    def one_at_a_time(self, seconds: float, limit: int = 1_000_000) -> list[float]:
        """Call for that long (or often), each call after the answer to the one before it.

        Returns:
            the time that each call took, in seconds.
        """
        latencies: list[float] = []
        end = perf_counter_ns() + int(seconds * 1e9)
        now = 0
        with self._bounded(seconds):
            while now < end and len(latencies) < limit:
                calls = self._make_calls(1)
                began = perf_counter_ns()
                self._write(calls)
                lines = self._read_lines()
                now = perf_counter_ns()
                latencies.append((now - began) / 1e9)
                self._check(lines)
                self._settle()
        return latencies

    def many_in_flight(self, seconds: float, in_flight: int = 64, limit: int = 10_000_000) -> Rate:
        """Keep that many calls in flight: each answer is followed by a new call."""
        assert 0 < in_flight <= MAX_IN_FLIGHT
        before = self.tally.answers
        first = self._next
        began = now = perf_counter_ns()
        end = began + int(seconds * 1e9)
        with self._bounded(seconds):
            while now < end and self._next - first < limit:
                self._write(self._make_calls(in_flight - len(self._expected)))
                self._check(self._read_lines())
                now = perf_counter_ns()
            rate = Rate(self.tally.answers - before, (now - began) / 1e9)
            self._settle()
        return rate

    def close(self) -> int:
        """End the server by ending its input.

        Returns:
            its exit status; negative if it had to be killed.
        """
        killer = threading.Timer(5, self._process.kill)
        killer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self._stdin.close()
            with contextlib.suppress(ServerFailed):
                while True:
                    self._check(self._read_lines())
            return self._process.wait()
        finally:
            killer.cancel()
            self._stdout.close()
            self._errors.close()

    # The conversation

    def _begin(self) -> None:
        if self._era.handshake:
            self._shake_hands()
        number = self._next
        self._next += 1
        self._write(self._call % (number, number))
        line = self._read_answer()
        if self._era.echoed(json.loads(line)) != (TEXT % number).decode():
            raise ServerFailed(f"unexpected answer to tools/call: {line!r}")
        template = line.replace(b"%", b"%%").replace(TEXT % number, TEXT)
        self._template = template.replace(b"%d" % number, b"%d")
        if self._template % (number, number) != line:
            raise ServerFailed(f"an answer must hold its id and its text once: {line!r}")
        self.tally.answers += 1

    def _shake_hands(self) -> None:
        revision = self._era.revision
        hello = {
            "protocolVersion": revision,
            "capabilities": {},
            "clientInfo": {"name": "load", "version": "1"},
        }
        self._write(_message(id=0, method="initialize", params=hello))
        answer = json.loads(self._read_answer())
        if answer.get("id") != 0 or answer.get("result", {}).get("protocolVersion") != revision:
            raise ServerFailed(f"unexpected answer to initialize: {answer}")
        self._write(_message(method="notifications/initialized"))

    def _make_calls(self, count: int) -> bytes:
        numbers = range(self._next, self._next + count)
        self._next += count
        call, template = self._call, self._template
        self._expected.update([template % (number, number) for number in numbers])
        return b"".join([call % (number, number) for number in numbers])

    def _settle(self) -> None:
        """Read until all expected answers have arrived."""
        while self._expected:
            self._check(self._read_lines())

    def _check(self, lines: list[bytes]) -> None:
        found = self._expected.intersection(lines)
        if len(found) == len(lines):  # otherwise one is unknown, or a duplicate
            self._expected -= found
            self.tally.answers += len(lines)
        else:
            for line in lines:
                self._judge(line)

    def _judge(self, line: bytes) -> None:
        """Parse and check a line that differs from the template."""
        try:
            message = json.loads(line)
        except ValueError:
            self.tally.wrong += 1
            return
        if "method" in message:  # a request or notification of the server
            return
        number = message.get("id")
        if type(number) is not int or not FIRST <= number < self._next:
            self.tally.wrong += 1
            return
        foreseen = self._template % (number, number)
        if foreseen not in self._expected:
            self.tally.doubled += 1
            return
        self._expected.remove(foreseen)
        text = self._era.echoed(message)
        if text == (TEXT % number).decode():
            self.tally.answers += 1
        elif text is not None and text[:-14] == (TEXT % 0).decode()[:-14]:
            self.tally.crossed += 1
        else:
            self.tally.wrong += 1

    # The pipes

    def _read_answer(self) -> bytes:
        while True:
            for line in self._read_lines():
                if "method" not in json.loads(line):
                    return line

    def _read_lines(self) -> list[bytes]:
        """Read at least one whole line."""
        rest = self._rest
        while True:
            chunk = os.read(self._stdout.fileno(), CHUNK)
            if not chunk:
                raise ServerFailed("the server's output has ended")
            *lines, rest = (rest + chunk).split(b"\n")
            if lines:
                self._rest = rest
                return lines

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._stdin.fileno(), data) :]

    @contextlib.contextmanager
    def _bounded(self, seconds: float) -> Iterator[None]:
        # A thread that sleeps costs nothing; a poll() before each read would cost a microsecond.
        killer = threading.Timer(seconds + self._patience, self._process.kill)
        killer.start()
        try:
            yield
        except (ServerFailed, BrokenPipeError, ValueError) as error:
            self.tally.missing += len(self._expected)
            self._expected.clear()
            self._errors.seek(0)
            tail = self._errors.read()[-2000:].decode(errors="replace").strip()
            raise ServerFailed(f"{error}\n{tail}".strip()) from error
        finally:
            killer.cancel()


def _message(**members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode() + b"\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="put load on one server over its pipes")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--era", choices=ERAS, default=LEGACY.name)
    parser.add_argument("command", nargs="+", help="the server's command line, after --")
    options = parser.parse_args()
    with contextlib.closing(Connection(options.command, ERAS[options.era])) as server:
        times = server.one_at_a_time(options.seconds)
        rate = server.many_in_flight(options.seconds, options.in_flight)
    print(f"start to first answer  {server.start_seconds * 1e3:.0f} ms")
    for share in (50, 90, 99, 100):
        print(f"one at a time, p{share:<3}    {percentile(times, share) * 1e6:.0f} µs")
    print(f"{options.in_flight} in flight           {rate.per_second:,.0f} req/s")
    print(f"{server.tally.answers:,} answers: {server.tally}")
    return 1 if server.tally.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
