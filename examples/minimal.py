"""The smallest server: one tool, for the client at standard input and output."""

from __future__ import annotations

from trio_mcp_session import Router, run_stdio

router = Router("minimal", "1.0")


@router.tool()
async def greet(name: str, *, excited: bool = False) -> str:
    """Greet a person by name."""
    return f"Hello, {name}{'!' if excited else '.'}"


if __name__ == "__main__":
    run_stdio(router)
