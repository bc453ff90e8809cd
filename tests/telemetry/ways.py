"""Clients of both eras in memory, over a pipe and over HTTP, and what OpenTelemetry exports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, final

import attrs
import msgspec
import trio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import initialize, modern, notification, request
from tests.tasking import WITH_TASKS
from tests.transports.http.asgi_client import Client
from tests.transports.http.modern import headers_of
from trio_mcp_session import (
    Application,
    OpenTelemetry,
    SessionManager,
    Transport,
    connect_memory,
    http_app,
    open_session_manager,
    serve_stream,
)

CAPABILITIES: Mapping[str, Any] = {**WITH_TASKS, "elicitation": {"form": {}}}
WAYS = ("memory", "pipe", "http")
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"

Attributes = Mapping[str, Any]


@final
class Telemetry:
    """An SDK with exporters in memory, and instrumentation that uses it."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.instrumentation = OpenTelemetry(
            tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **options
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in that order."""
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (span,) = (one for one in self.spans if one.name == name)
        return span

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        data = self.reader.get_metrics_data()
        found: list[Any] = []
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        found += metric.data.data_points
        return found

    def values(self, name: str) -> dict[tuple[Any, ...], Any]:
        """The values of a metric, by the values of its attributes."""
        return {tuple(one.attributes.values()): one.value for one in self.points(name)}


@attrs.define(eq=False)
class Way(ABC):
    """A client."""

    is_modern: bool
    last_id: int = attrs.field(default=0, init=False)

    async def call(self, method: str, params: Mapping[str, Any] | None = None, **meta: Any) -> Any:
        """Send a request; return its answer."""
        message = self.message(method, params, **meta)
        answer = await self.exchange(message)
        assert answer["id"] == message["id"], answer
        return answer

    def message(self, method: str, params: Mapping[str, Any] | None = None, **meta: Any) -> Any:
        self.last_id += 1
        if self.is_modern:
            message = modern(self.last_id, method, params, capabilities=CAPABILITIES)
            message["params"]["_meta"] |= meta
            return message
        more = {"_meta": meta} if meta else {}
        return request(self.last_id, method, {**(params or {}), **more})

    async def open(self) -> None:
        """Do the handshake, if the era has one."""
        if not self.is_modern:
            await self.exchange(initialize("hello", capabilities=CAPABILITIES))
            await self.tell(notification("notifications/initialized"))

    @abstractmethod
    async def exchange(self, message: Any) -> Any:
        """Send a request; return the next message."""

    @abstractmethod
    async def tell(self, message: Any) -> None:
        """Send a notification."""


@final
@attrs.define(eq=False)
class Connected(Way):
    """A client in memory, or over a pipe."""

    send: Any = attrs.field(kw_only=True)
    receive: Any = attrs.field(kw_only=True)

    async def exchange(self, message: Any) -> Any:
        await self.send(msgspec.json.encode(message))
        return await self.next()

    async def next(self) -> Any:
        return msgspec.json.decode(await self.receive())

    async def tell(self, message: Any) -> None:
        await self.send(msgspec.json.encode(message))
        await wait_all_tasks_blocked()


@final
@attrs.define(eq=False)
class Posting(Way):
    """A client over HTTP."""

    client: Client = attrs.field(kw_only=True)
    session: dict[str, str] = attrs.field(factory=dict, init=False)

    async def exchange(self, message: Any) -> Any:
        headers: dict[str, Any] = headers_of(message) if self.is_modern else self.session
        answer = await self.client.request("POST", message, headers=headers)
        if "mcp-session-id" in answer.headers:
            self.session["mcp-session-id"] = answer.headers["mcp-session-id"]
        return msgspec.json.decode(answer.body)

    async def tell(self, message: Any) -> None:
        await self.client.request("POST", message, headers=self.session)
        await wait_all_tasks_blocked()


@asynccontextmanager
async def way_to(
    manager: SessionManager, way: str, *, is_modern: bool, **scope: Any
) -> AsyncIterator[Way]:
    """Connect a client."""
    async with trio.open_nursery() as nursery:
        client: Way
        if way == "memory":
            channel = await connect_memory(manager)
            client = Connected(is_modern, send=channel.send, receive=channel.receive)
        elif way == "pipe":
            near, far = memory_stream_pair()
            nursery.start_soon(serve_one, manager, far)
            lines = Lines(near)
            client = Connected(is_modern, send=lines.send, receive=lines.receive)
        else:
            client = Posting(is_modern, client=Client(http_app(manager), scope=scope))
        await client.open()
        yield client
        nursery.cancel_scope.cancel()


async def serve_one(manager: SessionManager, stream: trio.abc.Stream) -> None:
    await serve_stream(manager, stream, transport=Transport("stdio"))


@final
@attrs.define(eq=False)
class Lines:
    """One message on each line."""

    stream: trio.abc.Stream
    _buffer: bytes = b""

    async def send(self, frame: bytes) -> None:
        await self.stream.send_all(frame + b"\n")

    async def receive(self) -> bytes:
        while b"\n" not in self._buffer:
            self._buffer += await self.stream.receive_some()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


@asynccontextmanager
async def traced(application: Application, telemetry: Telemetry) -> AsyncIterator[SessionManager]:
    with trio.fail_after(10_000):
        async with open_session_manager(
            application, instrumentation=telemetry.instrumentation
        ) as manager:
            yield manager
