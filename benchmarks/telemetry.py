"""The cost of tracing and metrics: calls of one tool with each kind of instrumentation.

    python benchmarks/telemetry.py

All servers run in one process and take turns in short slices, so that other load on the machine
affects all of them. README.md says what each row means.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median
from time import process_time
from typing import Any, Final

import trio
from client import socket_pair
from report import table

from trio_mcp_session import Router, open_session_manager, serve_stream

try:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased

    from trio_mcp_session import OpenTelemetry, PrometheusMetrics
except ImportError:  # the commit before, or no SDK: only the first row can be measured
    HAS_SDK = False
else:
    HAS_SDK = True

IN_FLIGHT: Final = 16
PREFIX: Final = "io.modelcontextprotocol/"
META: Final = {
    f"{PREFIX}protocolVersion": "2026-07-28",
    f"{PREFIX}clientInfo": {"name": "benchmark", "version": "1"},
    f"{PREFIX}clientCapabilities": {},
}

router = Router(name="telemetry", version="1.0")


@router.tool()
async def echo(text: str) -> str:
    """Return the text."""
    return text


def instrumentations() -> dict[str, Callable[[], Iterable[Any]]]:
    """Return what is measured."""
    rows: dict[str, Callable[[], Iterable[Any]]] = {"no instrumentation": lambda: ()}
    if not HAS_SDK:
        return rows

    class Nowhere(SpanExporter):
        def export(self, spans: Iterable[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    def tracing(sampler: Any) -> TracerProvider:
        provider = TracerProvider(sampler=ParentBased(sampler))
        provider.add_span_processor(BatchSpanProcessor(Nowhere()))
        return provider

    def metering() -> MeterProvider:
        return MeterProvider([InMemoryMetricReader()])

    hundredth = TraceIdRatioBased(0.01)
    return rows | {
        "API without SDK": lambda: [OpenTelemetry()],
        "Prometheus": lambda: [PrometheusMetrics()],
        "spans, 1 % sampled": lambda: [OpenTelemetry(tracer_provider=tracing(hundredth))],
        "metrics": lambda: [OpenTelemetry(meter_provider=metering())],
        "both, 1 % sampled": lambda: [
            OpenTelemetry(tracer_provider=tracing(hundredth), meter_provider=metering())
        ],
        "both, all sampled": lambda: [
            OpenTelemetry(tracer_provider=tracing(ALWAYS_ON), meter_provider=metering())
        ],
    }


@dataclass
class Server:
    """One manager, and a client of it that sends prepared calls."""

    stream: trio.abc.Stream
    batch: bytes
    costs: list[float] = field(default_factory=list)
    """Processor time of one call in each slice, in µs."""

    async def run(self, calls: int) -> None:
        """Make calls, so many at the same time; add what one of them took."""
        began = process_time()
        for _ in range(calls // IN_FLIGHT):
            await self.stream.send_all(self.batch)
            answers = 0
            while answers < IN_FLIGHT:
                answers += (await self.stream.receive_some()).count(b"\n")
        self.costs.append((process_time() - began) / calls * 1e6)


def batch_of_calls() -> bytes:
    params = {"name": "echo", "arguments": {"text": "x" * 64}, "_meta": META}
    calls = (
        {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        for number in range(IN_FLIGHT)
    )
    return b"".join(json.dumps(call).encode() + b"\n" for call in calls)


async def measure(rounds: int, calls: int) -> dict[str, list[float]]:
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        servers: dict[str, Server] = {}
        for name, make in instrumentations().items():
            instruments = list(make())
            more: dict[str, Any] = {"instrumentation": instruments} if instruments else {}
            manager = await stack.enter_async_context(open_session_manager(router, **more))
            near, far = socket_pair()
            nursery.start_soon(serve_stream, manager, far)
            servers[name] = Server(near, batch_of_calls())
        for server in servers.values():
            await server.run(calls)
            server.costs.clear()
        for _ in range(rounds):
            for server in servers.values():
                await server.run(calls)
        for server in servers.values():
            await server.stream.aclose()
        nursery.cancel_scope.cancel()
    return {name: server.costs for name, server in servers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--calls", type=int, default=800, help="calls in one slice")
    options = parser.parse_args()
    costs = trio.run(measure, options.rounds, options.calls)
    base = costs["no instrumentation"]
    rows = []
    for name, own in costs.items():
        ratios = [one / other for one, other in zip(own, base, strict=True)]
        added = median(one - other for one, other in zip(own, base, strict=True))
        cost = median(own)
        rows.append(
            [name, f"{cost:.1f}", f"{added:+.1f}", f"{median(ratios):.3f}", f"{1e6 / cost:.0f}"]
        )
    head = ["instrumentation", "µs per call", "added µs", "ratio", "calls per s"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
