"""A server with every feature of the protocol."""

import sqlite3
import threading
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Annotated, Any, Literal

import mcp_types as types
from fastmcp import Context, FastMCP
from fastmcp.dependencies import CurrentContext, Depends
from fastmcp.exceptions import ToolError
from fastmcp.prompts import Message
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.utilities.types import Image
from pydantic import BaseModel

RED = b64decode("R0lGODdhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs=")


@asynccontextmanager
async def open_pool(server: FastMCP) -> AsyncIterator[dict[str, sqlite3.Connection]]:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as pool:
        pool.execute("CREATE TABLE notes (topic, text)")
        yield {"pool": pool}


calls: list[str] = []


class CountCalls(Middleware):
    async def on_request(self, context: MiddlewareContext, call_next: CallNext) -> Any:
        calls.append(context.method)
        return await call_next(context)


# It has no title.
server = FastMCP(
    "everything",
    website_url="https://example.com",
    icons=[types.Icon(src="https://example.com/icon.png")],
    lifespan=open_pool,
    middleware=[CountCalls()],
)


def get_pool(ctx: Context = CurrentContext()) -> sqlite3.Connection:
    return ctx.lifespan_context["pool"]


@server.tool
async def divide(a: float, b: Annotated[float, "Not 0"], by: Literal["/", "//"] = "/") -> float:
    """Divide two numbers."""
    if b == 0:
        raise ToolError("b must not be 0")
    return a / b if by == "/" else a // b


class Status(BaseModel):
    calls: int
    in_thread: bool


@server.tool
def status() -> Status:
    """Count the calls of tools, in a thread."""
    in_thread = threading.current_thread().name != "MainThread"
    return Status(calls=calls.count("tools/call"), in_thread=in_thread)


@server.tool
async def attachments() -> list[Image | types.ContentBlock]:
    """Return an image, a resource and a link."""
    contents = types.TextResourceContents(text="Embedded.", uri="about:text")
    text = types.EmbeddedResource(resource=contents)
    link = types.ResourceLink(uri="pixel:red", name="pixel")
    return [Image(data=RED, format="gif"), text, link]


@server.tool
async def countdown(ctx: Context, steps: int) -> str:
    """Report progress and log messages."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"step {step}")
        await ctx.info(f"logged {step}")
    return "lift-off"


class Booking(BaseModel):
    name: str
    seats: int = 2


@server.tool
async def book(ctx: Context) -> str:
    """Book a table, for the user to fill in."""
    answer = await ctx.elicit("A table for how many?", Booking)
    return f"{answer.action}: {answer.data.seats if answer.action == 'accept' else None}"


@server.tool
async def summarise(ctx: Context, text: str) -> str:
    """Let the client's model summarise a text."""
    content = types.TextContent(text=f"Summarise: {text}")
    message = types.SamplingMessage(role="user", content=content)
    reply = await ctx.session.create_message([message], max_tokens=100)
    return reply.content.text


@server.tool
async def add_note(
    ctx: Context, topic: str, text: str, pool: sqlite3.Connection = Depends(get_pool)
) -> str:
    """Write a note."""
    pool.execute("INSERT INTO notes VALUES (?, ?)", (topic, text))
    # To this client only: it has no subscriptions.
    params = types.ResourceUpdatedNotificationParams(uri=f"notes://{topic}")
    await ctx.send_notification(types.ResourceUpdatedNotification(params=params))
    return "written"


@server.resource("about:server")
async def about() -> str:
    return "A server with everything."


@server.resource("pixel:red", mime_type="image/gif")
async def pixel() -> bytes:
    return RED


@server.resource("notes://{topic}{?limit}")
async def notes(topic: str, limit: int = 10, pool: sqlite3.Connection = Depends(get_pool)) -> str:
    rows = pool.execute("SELECT text FROM notes WHERE topic = ? LIMIT ?", (topic, limit))
    return "\n".join(text for (text,) in rows)


@server.prompt
async def review(code: str, language: Literal["python", "rust"] = "python") -> list[Any]:
    return [f"Review this {language}: {code}", Message("I see a problem.", role="assistant")]


VALUES = {"language": ("python", "rust"), "topic": ("home", "holidays", "work")}


@server.completion
async def complete(ref: Any, argument: Any, context: Any) -> list[str]:
    return [one for one in VALUES[argument.name] if one.startswith(argument.value)]


text = FastMCP("text")


@text.tool
async def shout(text: str) -> str:
    """Write a text in capitals."""
    return text.upper()


server.mount(text, namespace="text")

if __name__ == "__main__":
    server.run(show_banner=False)
