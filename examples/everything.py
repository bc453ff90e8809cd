"""A server with every feature of the protocol."""

import sqlite3
import threading
from base64 import b64decode
from functools import cache
from typing import Annotated, Any, Literal

from msgspec import Struct

import trio_mcp_session as mcp

RED = b64decode("R0lGODdhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs=")


router = mcp.Router("everything", title="Everything", resource_subscriptions=True)
calls: list[str] = []


@cache
def get_pool() -> sqlite3.Connection:
    pool = sqlite3.connect(":memory:", check_same_thread=False)
    pool.execute("CREATE TABLE notes (topic, text)")
    return pool


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


BOOKING = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "seats": {"type": "integer", "default": 2}},
    "required": ["name"],
}


@router.tool()
async def book(ctx: mcp.RequestContext) -> str:
    """Book a table, for the user to fill in."""
    answer = await ctx.elicit("A table for how many?", BOOKING)
    return f"{answer.action}: {answer.content and answer.content['seats']}"


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


@router.tool("text_shout")
async def shout(text: str) -> str:
    """Write a text in capitals."""
    return text.upper()


if __name__ == "__main__":
    mcp.run_stdio(router)
