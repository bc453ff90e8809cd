"""The reference leaves nothing out, and what is made from the code is whole."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

import trio_mcp_session
import trio_mcp_session.testing
from trio_mcp_session import (
    TRANSITIONS,
    CleanupConfig,
    HttpOptions,
    HttpServerLimits,
    MemoryEventStore,
    SessionLimits,
    SessionState,
)

DOCS = Path(__file__).parents[2] / "docs"
CHAPTERS = {
    CleanupConfig: "timeouts.md",
    HttpOptions: "http.md",
    HttpServerLimits: "limits.md",
    MemoryEventStore: "limits.md",
    SessionLimits: "limits.md",
}


def load(name: str) -> Any:
    """Import a module of the documentation's extension that needs no Sphinx."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "extension" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exported(module: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "annotations" and not isinstance(value, ModuleType)
    }


def described(module: str) -> set[str]:
    """Return the names of a module that the reference has a directive for."""
    found, current = set(), ""
    for line in (DOCS / "reference.md").read_text(encoding="utf-8").splitlines():
        match = re.match(r"\.\. (currentmodule|auto\w+):: (\S+)", line)
        if match is not None and match[1] == "currentmodule":
            current = match[2]
        elif match is not None and current == module and "." not in match[2]:
            found.add(match[2])
    return found


@pytest.mark.parametrize("module", [trio_mcp_session, trio_mcp_session.testing])
def test_every_public_name_is_in_the_reference(module: ModuleType) -> None:
    assert described(module.__name__) == exported(module)


@pytest.mark.parametrize("owner", CHAPTERS)
def test_every_setting_has_a_line_with_its_default(owner: type) -> None:
    rows = load("read").settings(owner)
    assert [row.name for row in rows] == [one.name for one in attrs.fields(owner) if one.init]
    assert all(row.default and row.meaning for row in rows)
    chapter = (DOCS / CHAPTERS[owner]).read_text(encoding="utf-8")
    assert f"```{{settings}} {owner.__name__}\n```" in chapter


def test_defaults_are_those_of_the_class() -> None:
    rows = {row.name: row.default for row in load("read").settings(CleanupConfig)}
    assert rows["max_idle_time"] == "1800"
    assert rows["max_session_time"] == "math.inf"


def test_every_move_is_drawn() -> None:
    states = [state.value for state in SessionState]
    moves = [(old.value, new.value) for old, news in TRANSITIONS.items() for new in news]
    picture = load("diagram").svg(states, moves)
    assert picture.count("marker-end") == len(moves)
    assert all(f">{state}</text>" in picture for state in states)
    assert all(f"{old} to {new}" in picture for old, new in moves)


def test_every_page_can_be_found() -> None:
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    listed = (DOCS / "index.md").read_text(encoding="utf-8").split()
    assert pages <= set(listed)
