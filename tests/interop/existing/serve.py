"""Serves an existing server, by its own library or by this one, in the environment of that server.

    python serve.py {theirs,ours} SERVER [PORT]

Over standard input and output, or over HTTP at that port of 127.0.0.1. `git` works in the folder
EXISTING_REPOSITORY; `auth` asks EXISTING_ISSUER about tokens.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any


def everything(port: int) -> Any:
    from mcp_everything_server.server import mcp

    return mcp


def auth(port: int) -> Any:
    from mcp_simple_auth.server import ResourceServerSettings, create_resource_server

    issuer = os.environ["EXISTING_ISSUER"]
    settings = ResourceServerSettings(
        host="127.0.0.1",
        port=port,
        server_url=f"http://127.0.0.1:{port}/mcp",
        auth_server_url=issuer,
        auth_server_introspection_endpoint=f"{issuer}/introspect",
    )
    return create_resource_server(settings)


def git(port: int) -> Any:
    from mcp_server_git.server import create_server

    return create_server(Path(os.environ["EXISTING_REPOSITORY"]))


def time(port: int) -> Any:
    from mcp_server_time.server import create_server

    return create_server("Europe/Rome")


def main() -> None:
    which, name, *more = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING)
    port = int(more[0]) if more else 0
    app = {"everything": everything, "auth": auth, "git": git, "time": time}[name](port)
    if which == "theirs":
        app.run("streamable-http", port=port) if more else app.run()
        return
    from trio_mcp_session import run_http, run_stdio

    run_http(app, f"127.0.0.1:{port}") if more else run_stdio(app)


if __name__ == "__main__":
    main()
