"""The server of these tests: something of each kind that a name reaches, in one process of several.

Each answer names the process and counts, so that a client sees whether it has met the same thing.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import trio

from trio_mcp_session import HandleKind, RequestContext, Router, StateKey

router = Router("shop", "1.0", resource_subscriptions=True)
COUNT = StateKey[int]("count")
FORM = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@asynccontextmanager
async def open_cart() -> AsyncIterator[list[str]]:
    yield []


CARTS = HandleKind[list[str]]("cart", open_cart)


@router.resource("memo://one")
async def memo() -> str:
    return "a memo"


@router.tool()
async def echo(text: str) -> dict[str, Any]:
    """What needs nothing of a process."""
    return {"pid": os.getpid(), "text": text}


@router.tool()
async def count(ctx: RequestContext) -> dict[str, Any]:
    """Count in the session."""
    assert ctx.session is not None
    number = ctx.session.get_state(COUNT, default=0) + 1
    ctx.session.set_state(COUNT, number)
    return {"pid": os.getpid(), "count": number}


@router.tool()
async def change(ctx: RequestContext) -> dict[str, Any]:
    """Notify the subscribers in this process."""
    ctx.notify_resource_updated("memo://one")
    return {"pid": os.getpid()}


@router.tool()
async def steps(ctx: RequestContext) -> dict[str, Any]:
    """Close the connection in the middle: the client resumes the stream."""
    await ctx.progress(1, 3)
    ctx.close_stream(retry=0.05)
    await trio.sleep(0.2)
    await ctx.progress(2, 3)
    return {"pid": os.getpid()}


@router.tool()
async def open_it(ctx: RequestContext) -> dict[str, Any]:
    """Open a cart."""
    return {"pid": os.getpid(), "cart": await ctx.open_handle(CARTS)}


@router.tool()
async def add(ctx: RequestContext, cart: Annotated[str, CARTS]) -> dict[str, Any]:
    """Put something into a cart."""
    async with ctx.use_handle(CARTS, cart) as things:
        things.append("thing")
        return {"pid": os.getpid(), "count": len(things)}


@router.tool()
async def ask(ctx: RequestContext) -> dict[str, Any]:
    """Ask twice, so that the state of the handler matters."""
    names: list[object] = []
    for question in ("Who?", "And?"):
        answer = await ctx.elicit(question, FORM, timeout=20)
        names.append(None if answer.content is None else answer.content["name"])
    return {"pid": os.getpid(), "names": names}


@router.tool(task="required")
async def work(ctx: RequestContext) -> dict[str, Any]:
    """Work for a while, as a task."""
    await trio.sleep(1.0)
    return {"pid": os.getpid()}
