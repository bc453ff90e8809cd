"""A small server with a test suite: shopping lists, which are saved when they are closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from trio_mcp_session import HandleKind, RequestContext, Router, ToolError, run_stdio

CONFIRMED: dict[str, Any] = {"type": "object", "properties": {}}


@attrs.define
class Store:
    """Where lists are saved: a stand-in for a database."""

    saved: list[list[str]] = attrs.field(factory=list[list[str]])
    down: bool = False

    async def save(self, items: list[str]) -> None:
        await trio.lowlevel.checkpoint()
        if self.down:
            raise OSError("the store is down")
        self.saved.append(items)


def make_server(store: Store) -> Router:  # noqa: C901  # its tools, one by one
    """Make the server. Each test has a store of its own."""
    router = Router("shopping", "1.0", resource_subscriptions=True)

    @asynccontextmanager
    async def open_items() -> AsyncIterator[list[str]]:
        items: list[str] = []
        yield items
        await store.save(items)

    lists = HandleKind[list[str]]("list", open_items, idle_timeout=600)

    @router.tool(description=f"Open a shopping list. {lists.expiry}")
    async def open_list(ctx: RequestContext) -> dict[str, str]:
        return {"list_id": await ctx.open_handle(lists)}

    @router.tool()
    async def add_items(ctx: RequestContext, list_id: str, items: list[str]) -> int:
        """Add items to a list, and return how many are on it."""
        if not items:
            raise ToolError("items is empty: pass at least one")
        async with ctx.use_handle(lists, list_id) as found:
            for number, item in enumerate(items, 1):
                found.append(item)
                await ctx.progress(number, len(items))
            return len(found)

    @router.tool()
    async def close_list(ctx: RequestContext, list_id: str) -> str:
        """Close and save a list, if the user agrees."""
        answer = await ctx.elicit("Save the list?", CONFIRMED)
        if answer.action != "accept":
            return "The list stays open."
        await ctx.close_handle(lists, list_id)
        await ctx.log("info", "closed a list")
        ctx.notify_resource_updated("shopping://saved")
        return "Closed."

    @router.resource("shopping://saved")
    async def saved() -> list[list[str]]:
        """All saved lists."""
        return store.saved

    @router.prompt()
    async def plan(meal: str) -> str:
        """Plan the shopping for a meal."""
        return f"Open a shopping list, and add what {meal} needs."

    @router.completion(plan, "meal")
    async def meals(value: str) -> list[str]:
        return [meal for meal in ("pizza", "pancakes", "soup") if meal.startswith(value)]

    return router


if __name__ == "__main__":
    run_stdio(make_server(Store()))
