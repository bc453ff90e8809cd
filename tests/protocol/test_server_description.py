"""What each revision can say of a server."""

from __future__ import annotations

import pytest

from trio_mcp_session import Icon, ServerInfo
from trio_mcp_session.protocol.revisions import HANDSHAKE_REVISIONS, STATELESS_REVISIONS
from trio_mcp_session.protocol.server_description import describe_server

REVISIONS = {**HANDSHAKE_REVISIONS, **STATELESS_REVISIONS}


@pytest.mark.parametrize("version", REVISIONS)
def test_a_server_says_what_the_revision_knows(version: str) -> None:
    server = ServerInfo(
        name="demo",
        version="3",
        title="The demo",
        description="Shows things",
        website_url="https://example.com/",
        icons=(Icon("https://example.com/icon.png", sizes=["48x48"]),),
    )
    expected: dict[str, object] = {"name": "demo", "version": "3"}
    if version >= "2025-06-18":
        expected["title"] = "The demo"
    if version >= "2025-11-25":
        expected["description"] = "Shows things"
        expected["websiteUrl"] = "https://example.com/"
        expected["icons"] = [{"src": "https://example.com/icon.png", "sizes": ["48x48"]}]
    assert describe_server(server, REVISIONS[version]) == expected


@pytest.mark.parametrize("version", REVISIONS)
def test_what_a_server_does_not_say_is_left_out(version: str) -> None:
    server = ServerInfo(name="demo", version="3")
    assert describe_server(server, REVISIONS[version]) == {"name": "demo", "version": "3"}
