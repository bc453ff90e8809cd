"""Readings of managers that any thread may look at.

Exporters of metrics run in threads of their own. The statistics of a manager are read in the event
loop only; a task of each manager does that again and again, and puts a new object in the place of
the last one, so that a thread sees all of one moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs
import trio

from ..core.metrics import ManagerStatistics
from .readings import FAMILIES, Readings, read_all, total

_NOTHING: tuple[Readings, ...] = tuple({} for _ in FAMILIES)


@final
@attrs.define(eq=False)
class Snapshots:
    """The last readings of all managers, the counters of those that were closed included."""

    _interval: float
    """Seconds between two readings of a manager."""
    _open: dict[int, tuple[Readings, ...]] = attrs.field(
        factory=dict[int, tuple[Readings, ...]], init=False
    )
    _closed: tuple[Readings, ...] = attrs.field(default=_NOTHING, init=False)
    _last_key: int = attrs.field(default=0, init=False)
    shown: tuple[Readings, ...] = attrs.field(default=_NOTHING, init=False)
    """The sums, by family. It is replaced, and never changed: safe in any thread."""

    async def follow(self, statistics: Callable[[], ManagerStatistics]) -> None:
        """Read the statistics of a manager until cancelled. A checkpoint."""
        self._last_key += 1
        key = self._last_key
        try:
            while True:
                self._show(key, statistics())
                await trio.sleep(self._interval)
        finally:
            self._close(key, statistics())

    def _show(self, key: int, statistics: ManagerStatistics) -> None:
        self._open[key] = read_all(statistics)
        self.shown = total((self._closed, *self._open.values()))

    def _close(self, key: int, statistics: ManagerStatistics) -> None:
        """Keep the counters of a manager that is closed."""
        del self._open[key]
        kept = tuple(
            readings if family.kind == "counter" else {}
            for family, readings in zip(FAMILIES, read_all(statistics), strict=True)
        )
        self._closed = total((self._closed, kept))
        self.shown = total((self._closed, *self._open.values()))
