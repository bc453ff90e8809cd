"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trio_mcp_session import open_session_manager
from trio_mcp_session.testing import check_leaks, connect_client

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


async def test_the_server_serves() -> None:
    match = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert match is not None
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(match[1], namespace)  # noqa: S102  # it is ours
    async with check_leaks():
        async with open_session_manager(namespace["router"]) as manager:
            async with connect_client(manager) as client:
                await client.call_tool("remember", {"note": "milk"})
                result = await client.call_tool("remember", {"note": "bread"})
                assert result.text == "That makes 2."
                notes = client.session.get_state(namespace["NOTES"])
    assert notes == []


def test_links_lead_somewhere() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
