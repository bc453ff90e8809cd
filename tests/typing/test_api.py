"""Whether the file that type checkers read is complete."""

from __future__ import annotations

import ast
import types
from pathlib import Path

import trio_mcp_session

API = Path(__file__).with_name("api.py")


def test_every_public_name_is_used() -> None:
    public = {
        name
        for name, value in vars(trio_mcp_session).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name != "annotations"
    }
    used = {
        node.id
        for node in ast.walk(ast.parse(API.read_text("utf-8")))
        if isinstance(node, ast.Name)
    }
    assert public <= used
