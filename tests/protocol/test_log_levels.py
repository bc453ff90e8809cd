from __future__ import annotations

from typing import Any, get_args

import pytest

from trio_mcp_session import LogLevel, McpError
from trio_mcp_session.core.log_level import SEVERITY
from trio_mcp_session.protocol.log_levels import read_level

# RFC 5424, from the least severe.
LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]


def test_levels_are_in_order_of_severity() -> None:
    assert list(get_args(LogLevel)) == LEVELS
    assert [SEVERITY[level] for level in LEVELS] == list(range(8))


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_can_be_set(level: str) -> None:
    assert read_level({"level": level, "_meta": {}}) == LEVELS.index(level)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"level": ""},
        {"level": "Debug"},
        {"level": "trace"},
        {"level": 0},
        {"level": None},
        {"level": True},
        {"level": []},
        {"level": {}},
    ],
)
def test_unknown_level_is_invalid_params(params: dict[str, Any]) -> None:
    with pytest.raises(McpError) as caught:
        read_level(params)
    assert caught.value.code == -32602
    assert caught.value.message == "level must be one of " + ", ".join(LEVELS)
