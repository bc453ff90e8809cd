"""The echo server on the low-level server of the official Python SDK, over HTTP.

On uvicorn with httptools (asyncio), or on Hypercorn's Trio worker.
"""

from __future__ import annotations

import argparse
import json
import signal
from functools import partial
from typing import Any

from footprint import footprint
from mcp.server import Server, ServerRequestContext
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)

ECHO = Tool(
    name="echo",
    description="Return the text.",
    input_schema={
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    },
)
FOOTPRINT = Tool(
    name="footprint",
    description="Collect garbage; return what the process takes.",
    input_schema={"type": "object"},
)
TOOLS = {tool.name: tool for tool in (ECHO, FOOTPRINT)}


async def list_tools(
    ctx: ServerRequestContext, params: PaginatedRequestParams | None
) -> ListToolsResult:
    return ListToolsResult(tools=list(TOOLS.values()))


async def call_tool(ctx: ServerRequestContext, params: CallToolRequestParams) -> CallToolResult:
    if params.name == "footprint":
        text = json.dumps(footprint())
    else:
        assert params.name == "echo"
        text = (params.arguments or {})["text"]
    return CallToolResult(content=[TextContent(type="text", text=text)])


def find_schema(name: str) -> dict[str, Any] | None:
    # Without it each modern call of a tool begins with a `tools/list`, to compare headers with.
    tool = TOOLS.get(name)
    return tool.input_schema if tool else None


server = Server(
    "echo",
    version="1.0",
    get_tool_input_schema=find_schema,
    on_list_tools=list_tools,
    on_call_tool=call_tool,
)


def on_uvicorn(app: Any) -> None:
    import uvicorn  # noqa: PLC0415 (the one of the two that is used)

    class Announcing(uvicorn.Server):
        async def startup(self, *args: Any, **kwargs: Any) -> None:
            await super().startup(*args, **kwargs)
            port = self.servers[0].sockets[0].getsockname()[1]
            print(f"listening on http://127.0.0.1:{port}/mcp", flush=True)

    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http="httptools",
        loop="asyncio",
        log_level="error",
        access_log=False,
        backlog=4096,
    )
    Announcing(config).run()


def on_hypercorn(app: Any) -> None:
    import trio  # noqa: PLC0415 (as above)
    from hypercorn.config import Config  # noqa: PLC0415
    from hypercorn.trio import serve  # noqa: PLC0415

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.loglevel = "ERROR"
    config.backlog = 4096

    async def until_signal(stop: trio.Event) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(aiter(signals))
            stop.set()

    async def run() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_signal, stop)
            [url] = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
            print(f"listening on {url}/mcp", flush=True)

    trio.run(run)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=["uvicorn", "hypercorn"], default="uvicorn")
    parser.add_argument("--answers", choices=["json", "sse"], default="json")
    options = parser.parse_args()
    app = server.streamable_http_app(json_response=options.answers == "json")
    if options.server == "uvicorn":
        on_uvicorn(app)
    else:
        on_hypercorn(app)


if __name__ == "__main__":
    main()
