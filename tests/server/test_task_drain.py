"""Tasks in a drain: they have the grace, their clients can ask for them and are told their end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_mcp_session import McpError, RequestContext, Router, open_session_manager
from trio_mcp_session.protocol.tasks_extension import TASKS
from trio_mcp_session.testing import connect_client, connect_http_client

META: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}}}

router = Router("demo")


@router.tool(task="required")
async def store(ctx: RequestContext) -> str:
    await ctx.ending.wait()
    await trio.sleep(1)
    return "stored"


@router.tool(task="required")
async def endless() -> str:
    await trio.sleep_forever()
    raise AssertionError  # pragma: no cover


@pytest.mark.parametrize("connect", [connect_client, connect_http_client])
async def test_clients_are_told_the_end_of_each_task(
    connect: Any, autojump_clock: MockClock
) -> None:
    async with (
        open_session_manager(router) as manager,
        connect(manager, era="modern") as client,
        trio.open_nursery() as nursery,
    ):

        async def ask(method: str, **params: Any) -> Any:
            return await client.request(method, {**params, "_meta": META})

        ids = [
            (await ask("tools/call", name=name, arguments={}))["taskId"]
            for name in ("store", "endless")
        ]
        listen = await client.start_request(
            "subscriptions/listen", {"notifications": {"taskIds": ids}, "_meta": META}
        )
        await client.wait_notification("notifications/subscriptions/acknowledged")
        nursery.start_soon(manager.drain)
        await trio.sleep(0.5)
        assert [(await ask("tasks/get", taskId=one))["status"] for one in ids] == ["working"] * 2
        with pytest.raises(McpError, match="shutting down"):
            await client.call_tool("store")
        await listen.wait()
        last = {
            params["taskId"]: params
            for method, params in client.notifications
            if "taskId" in params
        }
        assert last[ids[0]]["result"]["content"][0]["text"] == "stored"
        assert last[ids[1]]["status"] == "failed"
        assert last[ids[1]]["statusMessage"] == "server is shutting down"
        assert trio.current_time() == pytest.approx(3)
