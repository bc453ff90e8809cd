"""What Prometheus reads, checked with its official parsers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as open_parser
from prometheus_client.parser import text_string_to_metric_families

from trio_mcp_session.telemetry.exposition import (
    MAX_ACCEPT,
    Histogram,
    Metric,
    is_open_metrics,
    write,
)

Parser = Callable[[str], Iterable[Any]]
PARSERS: Mapping[bool, Parser] = {
    False: text_string_to_metric_families,
    True: open_parser.text_string_to_metric_families,
}
ODD = 'a "quoted"\nname with \\ and ü'
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def parsed(metrics: Iterable[Metric], *, open_metrics: bool) -> dict[str, Any]:
    body = write(metrics, open_metrics=open_metrics).decode()
    return {family.name: family for family in PARSERS[open_metrics](body)}


@pytest.mark.parametrize("open_metrics", [False, True])
def test_the_official_parser_reads_what_was_written(open_metrics: bool) -> None:
    sizes = Histogram((0.5, 2.0))
    for value in (0.1, 0.5, 1, 3):
        sizes.observe(value)
    metrics = [
        Metric(name="calls", kind="counter", help="Calls.", labels=("tool",), values={(ODD,): 7}),
        Metric(name="now", kind="gauge", help="Now.", values={(): 0.25}),
        Metric(name="empty", kind="gauge", help="Empty.", labels=("a", "b"), values={}),
        Metric(name="size", kind="histogram", help="S.", labels=("x",), values={("y",): sizes}),
    ]
    found = parsed(metrics, open_metrics=open_metrics)
    assert [(one.name, one.type, one.documentation) for one in found.values()] == [
        ("calls", "counter", "Calls."),
        ("now", "gauge", "Now."),
        ("empty", "gauge", "Empty."),
        ("size", "histogram", "S."),
    ]
    (call,) = found["calls"].samples
    assert (call.name, call.labels, call.value) == ("calls_total", {"tool": ODD}, 7)
    assert found["now"].samples[0].value == 0.25
    samples = [(one.name, one.labels.get("le"), one.value) for one in found["size"].samples]
    assert sorted(samples, key=str) == sorted(
        [
            ("size_bucket", "0.5", 2),
            ("size_bucket", "2.0", 3),
            ("size_bucket", "+Inf", 4),
            ("size_sum", None, 4.6),
            ("size_count", None, 4),
        ],
        key=str,
    )


def test_names_that_are_not_unicode_are_written_all_the_same() -> None:
    metric = Metric(name="a", kind="gauge", help="", labels=("b",), values={("\ud800",): 1})
    assert b'a{b="?"} 1' in write([metric], open_metrics=False)


@pytest.mark.parametrize(
    "accept, expected",
    [
        (PROMETHEUS, True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0, text/plain", True),
        ("application/openmetrics-text; version=1.0.0; q=0.2, text/plain; q=0.3", False),
        ("application/openmetrics-text; version=2.0.0", False),
        ("application/openmetrics-text; q=0", False),
        ("application/openmetrics-text; q=junk", False),
        ("text/plain", False),
        ("*/*", False),
        ("", False),
        ("x" * (MAX_ACCEPT - 29) + ",application/openmetrics-text", True),
        ("x" * (MAX_ACCEPT - 28) + ",application/openmetrics-text", False),
    ],
)
def test_accept_chooses_the_format(accept: str, expected: bool) -> None:
    assert is_open_metrics(accept) is expected
