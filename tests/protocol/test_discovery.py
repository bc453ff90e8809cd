from __future__ import annotations

from typing import Any

import pytest

from trio_mcp_session import ServerInfo
from trio_mcp_session.protocol.discovery import discover_result
from trio_mcp_session.protocol.envelope import SERVER_INFO, unsupported_version
from trio_mcp_session.protocol.methods import DISCOVER, REMOVED
from trio_mcp_session.protocol.revisions import V2026_07_28

SERVER = ServerInfo(name="demo", version="3")


def test_discover_method_name() -> None:
    assert DISCOVER == "server/discover"


def test_removed_methods() -> None:
    assert set(REMOVED) == {
        "initialize",
        "logging/setLevel",
        "ping",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/list",
        "tasks/result",
    }


@pytest.mark.parametrize("instructions", [None, "", "Use it."])
def test_discover_result(instructions: str | None) -> None:
    capabilities: dict[str, Any] = {"tools": {"listChanged": True}}
    expected: dict[str, Any] = {
        "supportedVersions": ["2026-07-28"],
        "capabilities": capabilities,
        "_meta": {SERVER_INFO: {"name": "demo", "version": "3"}},
    }
    if instructions is not None:
        expected["instructions"] = instructions
    assert discover_result(V2026_07_28, SERVER, capabilities, instructions) == expected


def test_an_error_names_the_versions_that_are_discovered() -> None:
    discovered = discover_result(V2026_07_28, SERVER, {}, None)["supportedVersions"]
    assert unsupported_version("1900-01-01").data["supported"] == discovered
    # Neither belongs to the code that received it.
    discovered.append("mine")
    assert discover_result(V2026_07_28, SERVER, {}, None)["supportedVersions"] == ["2026-07-28"]
