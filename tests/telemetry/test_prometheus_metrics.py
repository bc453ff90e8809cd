"""What is counted for Prometheus, besides the statistics."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import cancelled
from tests.telemetry.ways import Connected, way_to
from trio_mcp_session import (
    McpError,
    PrometheusMetrics,
    RequestContext,
    Router,
    ToolError,
    open_session_manager,
)
from trio_mcp_session.telemetry.exposition import Histogram
from trio_mcp_session.telemetry.prometheus_metrics import MAX_NAMES, metrics_of

router = Router("r")


@router.tool()
async def work(ctx: RequestContext, how: str = "ok") -> str:
    match how:
        case "tool_error":
            raise ToolError("no")
        case "error":
            raise McpError(-32602, "no")
        case "input_required":
            await ctx.elicit("?", {"type": "object", "properties": {}}, key="k")
        case "cancelled":
            await trio.sleep_forever()
        case _:
            await trio.sleep(1.5)
    return how


@router.tool(task="required")
async def build(ctx: RequestContext) -> str:
    await trio.sleep(40)
    return "built"


def counted(metrics: PrometheusMetrics, name: str) -> dict[Any, Any]:
    (found,) = (one for one in metrics.metrics() if one.name == name)
    return {
        labels: (value.counts, value.sum) if isinstance(value, Histogram) else value
        for labels, value in found.values.items()
    }


@pytest.mark.parametrize("how", ["ok", "tool_error", "error", "input_required", "cancelled"])
async def test_calls_are_counted_by_tool_and_outcome(how: str, autojump_clock: MockClock) -> None:
    metrics = PrometheusMetrics()
    async with open_session_manager(router, instrumentation=metrics) as manager:
        async with way_to(manager, "memory", is_modern=True) as client:
            assert isinstance(client, Connected)
            message = client.message("tools/call", {"name": "work", "arguments": {"how": how}})
            if how == "cancelled":
                await client.tell(message)
                await client.tell(cancelled(message["id"]))
            else:
                await client.exchange(message)
            await client.call("tools/call", {"name": "invented"})
    assert counted(metrics, "mcp_tool_calls") == {("work", how): 1}
    assert counted(metrics, "mcp_requests") == (
        {("tools/call", how): 1, ("tools/call", "error"): 1}
        if how != "error"
        else {("tools/call", "error"): 2}
    )
    ((counts, seconds),) = counted(metrics, "mcp_tool_duration_seconds").values()
    assert seconds == (1.5 if how == "ok" else 0)
    assert counts.index(1) == (7 if how == "ok" else 0)


@pytest.mark.parametrize("ends", ["ok", "cancelled"])
async def test_a_task_is_counted_when_it_has_ended(ends: str, autojump_clock: MockClock) -> None:
    metrics = PrometheusMetrics()
    async with open_session_manager(router, instrumentation=metrics) as manager:
        async with way_to(manager, "memory", is_modern=True) as client:
            created = await client.call("tools/call", {"name": "build"})
            assert counted(metrics, "mcp_tool_calls") == {}
            if ends == "cancelled":
                assert manager.cancel_task(created["result"]["taskId"])
                await wait_all_tasks_blocked()
            else:
                await trio.sleep(41)
    assert counted(metrics, "mcp_tool_calls") == {("build", ends): 1}
    ((_, seconds),) = counted(metrics, "mcp_tool_duration_seconds").values()
    assert seconds == (40 if ends == "ok" else 0)


async def test_unknown_methods_are_counted_together(autojump_clock: MockClock) -> None:
    metrics = PrometheusMetrics()
    async with open_session_manager(router, instrumentation=metrics) as manager:
        async with way_to(manager, "memory", is_modern=False) as client:
            await client.call("an/invention")
            await client.call("another/one")
    found = counted(metrics, "mcp_requests")
    assert found == {("initialize", "ok"): 1, ("_OTHER", "error"): 2}


async def test_sessions_are_counted_by_kind_and_duration(autojump_clock: MockClock) -> None:
    metrics = PrometheusMetrics()
    async with open_session_manager(router, instrumentation=metrics) as manager:
        one, two = await manager.create_session(), await manager.create_session()
        await trio.sleep(61)
        one.terminate()
        two.terminate()
        await one.wait_terminated()
        await two.wait_terminated()
    assert counted(metrics, "mcp_session_duration_seconds") == {
        ("handle",): ([0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], 122)
    }


async def test_the_names_of_tools_are_limited(autojump_clock: MockClock) -> None:
    many = Router("many")

    async def tool() -> str:
        return ""

    for number in range(MAX_NAMES + 1):
        many.tool(name=f"tool{number}")(tool)
    metrics = PrometheusMetrics()
    async with open_session_manager(many, instrumentation=metrics) as manager:
        async with way_to(manager, "memory", is_modern=True) as client:
            for number in range(MAX_NAMES + 1):
                await client.call("tools/call", {"name": f"tool{number}"})
            await client.call("tools/call", {"name": "tool0"})
    found = counted(metrics, "mcp_tool_calls")
    assert len(found) == MAX_NAMES + 1
    assert found["_OTHER", "ok"] == 1
    assert found["tool0", "ok"] == 2


async def test_statistics_have_the_names_of_dashboards(autojump_clock: MockClock) -> None:
    async with open_session_manager(router) as manager:
        await manager.create_session()
        (await manager.create_session()).terminate()
        await wait_all_tasks_blocked()
        found = {one.name: dict(one.values) for one in metrics_of(manager.statistics())}
    assert found["mcp_active_sessions"] == {("handle", "active"): 1}
    assert found["mcp_sessions_ended"] == {("requested", "handle"): 1}
    assert found["mcp_sessions_opened"] == {(): 2}
    assert found["mcp_requests_in_flight"] == {(): 0}
    assert found["mcp_draining"] == {(): 0}
