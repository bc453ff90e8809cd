"""Writes metrics as Prometheus reads them: as text (0.0.4), or as OpenMetrics (1.0.0)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from math import inf, isinf
from typing import Final, Literal, TypeAlias, final

import attrs

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

LabelPairs: TypeAlias = tuple[tuple[str, str], ...]

_OPEN_METRICS_TYPE: Final = "application/openmetrics-text"
_OPEN_METRICS_VERSIONS: Final = ("1.0.0", "0.0.1", "")
_TEXT_RANGES: Final = ("text/plain", "text/*", "*/*")
MAX_ACCEPT: Final = 1000
"""The longest ``Accept`` that is read, in characters; that of Prometheus has 250."""


@final
@attrs.define
class Histogram:
    """Counts values by their size."""

    bounds: tuple[float, ...]
    """The upper bounds of its buckets, ascending. Another bucket is for all that is larger."""
    counts: list[int] = attrs.field(init=False)
    sum: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count a value. Not a checkpoint."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@attrs.frozen(kw_only=True)
class Metric:
    """One metric with its values."""

    name: str
    """Its name; that of a counter without ``_total``."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    """The names of its labels."""

    values: Mapping[tuple[str, ...], float | Histogram]
    """Its values by those of its labels."""


def is_open_metrics(accept: str) -> bool:
    """Return whether an ``Accept`` header prefers OpenMetrics to text. Not a checkpoint."""
    best_open, best_text = 0.0, 0.0
    for part in accept[:MAX_ACCEPT].split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        found: dict[str, str] = {}
        for one in parameters:
            key, _, found[key] = one.partition("=")
        weight = _weight(found.get("q", "1"))
        if name == _OPEN_METRICS_TYPE and found.get("version", "") in _OPEN_METRICS_VERSIONS:
            best_open = max(best_open, weight)
        elif name in _TEXT_RANGES:
            best_text = max(best_text, weight)
    return best_open > 0 and best_open >= best_text


def _weight(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0


def write(metrics: Iterable[Metric], *, open_metrics: bool) -> bytes:
    """Return metrics as the body of a response. Not a checkpoint.

    Args:
        metrics: The metrics; each name once.
        open_metrics: Whether to write OpenMetrics instead of text.
    """
    lines: list[str] = []
    for metric in metrics:
        # A counter is named with its suffix in text, and without in OpenMetrics.
        with_suffix = metric.kind == "counter" and not open_metrics
        name = f"{metric.name}_total" if with_suffix else metric.name
        lines += (f"# HELP {name} {_escape(metric.help)}", f"# TYPE {name} {metric.kind}")
        lines += _samples(metric)
    if open_metrics:
        lines.append("# EOF")
    # Text that is not Unicode can only be in names that the application has chosen.
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _samples(metric: Metric) -> Iterator[str]:
    suffix = "_total" if metric.kind == "counter" else ""
    for labels, value in metric.values.items():
        pairs = tuple(zip(metric.labels, labels, strict=True))
        if isinstance(value, Histogram):
            yield from _of_histogram(metric.name, pairs, value)
        else:
            yield f"{metric.name}{suffix}{_labels(pairs)} {_number(value)}"


def _of_histogram(name: str, pairs: LabelPairs, value: Histogram) -> Iterator[str]:
    count = 0
    for bound, number in zip((*value.bounds, inf), value.counts, strict=True):
        count += number
        yield f"{name}_bucket{_labels((*pairs, ('le', _number(float(bound)))))} {count}"
    yield f"{name}_sum{_labels(pairs)} {_number(value.sum)}"
    yield f"{name}_count{_labels(pairs)} {count}"


def _labels(pairs: LabelPairs) -> str:
    if not pairs:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in pairs) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return "+Inf" if isinf(value) else repr(value)
