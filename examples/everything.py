"""A server with every feature of the protocol."""

import sqlite3
import threading
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Annotated, Any, Literal

from msgspec import Struct

import trio_mcp_session as mcp

RED = b64decode("R0lGODdhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs=")


@asynccontextmanager
async def open_pool(manager: mcp.SessionManager) -> AsyncIterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as pool:
        pool.execute("CREATE TABLE notes (topic, text)")
        yield pool


router = mcp.Router(
    "everything",
    title="Everything",
    website_url="https://example.com",
    icons=[mcp.Icon("https://example.com/icon.png")],
    server_lifespan=open_pool,
    resource_subscriptions=True,
)
calls: list[str] = []


@router.middleware
async def count_calls(ctx: mcp.RequestContext, call_next: mcp.CallNext) -> Any:
    calls.append(ctx.method)
    return await call_next()


def get_pool(ctx: mcp.RequestContext) -> sqlite3.Connection:
    return ctx.server_state(open_pool)


Pool = Annotated[sqlite3.Connection, mcp.Depends(get_pool)]


@router.tool()
async def divide(a: float, b: Annotated[float, "Not 0"], by: Literal["/", "//"] = "/") -> float:
    """Divide two numbers."""
    if b == 0:
        raise mcp.ToolError("b must not be 0")
    return a / b if by == "/" else a // b


class Status(Struct):
    calls: int
    in_thread: bool


@router.tool()
def status() -> Status:
    """Count the calls of tools, in a thread."""
    return Status(calls.count("tools/call"), threading.current_thread().name != "MainThread")


@router.tool()
async def attachments() -> list[mcp.Content]:
    """Return an image, a resource and a link."""
    text = mcp.EmbeddedResource(mcp.ResourceContents("Embedded.", uri="about:text"))
    return [mcp.ImageContent(RED, "image/gif"), text, mcp.ResourceLink("pixel:red", "pixel")]


@router.tool()
async def countdown(ctx: mcp.RequestContext, steps: int) -> str:
    """Report progress and log messages."""
    for step in range(1, steps + 1):
        await ctx.progress(step, steps, f"step {step}")
        await ctx.log("info", f"logged {step}")
    return "lift-off"


class Booking(Struct):
    name: str
    seats: int = 2


@router.tool()
async def book(ctx: mcp.RequestContext) -> str:
    """Book a table, for the user to fill in."""
    answer = await ctx.elicit("A table for how many?", Booking)
    return f"{answer.action}: {answer.content and answer.content.seats}"


@router.tool()
async def summarise(ctx: mcp.RequestContext, text: str) -> str:
    """Let the client's model summarise a text."""
    message = {"role": "user", "content": {"type": "text", "text": f"Summarise: {text}"}}
    reply = await ctx.sample([message], max_tokens=100)
    return str(reply["content"]["text"])


@router.tool()
async def add_note(ctx: mcp.RequestContext, pool: Pool, topic: str, text: str) -> str:
    """Write a note."""
    pool.execute("INSERT INTO notes VALUES (?, ?)", (topic, text))
    ctx.notify_resource_updated(f"notes://{topic}")
    return "written"


@router.resource("about:server")
async def about() -> str:
    return "A server with everything."


@router.resource("pixel:red", mime_type="image/gif")
async def pixel() -> bytes:
    return RED


@router.resource("notes://{topic}{?limit}")
async def notes(pool: Pool, topic: str, limit: int = 10) -> str:
    rows = pool.execute("SELECT text FROM notes WHERE topic = ? LIMIT ?", (topic, limit))
    return "\n".join(text for (text,) in rows)


@router.completion(notes, "topic")
async def topics(value: str) -> list[str]:
    return [topic for topic in ("home", "holidays", "work") if topic.startswith(value)]


@router.prompt()
async def review(code: str, language: Literal["python", "rust"] = "python") -> list[Any]:
    return [f"Review this {language}: {code}", mcp.PromptMessage("I see a problem.", "assistant")]


text = mcp.Router("text")


@text.tool()
async def shout(text: str) -> str:
    """Write a text in capitals."""
    return text.upper()


router.mount(text, prefix="text")

if __name__ == "__main__":
    mcp.run_stdio(router)
