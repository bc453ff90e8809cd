"""A server with many tools over stdio, on one of three libraries.

    python benchmarks/servers/tools.py {ours,mcp,fastmcp} COUNT

Each tool is a function of its own with three arguments. The time that the registration took is
printed to standard error.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

Function = Callable[..., Any]


def make(number: int) -> Function:
    """Make a function with a name and a docstring of its own, as a program would define it."""

    async def tool(
        city: str,
        days: Annotated[int, Field(ge=1, le=14, description="how many days to look ahead")] = 3,
        unit: Literal["celsius", "fahrenheit"] = "celsius",
    ) -> str:
        return f"{city} {days} {unit}"

    tool.__name__ = f"forecast_{number}"
    tool.__doc__ = f"Tell the weather by model {number}."
    return tool


def main() -> None:
    kind, functions = sys.argv[1], [make(number) for number in range(int(sys.argv[2]))]
    add: Callable[[Function], object]
    run: Callable[[], object]
    # Imported here, because only this one may be installed.
    if kind == "ours":
        library = importlib.import_module("trio_mcp_session")
        router = library.Router("many")
        add, run = router.tool(), lambda: library.run_stdio(router)
    elif kind == "mcp":
        server = importlib.import_module("mcp.server.mcpserver").MCPServer("many")
        add, run = server.tool(), server.run
    else:
        app = importlib.import_module("fastmcp").FastMCP("many")
        add, run = app.tool, lambda: app.run(show_banner=False)
    began = time.perf_counter()
    for function in functions:
        add(function)
    print(f"registered in {time.perf_counter() - began:.6f}", file=sys.stderr, flush=True)
    run()


if __name__ == "__main__":
    main()
