"""Handlers that enter a nursery and do not leave it: nothing else is ended."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from trio_mcp_session import (
    CleanupConfig,
    RequestContext,
    Router,
    SessionConfig,
    open_session_manager,
)
from trio_mcp_session.sessions.left_open import MESSAGE
from trio_mcp_session.testing import connect_client

kept: list[Any] = []
ended: list[str] = []


async def child() -> None:
    try:
        await trio.sleep_forever()
    finally:
        ended.append("child")


async def fail() -> None:
    raise ValueError("of a child")


async def enter(*children: Any) -> None:
    manager = trio.open_nursery()
    kept.append(manager)
    nursery = await manager.__aenter__()
    for one in children:
        nursery.start_soon(one)


def server() -> Router:
    router = Router("r")

    @router.tool()
    async def leak(ctx: RequestContext, way: str) -> str:
        match way:
            case "one":
                await enter(child)
            case "two":
                await enter(child)
                await enter(child)
            case "failing":
                await enter(fail)
                await trio.sleep(1)
            case "scope":
                await enter(child)
                kept.append(trio.CancelScope().__enter__())
            case "crash":
                await enter(child)
                raise ValueError("of the handler")
            case _:
                await enter(child)
                await trio.sleep_forever()
        return "leaked"

    @router.tool()
    async def fine(ctx: RequestContext) -> str:
        return "fine"

    return router


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize(
    "way, children", [("one", 1), ("two", 2), ("failing", 0), ("scope", 1), ("crash", 1), ("", 1)]
)
async def test_a_nursery_that_is_left_open_is_cancelled_and_joined(
    way: str, children: int, era: Any, autojump_clock: MockClock
) -> None:
    ended.clear()
    config = SessionConfig(cleanup=CleanupConfig(request_timeout=5))
    async with open_session_manager(server(), config=config) as manager:
        async with connect_client(manager, era=era) as client, connect_client(manager) as other:
            answer = await client.call_tool("leak", {"way": way})
            assert answer.is_error == (way in ("crash", "failing", ""))
            assert ("took too long" in answer.text) == (way == "")
            for one in (client, other, client):
                assert (await one.call_tool("fine")).text == "fine"
            assert ended == ["child"] * children
    kept.clear()


async def test_it_is_reported(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async with open_session_manager(server()) as manager, connect_client(manager) as client:
        await client.call_tool("leak", {"way": "one"})
        await trio.sleep(1)
        (record,) = caplog.records
        assert "tool 'leak' crashed" in record.getMessage()
        assert MESSAGE in record.getMessage()
    kept.clear()
