"""What the soaks count: actions, wrong answers, latencies, and memory by the second."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import count
from statistics import linear_regression, median
from typing import Final

import attrs
import trio
from load import FIRST
from processes import processor_seconds, resident_bytes

NOTES: Final = 20
SETTLED: Final = 0.2
"""The share of the time that does not count for the slope: caches and pools fill."""


class Wrong(Exception):
    """An answer is not the expected one."""


@attrs.define(eq=False)
class Record:
    """What was done, and what came of it."""

    good: Counter[str] = attrs.field(factory=Counter)
    hostile: Counter[str] = attrs.field(factory=Counter)
    wrong: Counter[str] = attrs.field(factory=Counter)
    notes: list[str] = attrs.field(factory=list)
    latencies: defaultdict[str, list[float]] = attrs.field(factory=lambda: defaultdict(list))
    """Seconds that calls of good clients took, by transport."""
    numbers: Iterator[int] = attrs.field(factory=lambda: count(FIRST))

    def restart(self) -> None:
        """Begin to count and to measure, after a time that fills caches; faults stay."""
        self.good.clear()
        self.hostile.clear()
        self.latencies.clear()

    def note(self, action: str, error: BaseException) -> None:
        """Count a wrong answer."""
        self.wrong[action] += 1
        if len(self.notes) < NOTES:
            self.notes.append(f"{action}: {error!r}"[:500])


@attrs.define
class Memory:
    """The resident memory of some processes, second by second, in MiB."""

    pids: list[int]
    samples: list[float] = attrs.field(factory=list)
    frozen: bool = False

    def freeze(self) -> None:
        """Stop: what comes from now on is the clean-up."""
        self.frozen = True

    async def run(self) -> None:
        due = trio.current_time()
        while not self.frozen:
            self.samples.append(sum(map(resident_bytes, self.pids)) / 2**20)
            due += 1
            await trio.sleep_until(due)

    def processor_seconds(self) -> float:
        """Return the processor seconds that the processes have used so far."""
        return sum(map(processor_seconds, self.pids))

    def around(self, second: int) -> float:
        """The median of the ten seconds before a second."""
        return median(self.samples[max(0, second - 10) : second] or self.samples)

    def minutes(self) -> list[float]:
        """The memory at the end of each minute."""
        return [self.around(end) for end in range(60, len(self.samples) + 1, 60)]

    def slope(self) -> float:
        """The growth in MiB a minute, by least squares, after the first fifth of the time."""
        begin = int(len(self.samples) * SETTLED)
        seconds = range(begin, len(self.samples))
        return 60 * linear_regression(list(seconds), self.samples[begin:]).slope
