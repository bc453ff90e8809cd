"""The echo server on trio_mcp_session."""

from __future__ import annotations

from trio_mcp_session import Router, run_stdio

router = Router(name="echo", version="1.0")


@router.tool(structured=False)  # as the other servers answer: the text once
async def echo(text: str) -> str:
    """Return the text."""
    return text


if __name__ == "__main__":
    run_stdio(router)
