"""What the hostile soak counts: actions, wrong answers, latencies, and memory by the second."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import linear_regression, median
from typing import Final

import attrs
import trio
from load import FIRST

NOTES: Final = 20
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
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
            pages = 0
            for pid in self.pids:
                text = await trio.Path(f"/proc/{pid}/statm").read_text()
                pages += int(text.split()[1])
            self.samples.append(pages * PAGE / 2**20)
            due += 1
            await trio.sleep_until(due)

    def processor_seconds(self) -> float:
        """Return the processor seconds that the processes have used so far."""
        ticks = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def minutes(self) -> list[float]:
        """The median of the last ten seconds of each minute."""
        return [
            median(self.samples[end - 10 : end]) for end in range(60, len(self.samples) + 1, 60)
        ]

    def slope(self) -> float:
        """The growth in MiB a minute, by least squares, after the first fifth of the time."""
        begin = int(len(self.samples) * SETTLED)
        seconds = range(begin, len(self.samples))
        return 60 * linear_regression(list(seconds), self.samples[begin:]).slope
