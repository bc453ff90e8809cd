"""An application of FastMCP with everything that its servers can do."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import anyio
import mcp_types as types
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.prompts import Message
from fastmcp.server.dependencies import get_http_headers
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.utilities.types import Image
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from pydantic import BaseModel, Field

warnings.simplefilter("ignore", MCPDeprecationWarning)
RED = b"GIF89a"
opened: list[str] = []


@asynccontextmanager
async def lifespan(server: FastMCP) -> AsyncIterator[dict[str, Any]]:
    opened.append(server.name)
    yield {"openings": opened}


seen: list[str] = []


class Watch(Middleware):
    async def on_message(self, context: MiddlewareContext, call_next: CallNext) -> Any:
        seen.append(str(context.method))
        return await call_next(context)

    async def on_initialize(self, context: MiddlewareContext, call_next: CallNext) -> Any:
        result = await call_next(context)
        seen.append(f"client {context.message.params.client_info.name}")
        return result


server = FastMCP(
    "contract",
    instructions="Use it.",
    version="1.2",
    website_url="https://example.com",
    icons=[types.Icon(src="https://example.com/icon.png")],
    lifespan=lifespan,
    middleware=[Watch()],
)


@server.tool(title="Add")
async def add(a: int, b: Annotated[int, Field(description="The other")] = 1) -> int:
    """Add two numbers."""
    return a + b


@server.tool
def in_thread() -> bool:
    return threading.current_thread() is not threading.main_thread()


class Weather(BaseModel):
    city: str
    degrees: float


@server.tool
async def weather(city: str, sky: Literal["clear", "rain"] = "clear") -> Weather:
    return Weather(city=city, degrees=20.5)


@server.tool
async def attachments() -> list[Any]:
    link = types.ResourceLink(uri="pixel:red", name="pixel")
    return [Image(data=RED, format="gif"), link, "text"]


@server.tool
async def fail(kind: str) -> str:
    match kind:
        case "tool":
            raise ToolError("not today")
        case "value":
            raise ValueError("secret")
        case "protocol":
            raise MCPError(-32050, "own error", {"why": "test"})
        case "group":
            raise ExceptionGroup("two", [ValueError("a"), ValueError("b")])
        case "model":
            Weather(city="x", degrees="warm")  # type: ignore[arg-type]
    return "fine"


@server.tool
async def steps(ctx: Context, count: int) -> str:
    for step in range(1, count + 1):
        await ctx.report_progress(step, count, f"step {step}")
        await ctx.debug(f"debug {step}")
        await ctx.info(f"logged {step}")
        await ctx.warning(f"warned {step}", logger_name="own")
    return "done"


@server.tool
async def facts(ctx: Context) -> dict[str, Any]:
    """What the request says of itself."""
    request = ctx.request_context
    assert request is not None
    names = ctx.session.client_params
    return {
        "openings": len(ctx.lifespan_context["openings"]),
        "client": None if names is None else names.client_info.name,
        "version": ctx.session.protocol_version,
        "header": get_http_headers().get("x-contract"),
        "transport": ctx.transport,
        "method": request.method,
        "initialized": [one for one in seen if one in ("initialize", "client mcp")],
    }


@server.tool
async def keep(ctx: Context, value: int) -> Any:
    """Keep a value in the state of the session."""
    before = await ctx.get_state("value")
    await ctx.set_state("value", value)
    return [before, await ctx.get_state("value")]


class Name(BaseModel):
    name: str
    age: int = 3


@server.tool
async def elicit(ctx: Context) -> str:
    answer = await ctx.elicit("Who?", Name)
    return f"{answer.action} {answer.data.name if answer.action == 'accept' else None}"


@server.tool
async def sample(ctx: Context) -> str:
    return (await ctx.sample("Hi", max_tokens=10)).text or ""


@server.tool
async def roots(ctx: Context) -> list[str]:
    return [str(one.uri) for one in await ctx.list_roots()]


@server.tool
async def guarded(ctx: Context, rounds: int = 1) -> Any:
    """Ask by returning the question: the handler is called again."""
    done = int(ctx.request_state or 0)
    if done < rounds:
        schema = {"type": "object", "properties": {"name": {"type": "string"}}}
        question = types.ElicitRequest(
            params=types.ElicitRequestFormParams(
                message=f"Round {done + 1}", requested_schema=schema
            )
        )
        return types.InputRequiredResult(
            input_requests={"who": question}, request_state=str(done + 1)
        )
    responses = ctx.input_responses or {}
    return f"after {done}: {sorted(responses)}"


@server.tool
async def change(ctx: Context) -> str:
    await ctx.send_notification(types.ToolListChangedNotification())
    return "changed"


@server.tool
async def tell(ctx: Context) -> str:
    """Notify this client, outside of its request."""
    await ctx.session.send_resource_updated("notes://told")
    return "told"


@server.tool
async def wait(ctx: Context) -> str:
    await anyio.sleep_forever()
    return "never"


@server.resource("about:server", title="About", description="What it is", mime_type="text/x-about")
async def about() -> str:
    return "all of it"


@server.resource("pixel:red", mime_type="image/gif")
def pixel() -> bytes:
    return RED


@server.resource("notes://{topic}{?limit}")
async def notes(topic: str, limit: int = 2) -> str:
    return f"{topic} {limit}"


@server.prompt(title="Review")
async def review(code: str, language: str = "python") -> list[Message]:
    """Review code."""
    return [Message(f"Review this {language}: {code}"), Message("A problem.", role="assistant")]


other = FastMCP("other")


@other.tool
async def shout(text: str) -> str:
    return text.upper()


server.mount(other, namespace="text")

if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("http", port=int(sys.argv[1]), show_banner=False)
    else:
        server.run(show_banner=False)
