"""Spans and metrics of every method, in both eras and on each transport."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import pytest
import trio
from opentelemetry import propagate, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import cancelled, connect, initialize, notification
from tests.telemetry.ways import (
    PARENT,
    TRACE,
    TRACEPARENT,
    WAYS,
    Connected,
    Posting,
    Telemetry,
    traced,
    way_to,
)
from tests.transports.http.asgi_client import Client
from trio_mcp_session import (
    HttpOptions,
    McpError,
    OpenTelemetry,
    Principal,
    QuestionTimeout,
    RequestContext,
    Router,
    SessionKind,
    TerminationReason,
    ToolError,
    Transport,
    http_app,
    open_session_manager,
)
from trio_mcp_session.core.ids import short_hash
from trio_mcp_session.telemetry.network import client_of as client_attributes
from trio_mcp_session.telemetry.otel_spans import version

ANSWER = {"action": "accept", "content": {}}
FORM: Mapping[str, Any] = {"type": "object", "properties": {}}
router = Router("r", resource_subscriptions=True, logging=True)
tracer = trace.get_tracer("tests")


@router.tool()
async def work(ctx: RequestContext, how: str = "well") -> str:
    match how:
        case "tool_error":
            raise ToolError("no")
        case "ours":
            raise McpError(-32000, "we failed")
        case "theirs":
            raise McpError(-32602, "you failed")
        case "notify":
            await ctx.notify("notifications/custom")
        case _:
            pass
    return how


@router.tool()
async def ask(ctx: RequestContext) -> str:
    with_span = own_span()
    await ctx.elicit("Who?", FORM, key="who")
    return f"{with_span} {own_span()}"


def own_span() -> str:
    return format(trace.get_current_span().get_span_context().span_id, "016x")


@router.tool()
async def ask_inside(ctx: RequestContext, provider: str = "") -> str:
    """Ask while a span of the handler is open."""
    with SPANS[0].start_as_current_span("inner"):
        before = own_span()
        await ctx.elicit("Who?", FORM, key="who")
        return f"{before} {own_span()}"


SPANS: list[Any] = []


@router.tool(task="required")
async def build(ctx: RequestContext, how: str = "well") -> str:
    if how == "ask":
        await ctx.elicit("Who?", FORM, key="who")
    if how == "tool_error":
        raise ToolError("no")
    if how == "crash":
        raise McpError(-32603, "broken")
    await trio.sleep(5)
    return own_span()


@router.prompt()
async def greeting(ctx: RequestContext) -> str:
    return "hello"


@router.resource("file:///x")
async def file(ctx: RequestContext) -> str:
    return "content"


@router.notification("notifications/custom")
async def custom(ctx: RequestContext) -> None:
    await trio.lowlevel.checkpoint()


LEGACY = [
    ("ping", None, "ping", {}),
    ("tools/list", None, "tools/list", {}),
    (
        "tools/call",
        {"name": "work"},
        "tools/call work",
        {"gen_ai.tool.name": "work", "gen_ai.operation.name": "execute_tool"},
    ),
    ("prompts/list", None, "prompts/list", {}),
    (
        "prompts/get",
        {"name": "greeting"},
        "prompts/get greeting",
        {"gen_ai.prompt.name": "greeting"},
    ),
    ("resources/list", None, "resources/list", {}),
    ("resources/templates/list", None, "resources/templates/list", {}),
    ("resources/read", {"uri": "file:///x"}, "resources/read", {"mcp.resource.uri": "file:///x"}),
    ("logging/setLevel", {"level": "error"}, "logging/setLevel", {}),
    (
        "resources/subscribe",
        {"uri": "file:///x"},
        "resources/subscribe",
        {"mcp.resource.uri": "file:///x"},
    ),
    (
        "resources/unsubscribe",
        {"uri": "file:///x"},
        "resources/unsubscribe",
        {"mcp.resource.uri": "file:///x"},
    ),
]
ONLY_LEGACY = ("ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe")
MODERN = [
    *(one for one in LEGACY if one[0] not in ONLY_LEGACY),
    ("server/discover", None, "server/discover", {}),
]
NETWORK: Mapping[str, Mapping[str, Any]] = {
    "memory": {},
    "pipe": {"network.transport": "pipe"},
    "http": {
        "network.transport": "tcp",
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
    },
}
CLIENT = {"client.address": "192.0.2.1", "client.port": 1234}
CASES = [
    pytest.param(way, era, *case, id=f"{way}-{era}-{case[0]}")
    for way in WAYS
    for era, cases in (("2025-11-25", LEGACY), ("2026-07-28", MODERN))
    for case in cases
]


@pytest.mark.parametrize("way, era, method, params, name, own", CASES)
async def test_each_method_has_a_span_and_a_duration(
    way: str,
    era: str,
    method: str,
    params: Any,
    name: str,
    own: Mapping[str, Any],
    autojump_clock: MockClock,
) -> None:
    telemetry = Telemetry()
    is_modern = era == "2026-07-28"
    async with traced(router, telemetry) as manager:
        async with way_to(manager, way, is_modern=is_modern) as client:
            answer = await client.call(method, params)
            assert "result" in answer, answer
            ids = [one.session_id for one in manager.sessions()]
    span = telemetry.spans[-1]
    assert (span.name, span.kind) == (name, SpanKind.SERVER)
    assert span.status.status_code is StatusCode.UNSET
    assert span.parent is None
    expected = {
        "mcp.method.name": method,
        "mcp.protocol.version": era,
        "jsonrpc.request.id": str(answer["id"]),
        **NETWORK[way],
        **own,
    }
    if way == "http":
        expected |= CLIENT
        if not is_modern:
            expected["mcp.session.id"] = short_hash(ids[0])
    assert dict(span.attributes or {}) == expected
    on_spans_only = {"jsonrpc.request.id", "mcp.resource.uri", "mcp.session.id", *CLIENT}
    (point,) = (
        one
        for one in telemetry.points("mcp.server.operation.duration")
        if one.attributes["mcp.method.name"] == method
    )
    assert point.attributes == {
        key: value for key, value in expected.items() if key not in on_spans_only
    }
    assert point.count == 1
    assert point.explicit_bounds[:2] == (0.01, 0.02)


@pytest.mark.parametrize("way", WAYS)
async def test_the_handshake_and_notifications_have_spans(
    way: str, autojump_clock: MockClock
) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, way, is_modern=False) as client:
            await client.tell(notification("notifications/custom"))
    assert [one.name for one in telemetry.spans] == ["initialize", "notifications/custom"]
    attributes = telemetry.spans[1].attributes
    assert attributes is not None
    assert "jsonrpc.request.id" not in attributes


async def test_a_subscription_has_a_span_and_no_duration(autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, "memory", is_modern=True) as client:
            assert isinstance(client, Connected)
            message = client.message("subscriptions/listen", {"notifications": {}})
            await client.exchange(message)
            await client.tell(cancelled(message["id"]))
    span = telemetry.named("subscriptions/listen")
    assert span.attributes is not None
    assert span.attributes["trio_mcp_session.cancelled"] is True
    assert telemetry.points("mcp.server.operation.duration") == []


@pytest.mark.parametrize(
    "how, error_type, code, is_ours",
    [
        ("well", None, None, False),
        ("tool_error", "tool_error", None, True),
        ("ours", "-32000", "-32000", True),
        ("theirs", "-32602", "-32602", False),
    ],
)
@pytest.mark.parametrize("is_modern", [False, True])
async def test_errors_have_a_type_and_a_status_only_where_the_server_failed(
    how: str,
    error_type: str | None,
    code: str | None,
    is_ours: bool,
    is_modern: bool,
    autojump_clock: MockClock,
) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, "memory", is_modern=is_modern) as client:
            await client.call("tools/call", {"name": "work", "arguments": {"how": how}})
    span = telemetry.named("tools/call work")
    attributes = span.attributes or {}
    assert attributes.get("error.type") == error_type
    assert attributes.get("rpc.response.status_code") == code
    assert (span.status.status_code is StatusCode.ERROR) is is_ours
    assert span.status.description == ("we failed" if how == "ours" else None)
    point = telemetry.points("mcp.server.operation.duration")[-1]
    assert point.attributes.get("error.type") == error_type
    assert point.attributes.get("rpc.response.status_code") == code


async def test_names_that_clients_invent_are_neither_names_nor_attributes(
    autojump_clock: MockClock,
) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, "memory", is_modern=False) as client:
            await client.call("an/invention", {"name": "x"})
            await client.call("tools/call", {"name": "invented"})
    one, other = telemetry.spans[1:]
    assert one.name == "_OTHER"
    assert one.attributes is not None
    assert one.attributes["mcp.method.name"] == "_OTHER"
    assert other.name == "tools/call"
    assert "gen_ai.tool.name" not in (other.attributes or {})
    points = telemetry.points("mcp.server.operation.duration")
    assert {one.attributes["mcp.method.name"] for one in points} == {
        *("initialize", "_OTHER", "tools/call")
    }
    assert not any("gen_ai.tool.name" in one.attributes for one in points)


# Propagation.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_modern", [False, True])
async def test_the_parent_comes_from_meta_and_the_current_span_is_linked(
    way: str, is_modern: bool, autojump_clock: MockClock
) -> None:
    telemetry = Telemetry()
    ambient = telemetry.tracer_provider.get_tracer("http server")
    with ambient.start_as_current_span("outer") as outer:
        async with traced(router, telemetry) as manager:
            async with way_to(manager, way, is_modern=is_modern) as client:
                params = {"name": "work"}
                await client.call("tools/call", params, traceparent=TRACEPARENT, baggage="a=b")
                await client.call("tools/call", params)
    one, other = (span for span in telemetry.spans if span.name == "tools/call work")
    assert one.parent is not None
    assert format(one.parent.trace_id, "032x") == TRACE
    assert format(one.parent.span_id, "016x") == PARENT
    assert [link.context for link in one.links] == [outer.get_span_context()]
    assert other.parent == outer.get_span_context()
    assert other.links == ()


@pytest.mark.parametrize(
    "meta",
    [
        {"traceparent": "junk"},
        {"traceparent": 7},
        {"traceparent": ["00-x"]},
        {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"},
        {"tracestate": "=,=", "baggage": ";;;"},
    ],
)
async def test_junk_in_meta_fails_no_request(meta: Any, autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, "memory", is_modern=False) as client:
            answer = await client.call("tools/call", {"name": "work"}, **meta)
            assert "result" in answer
            answer = await client.exchange(
                {
                    "jsonrpc": "2.0",
                    "id": "last",
                    "method": "tools/call",
                    "params": {"name": "work", "_meta": "text"},
                }
            )
            assert "result" in answer
    assert [span.parent for span in telemetry.spans] == [None, None, None]


async def test_propagators_see_texts_without_a_prefix_only(autojump_clock: MockClock) -> None:
    seen: list[Any] = []

    class Propagator(TraceContextTextMapPropagator):
        def extract(self, carrier: Any, *more: Any, **others: Any) -> Any:
            seen.append(dict(carrier))
            return super().extract(carrier, *more, **others)

    telemetry = Telemetry()
    usual = propagate.get_global_textmap()
    propagate.set_global_textmap(Propagator())
    try:
        async with traced(router, telemetry) as manager:
            async with way_to(manager, "memory", is_modern=True) as client:
                await client.call("tools/list", progressToken="p")
                await client.call("tools/list", b3="0", x=1, progressToken="p")
    finally:
        propagate.set_global_textmap(usual)
    assert seen == [{"b3": "0"}]


def context_of(span: Any) -> str:
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(trace.NonRecordingSpan(span.context)))
    return carrier["traceparent"]


async def test_questions_have_client_spans_and_context_for_the_client(
    autojump_clock: MockClock,
) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, "memory", is_modern=False) as client:
            assert isinstance(client, Connected)
            call = client.message("tools/call", {"name": "ask"})
            question = await client.exchange(call)
            await client.exchange({"jsonrpc": "2.0", "id": question["id"], "result": ANSWER})
            notified = await client.exchange(
                client.message("tools/call", {"name": "work", "arguments": {"how": "notify"}})
            )
            await client.next()
    span = telemetry.named("elicitation/create")
    handler = telemetry.named("tools/call ask")
    assert span.kind is SpanKind.CLIENT
    assert span.parent == handler.context
    assert dict(span.attributes or {}) == {
        "mcp.method.name": "elicitation/create",
        "jsonrpc.request.id": str(question["id"]),
        "mcp.protocol.version": "2025-11-25",
    }
    assert question["params"]["_meta"]["traceparent"] == context_of(span)
    worker = telemetry.named("tools/call work")
    assert notified["params"]["_meta"]["traceparent"] == context_of(worker)
    (point,) = telemetry.points("mcp.client.operation.duration")
    assert point.attributes == {
        "mcp.method.name": "elicitation/create",
        "mcp.protocol.version": "2025-11-25",
    }


async def test_how_questions_end(autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, "memory", is_modern=False) as client:
            assert isinstance(client, Connected)
            (session,) = manager.sessions()

            async def answer_with(code: int) -> None:
                question = await client.next()
                error = {"code": code, "message": "no"}
                await client.tell({"jsonrpc": "2.0", "id": question["id"], "error": error})

            for code in (-32601, 4711):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(answer_with, code)
                    with pytest.raises(McpError):
                        await session.ask("ping")
            with pytest.raises(QuestionTimeout):
                await session.ask("ping", timeout=1)
            with trio.move_on_after(1):
                await session.ask("ping")
    spans = [one for one in telemetry.spans if one.name == "ping"]
    found = [dict(one.attributes or {}) for one in spans]
    assert [one.get("error.type") for one in found] == ["-32601", "_OTHER", "timeout", None]
    codes = [one.get("rpc.response.status_code") for one in found]
    assert codes == ["-32601", "4711", None, None]
    assert found[-1]["trio_mcp_session.cancelled"] is True
    assert [one.status.status_code is StatusCode.ERROR for one in spans] == [True] * 3 + [False]
    # A client may answer with any number: metrics know some of them.
    points = telemetry.points("mcp.client.operation.duration")
    codes = [one.attributes.get("rpc.response.status_code") for one in points]
    assert sorted(codes, key=str) == ["-32601", None, None, None]


# Handlers that wait, and tasks.


async def ask_and_retry(client: Any, tool: str) -> tuple[list[str], Any]:
    asked = (await client.call("tools/call", {"name": tool}))["result"]
    more = {"requestState": asked["requestState"], "inputResponses": {"who": ANSWER}}
    answer = await client.call("tools/call", {"name": tool, **more})
    return answer["result"]["content"][0]["text"].split(), answer


@pytest.mark.parametrize("way", WAYS)
async def test_a_retry_is_linked_to_the_first_request(way: str, autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, way, is_modern=True) as client:
            current, _ = await ask_and_retry(client, "ask")
    first, retry = telemetry.spans
    assert [event.name for event in first.events] == ["mcp.input_required"]
    assert retry.events == ()
    assert [link.context for link in retry.links] == [first.context]
    assert [format(one.context.span_id, "016x") for one in (first, retry)] == current


async def test_spans_of_a_handler_that_waits_stay_open(autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    SPANS[:] = [telemetry.tracer_provider.get_tracer("handler")]
    async with traced(router, telemetry) as manager:
        async with way_to(manager, "memory", is_modern=True) as client:
            current, _ = await ask_and_retry(client, "ask_inside")
    inner = telemetry.named("inner")
    assert current == [format(inner.context.span_id, "016x")] * 2
    assert inner.parent == telemetry.spans[0].context


@pytest.mark.parametrize("way", WAYS)
async def test_a_task_has_a_span_of_its_own(way: str, autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, way, is_modern=True) as client:
            created = (await client.call("tools/call", {"name": "build"}))["result"]
            task = {"taskId": created["taskId"]}
            await trio.sleep(6)
            done = (await client.call("tasks/get", task))["result"]
    request, run, poll = telemetry.spans
    assert (request.name, run.name, poll.name) == (
        "tools/call build",
        "run_task build",
        "tasks/get",
    )
    assert run.kind is SpanKind.INTERNAL
    assert run.parent is None
    assert [link.context for link in run.links] == [request.context]
    assert dict(run.attributes or {}) == {
        "gen_ai.tool.name": "build",
        "gen_ai.operation.name": "execute_tool",
        "trio_mcp_session.task": short_hash(created["taskId"]),
    }
    assert created["taskId"] not in str([span.attributes for span in telemetry.spans])
    assert done["result"]["content"][0]["text"] == format(run.context.span_id, "016x")


@pytest.mark.parametrize(
    "how, error_type, events",
    [
        ("tool_error", "tool_error", []),
        ("crash", "-32603", []),
        ("ask", None, ["mcp.input_required"]),
    ],
)
async def test_how_tasks_end(
    how: str, error_type: str | None, events: list[str], autojump_clock: MockClock
) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, "memory", is_modern=True) as client:
            params = {"name": "build", "arguments": {"how": how}}
            created = (await client.call("tools/call", params))["result"]
            await wait_all_tasks_blocked()
            manager.cancel_task(created["taskId"])
            await wait_all_tasks_blocked()
    span = telemetry.named("run_task build")
    attributes = span.attributes or {}
    assert attributes.get("error.type") == error_type
    assert [event.name for event in span.events] == events
    assert attributes.get("trio_mcp_session.cancelled") == (True if how == "ask" else None)
    assert span.status.description == ("broken" if how == "crash" else None)


# Sessions, and the statistics.


async def test_sessions_of_clients_have_a_duration(autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, "pipe", is_modern=False):
            await manager.create_session(kind=SessionKind.HANDLE)
            await trio.sleep(100)
            (session, _) = manager.sessions()
            session.terminate(TerminationReason.UNRESPONSIVE)
            await session.wait_terminated()
        async with way_to(manager, "memory", is_modern=True):
            pass
    found = {
        tuple(sorted(point.attributes.items())): (point.count, point.sum)
        for point in telemetry.points("mcp.server.session.duration")
    }
    failed = (
        ("error.type", "unresponsive"),
        ("mcp.protocol.version", "2025-11-25"),
        ("network.transport", "pipe"),
    )
    assert found[failed] == (1, 100)
    assert set(found) == {failed, ()}
    (point, *_) = telemetry.points("mcp.server.session.duration")
    assert point.explicit_bounds[-1] == 30 * 24 * 3600


async def test_statistics_are_read_from_a_snapshot_in_any_thread(
    autojump_clock: MockClock,
) -> None:
    telemetry = Telemetry()
    found: list[Any] = []

    def export() -> None:
        found.append(telemetry.values("trio_mcp_session.sessions.active"))

    async with traced(router, telemetry) as manager:
        await manager.create_session()
        await trio.sleep(1.5)
        thread = threading.Thread(target=export)
        thread.start()
        thread.join()
        assert found == [{("handle", "active"): 1}]
        # The loop has not run since: still the same moment.
        manager.sessions()[0].terminate()
        export()
        assert found[1] == found[0]
        await manager.drain()
        await trio.sleep(1.5)
        assert telemetry.values("trio_mcp_session.draining") == {(): 1}
    assert telemetry.values("trio_mcp_session.sessions.active") == {}
    assert telemetry.values("trio_mcp_session.sessions.opened") == {(): 1}
    assert telemetry.values("trio_mcp_session.sessions.ended") == {("requested", "handle"): 1}


async def test_counters_of_managers_that_were_closed_are_kept(autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    for _ in range(2):
        async with traced(router, telemetry) as manager:
            await manager.create_session()
    async with traced(router, telemetry) as manager, traced(router, telemetry) as other:
        await manager.create_session()
        await other.create_session()
        await trio.sleep(1.5)
        assert telemetry.values("trio_mcp_session.sessions.opened") == {(): 4}
        assert telemetry.values("trio_mcp_session.sessions.active") == {("handle", "active"): 2}


# Privacy.


async def test_the_id_of_a_session_is_shown_only_where_it_opens_nothing(
    autojump_clock: MockClock,
) -> None:
    async def authenticate(scope: Any, headers: Any) -> Principal:
        await trio.lowlevel.checkpoint()
        return Principal("ada")

    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        client = Posting(
            is_modern=False, client=Client(http_app(manager, authenticate=authenticate))
        )
        await client.open()
        await client.call("ping")
        session_id = client.session["mcp-session-id"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.sessions()[0].ask, "ping")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    spans = [one for one in telemetry.spans if one.name == "ping"]
    ids = [(span.attributes or {}).get("mcp.session.id") for span in spans]
    assert ids in ([session_id, session_id], [session_id])
    for name in ("mcp.server.operation.duration", "mcp.server.session.duration"):
        for point in telemetry.points(name):
            assert session_id not in str(point.attributes)


@pytest.mark.parametrize("capture", [False, True])
async def test_arguments_and_results_are_captured_only_if_asked(
    capture: bool, autojump_clock: MockClock
) -> None:
    telemetry = Telemetry(capture_content=capture)
    async with traced(router, telemetry) as manager:
        async with way_to(manager, "memory", is_modern=False) as client:
            await client.call("tools/call", {"name": "work", "arguments": {"how": "secret"}})
            await client.call("prompts/get", {"name": "greeting"})
            await client.call("tools/call", {"name": "work", "arguments": {"how": "ours"}})
    spans = [one for one in telemetry.spans if one.name == "tools/call work"]
    attributes = spans[0].attributes or {}
    assert "gen_ai.tool.call.result" not in (spans[1].attributes or {})
    assert ("secret" in str(attributes)) is capture
    if capture:
        assert attributes["gen_ai.tool.call.arguments"] == '{"how":"secret"}'
        assert "secret" in str(attributes["gen_ai.tool.call.result"])


# Without an SDK, and with a sampler.


async def test_without_providers_nothing_is_called(autojump_clock: MockClock) -> None:
    async with open_session_manager(router, instrumentation=OpenTelemetry()) as manager:
        assert not manager._instruments


@pytest.mark.parametrize("what", ["spans", "metrics"])
async def test_one_provider_is_enough(what: str, autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    tracers = telemetry.tracer_provider if what == "spans" else None
    meters = telemetry.meter_provider if what == "metrics" else None
    instrumentation = OpenTelemetry(tracer_provider=tracers, meter_provider=meters)
    async with open_session_manager(router, instrumentation=instrumentation) as manager:
        async with way_to(manager, "memory", is_modern=False) as client:
            assert isinstance(client, Connected)
            question = await client.exchange(client.message("tools/call", {"name": "ask"}))
            assert ("_meta" in question["params"]) is (what == "spans")
            await client.exchange({"jsonrpc": "2.0", "id": question["id"], "result": ANSWER})
            await client.exchange(
                client.message("tools/call", {"name": "work", "arguments": {"how": "notify"}})
            )
        async with way_to(manager, "memory", is_modern=True) as client:
            await ask_and_retry(client, "ask")
            await client.call("tools/call", {"name": "build"})
    assert bool(telemetry.spans) is (what == "spans")
    points = telemetry.points("mcp.server.operation.duration")
    assert bool(points) is (what == "metrics")


async def test_spans_that_are_not_sampled_are_not_described(autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    instrumentation = OpenTelemetry(
        tracer_provider=provider, meter_provider=MeterProvider(shutdown_on_exit=False)
    )
    async with open_session_manager(router, instrumentation=instrumentation) as manager:
        async with way_to(manager, "memory", is_modern=False) as client:
            assert isinstance(client, Connected)
            question = await client.exchange(client.message("tools/call", {"name": "ask"}))
            assert "_meta" not in question["params"]
            await client.exchange({"jsonrpc": "2.0", "id": question["id"], "result": ANSWER})
            notified = await client.exchange(
                client.message("tools/call", {"name": "work", "arguments": {"how": "notify"}})
            )
            assert "params" not in notified
        async with way_to(manager, "memory", is_modern=True) as client:
            await client.call("tools/call", {"name": "build"})
    assert telemetry.spans == []


async def test_messages_before_the_handshake_have_no_version(autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        peer = await connect(manager)
        await peer.ask(1, "ping")
        with pytest.raises(QuestionTimeout):
            await peer.session.ask("ping", timeout=1)
    assert [one.name for one in telemetry.spans] == ["ping", "ping"]
    assert not any("mcp.protocol.version" in (one.attributes or {}) for one in telemetry.spans)
    for name in ("mcp.server.operation.duration", "mcp.client.operation.duration"):
        (point,) = telemetry.points(name)
        assert "mcp.protocol.version" not in point.attributes


def test_the_scope_has_the_version_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert version() == metadata.version("trio-mcp-session")

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert version() is None


def test_the_interval_has_to_be_positive() -> None:
    OpenTelemetry(refresh_interval=0.001)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="refresh_interval must be more than 0"):
            OpenTelemetry(refresh_interval=wrong)


@pytest.mark.parametrize(
    "scope, expected",
    [
        ({"server": ("/run/mcp", None)}, ("unix", "1.1")),
        ({"http_version": "2"}, ("tcp", "2")),
        ({"http_version": "3"}, ("quic", "3")),
        ({"http_version": "", "server": None, "client": None}, ("tcp", None)),
        ({"client": ("peer", None)}, ("tcp", "1.1")),
    ],
)
async def test_the_network_of_http(
    scope: dict[str, Any], expected: tuple[str, str | None], autojump_clock: MockClock
) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        async with way_to(manager, "http", is_modern=True, **scope) as client:
            await client.call("tools/list")
    attributes = telemetry.spans[-1].attributes or {}
    network = attributes["network.transport"], attributes.get("network.protocol.version")
    assert network == expected
    client_of = attributes.get("client.address"), attributes.get("client.port")
    given = scope.get("client", ("192.0.2.1", 1234))
    assert client_of == (given or (None, None))


@pytest.mark.parametrize("peer", ["192.0.2.7", ""])
def test_the_client_of_a_tcp_connection(peer: str) -> None:
    found = client_attributes(Transport("tcp", peer), None)
    assert found == ({"client.address": peer} if peer else {})
    assert client_attributes(None, None) == {}


async def test_clients_without_sessions(autojump_clock: MockClock) -> None:
    telemetry = Telemetry()
    async with traced(router, telemetry) as manager:
        client = Client(http_app(manager, options=HttpOptions(stateless=True)))
        await client.request(json=initialize())
        await client.request(json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
    assert [one.name for one in telemetry.spans] == ["initialize", "ping"]
    assert not any("mcp.session.id" in (one.attributes or {}) for one in telemetry.spans)
