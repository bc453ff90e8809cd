"""One application of the official SDK, on its own server or on this library.

    python benchmarks/servers/sdk_app.py {theirs,json,ours} [--http]

Over standard input and output, or over HTTP on a free port. `theirs` is their server as its `run`
starts it; `json` is the same with `json_response=True`. Only the line that runs the application is
different.
"""

from __future__ import annotations

import argparse
import json
import math
from functools import partial
from typing import Any

from footprint import footprint
from mcp.server.mcpserver import MCPServer

MANY = 20_000

app: MCPServer[Any] = MCPServer("echo", version="1.0", log_level="ERROR")


@app.tool(structured_output=False)  # as the other benchmarks: the text once
async def echo(text: str) -> str:
    """Return the text."""
    return text


@app.tool(name="footprint", structured_output=False)
async def tell_footprint() -> str:
    """Collect garbage; return the memory and objects of the process."""
    return json.dumps(footprint())


def on_their_server(*, answers_json: bool) -> None:
    from mcp_http import on_uvicorn  # noqa: PLC0415 (only where it is used)

    on_uvicorn(app.streamable_http_app(json_response=answers_json))


def on_this_library() -> None:
    import trio  # noqa: PLC0415 (as above)
    from ours_http import drain_at_signal  # noqa: PLC0415 (as above)

    from trio_mcp_session import (  # noqa: PLC0415 (as above)
        RateLimit,
        SessionConfig,
        SessionLimits,
        open_session_manager,
        serve_http,
    )

    # The number that is measured, all of them from one address.
    limits = SessionLimits(
        max_sessions=MANY, max_sessions_per_principal=MANY, opening_rate=RateLimit(math.inf)
    )

    async def main() -> None:
        config = SessionConfig(limits=limits)
        async with (
            open_session_manager(app, config=config) as manager,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(drain_at_signal, manager)
            [address] = await nursery.start(partial(serve_http, manager, "127.0.0.1:0"))
            print(f"listening on {address.url}/mcp", flush=True)

    trio.run(main)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("server", choices=["theirs", "json", "ours"])
    parser.add_argument("--http", action="store_true")
    options = parser.parse_args()
    if options.http:
        if options.server == "ours":
            on_this_library()
        else:
            on_their_server(answers_json=options.server == "json")
    elif options.server == "ours":
        from trio_mcp_session import run_stdio  # noqa: PLC0415 (as above)

        run_stdio(app)
    else:
        app.run()


if __name__ == "__main__":
    main()
