"""A server with every feature of the protocol."""

import sqlite3
import threading
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Annotated, Any, Literal

import mcp_types as types
from mcp.server import mcpserver as mcp
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

RED = b64decode("R0lGODdhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs=")


@asynccontextmanager
async def open_pool(server: mcp.MCPServer) -> AsyncIterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as pool:
        pool.execute("CREATE TABLE notes (topic, text)")
        yield pool


calls: list[str] = []


async def count_calls(ctx: Any, call_next: Any) -> Any:
    calls.append(ctx.method)
    return await call_next(ctx)


server = mcp.MCPServer(
    "everything",
    title="Everything",
    website_url="https://example.com",
    icons=[mcp.Icon(src="https://example.com/icon.png")],
    lifespan=open_pool,
    middleware=[count_calls],
)


def get_pool(ctx: mcp.Context[sqlite3.Connection]) -> sqlite3.Connection:
    return ctx.request_context.lifespan_context


Pool = Annotated[sqlite3.Connection, mcp.Resolve(get_pool)]


@server.tool()
async def divide(
    a: float, b: Annotated[float, Field(description="Not 0")], by: Literal["/", "//"] = "/"
) -> float:
    """Divide two numbers."""
    if b == 0:
        raise ToolError("b must not be 0")
    return a / b if by == "/" else a // b


class Status(BaseModel):
    calls: int
    in_thread: bool


@server.tool()
def status() -> Status:
    """Count the calls of tools, in a thread."""
    in_thread = threading.current_thread().name != "MainThread"
    return Status(calls=calls.count("tools/call"), in_thread=in_thread)


@server.tool()
async def attachments() -> list[mcp.Image | types.ContentBlock]:
    """Return an image, a resource and a link."""
    contents = types.TextResourceContents(text="Embedded.", uri="about:text")
    text = types.EmbeddedResource(resource=contents)
    link = types.ResourceLink(uri="pixel:red", name="pixel")
    return [mcp.Image(data=RED, format="gif"), text, link]


@server.tool()
async def countdown(ctx: mcp.Context, steps: int) -> str:
    """Report progress and log messages."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"step {step}")
        await ctx.info(f"logged {step}")
    return "lift-off"


class Booking(BaseModel):
    name: str
    seats: int = 2


def ask_booking() -> mcp.Elicit[Booking]:
    return mcp.Elicit("A table for how many?", Booking)


@server.tool()
async def book(
    answer: Annotated[mcp.ElicitationResult[Booking], mcp.Resolve(ask_booking)],
) -> str:
    """Book a table, for the user to fill in."""
    return f"{answer.action}: {answer.data.seats if answer.action == 'accept' else None}"


def ask_model(text: str) -> mcp.Sample:
    content = types.TextContent(text=f"Summarise: {text}")
    return mcp.Sample([types.SamplingMessage(role="user", content=content)], max_tokens=100)


@server.tool()
async def summarise(
    text: str, reply: Annotated[types.CreateMessageResult, mcp.Resolve(ask_model)]
) -> str:
    """Let the client's model summarise a text."""
    return reply.content.text


@server.tool()
async def add_note(ctx: mcp.Context, pool: Pool, topic: str, text: str) -> str:
    """Write a note."""
    pool.execute("INSERT INTO notes VALUES (?, ?)", (topic, text))
    await ctx.notify_resource_updated(f"notes://{topic}")
    # Up to 2025-11-25: to this client only, which cannot subscribe.
    await ctx.session.send_resource_updated(f"notes://{topic}")
    return "written"


@server.resource("about:server")
async def about() -> str:
    return "A server with everything."


@server.resource("pixel:red", mime_type="image/gif")
async def pixel() -> bytes:
    return RED


@server.resource("notes://{topic}{?limit}")
async def notes(ctx: mcp.Context[sqlite3.Connection], topic: str, limit: int = 10) -> str:
    query = "SELECT text FROM notes WHERE topic = ? LIMIT ?"
    return "\n".join(text for (text,) in get_pool(ctx).execute(query, (topic, limit)))


@server.prompt()
async def review(code: str, language: Literal["python", "rust"] = "python") -> list[Any]:
    return [f"Review this {language}: {code}", mcp.AssistantMessage("I see a problem.")]


VALUES = {"language": ("python", "rust"), "topic": ("home", "holidays", "work")}


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
    values = VALUES[argument.name]
    return types.Completion(values=[one for one in values if one.startswith(argument.value)])


# It cannot mount another server: what that has is added one by one.
def shout(text: str) -> str:
    """Write a text in capitals."""
    return text.upper()


server.add_tool(shout, "text_shout")

if __name__ == "__main__":
    server.run()
