"""Numbers and tables for the benchmarks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below `share` percent of them."""
    return sorted(values)[max(0, math.ceil(len(values) * share / 100) - 1)]


def ratio(better: Sequence[float], than: Sequence[float]) -> float:
    """Return the median of the ratios within each round: drift between rounds cancels out."""
    return statistics.median(a / b for a, b in zip(better, than, strict=True))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)
