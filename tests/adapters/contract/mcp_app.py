"""An application of the official SDK with everything that its servers can do."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import anyio
import mcp_types as types
from mcp.server.mcpserver import (
    Context,
    Elicit,
    ElicitationResult,
    Icon,
    Image,
    MCPServer,
    Resolve,
)
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import AssistantMessage
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from pydantic import BaseModel, Field

warnings.simplefilter("ignore", MCPDeprecationWarning)
RED = b"GIF89a"
opened: list[str] = []


@asynccontextmanager
async def lifespan(server: MCPServer) -> AsyncIterator[dict[str, Any]]:
    opened.append(server.name)
    yield {"openings": opened}


seen: list[str] = []


async def watch(ctx: Any, call_next: Any) -> Any:
    seen.append(ctx.method)
    return await call_next(ctx)


server = MCPServer(
    "contract",
    title="Contract",
    description="Everything",
    instructions="Use it.",
    version="1.2",
    website_url="https://example.com",
    icons=[Icon(src="https://example.com/icon.png", mime_type="image/png", sizes=["48x48"])],
    lifespan=lifespan,
)
server._lowlevel_server.middleware.append(watch)


@server.tool(icons=[Icon(src="https://example.com/add.png")], title="Add")
async def add(a: int, b: Annotated[int, Field(description="The other")] = 1) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def in_thread() -> bool:
    return threading.current_thread() is not threading.main_thread()


class Weather(BaseModel):
    city: str
    degrees: float


@server.tool()
async def weather(city: str, sky: Literal["clear", "rain"] = "clear") -> Weather:
    return Weather(city=city, degrees=20.5)


@server.tool()
async def attachments() -> list[Any]:
    link = types.ResourceLink(uri="pixel:red", name="pixel")
    return [Image(data=RED, format="gif"), link, "text"]


@server.tool()
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


@server.tool()
async def steps(ctx: Context, count: int) -> str:
    for step in range(1, count + 1):
        await ctx.report_progress(step, count, f"step {step}")
        await ctx.debug(f"debug {step}")
        await ctx.info(f"logged {step}")
        await ctx.warning({"step": step}, logger_name="own")
    return "done"


@server.tool()
async def facts(ctx: Context) -> dict[str, Any]:
    """What the request says of itself."""
    lifespan_context = ctx.request_context.lifespan_context
    session = ctx.session
    names = session.client_params
    return {
        "openings": len(lifespan_context["openings"]),
        "client": None if names is None else names.client_info.name,
        "elicitation": bool(
            session.client_capabilities and session.client_capabilities.elicitation
        ),
        "version": session.protocol_version,
        "ctx_version": ctx.protocol_version,
        "header": None if ctx.headers is None else ctx.headers.get("x-contract"),
        "path": None
        if ctx.request_context.request is None
        else ctx.request_context.request.url.path,
        "method": ctx.request_context.method,
        "meta": (ctx.request_context.meta or {}).get("example.com/extra"),
        "initialized": "initialize" in seen,
    }


class Name(BaseModel):
    name: str
    age: int = 3


@server.tool()
async def elicit(ctx: Context) -> str:
    answer = await ctx.elicit("Who?", Name)
    return f"{answer.action} {answer.data.name if answer.action == 'accept' else None}"


@server.tool()
async def elicit_url(ctx: Context) -> str:
    answer = await ctx.elicit_url("Log in", "https://example.com/login", "one")
    return answer.action


@server.tool()
async def elicit_twice(ctx: Context) -> str:
    first = await ctx.elicit("First?", Name)
    second = await ctx.elicit("Second?", Name)
    return f"{first.action} {second.action}"


@server.tool()
async def sample(ctx: Context) -> str:
    content = types.TextContent(text="Hi")
    message = types.SamplingMessage(role="user", content=content)
    result = await ctx.session.create_message(
        [message], max_tokens=10, related_request_id=ctx.request_id
    )
    return str(getattr(result.content, "text", None))


@server.tool()
async def roots(ctx: Context) -> list[str]:
    return [str(one.uri) for one in (await ctx.session.list_roots()).roots]


def ask_name() -> Elicit[Name]:
    return Elicit("Resolved?", Name)


@server.tool()
async def resolved(answer: Annotated[ElicitationResult[Name], Resolve(ask_name)]) -> str:
    return answer.action


@server.tool()
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


@server.tool()
async def change(ctx: Context) -> str:
    await ctx.notify_tools_changed()
    await ctx.notify_resource_updated("notes://home")
    return "changed"


@server.tool()
async def tell(ctx: Context) -> str:
    """Notify this client, outside of its request."""
    await ctx.session.send_resource_updated("notes://told")
    await ctx.session.send_tool_list_changed()
    return "told"


@server.tool()
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
async def review(code: str, language: str = "python") -> list[Any]:
    """Review code."""
    return [f"Review this {language}: {code}", AssistantMessage("A problem.")]


VALUES = {"language": ["python", "rust"], "topic": ["home", "work"]}


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
    found = [one for one in VALUES[argument.name] if one.startswith(argument.value)]
    return types.Completion(values=found, total=len(found), has_more=False)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
