"""What the documentation takes from the code is current, whole, and linked."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import trio_mcp_session
import trio_mcp_session.testing
from trio_mcp_session import (
    TRANSITIONS,
    AdmissionPolicy,
    CleanupConfig,
    HttpOptions,
    HttpServerLimits,
    MemoryEventStore,
    SessionHooks,
    SessionLimits,
    SessionState,
)

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    CleanupConfig: "timeouts.md",
    HttpOptions: "http.md",
    HttpServerLimits: "limits.md",
    MemoryEventStore: "limits.md",
    SessionLimits: "limits.md",
}


def load(name: str) -> Any:
    """Import a module of the generator, which lies beside the pages and is not installed."""
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module(f"generator.{name}")
    finally:
        sys.path.remove(str(DOCS))


def reference() -> str:
    pages = sorted((DOCS / "reference").glob("*.md"))
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


@pytest.fixture
def docs_copy(tmp_path: Path) -> Iterator[Path]:
    """A copy of the documentation that a test may change."""
    ignored = shutil.ignore_patterns("_build", "__pycache__")
    for folder in ("docs", "examples", "release"):
        shutil.copytree(DOCS.parent / folder, tmp_path / folder, ignore=ignored)
    yield tmp_path / "docs"
    shutil.rmtree(tmp_path / "docs")


def run_generator(docs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(docs / "generate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=docs)


def test_generated_text_is_current() -> None:
    checked = run_generator(DOCS, "--check")
    assert checked.returncode == 0, checked.stderr


def test_check_names_stale_files_and_the_command_to_run(docs_copy: Path) -> None:
    page = docs_copy / "limits.md"
    current = page.read_text(encoding="utf-8")
    page.write_text(current.replace("| `10_000` |", "| `9` |"), encoding="utf-8")
    (docs_copy / "reference" / "gone.md").write_text("# Gone\n", encoding="utf-8")

    checked = run_generator(docs_copy, "--check")
    assert checked.returncode == 1
    assert "limits.md, reference/gone.md" in checked.stderr
    assert "python docs/generate.py" in checked.stderr

    assert run_generator(docs_copy).returncode == 0
    assert page.read_text(encoding="utf-8") == current
    assert not (docs_copy / "reference" / "gone.md").exists()
    assert run_generator(docs_copy, "--check").returncode == 0


def test_text_around_generated_blocks_is_kept(docs_copy: Path) -> None:
    page = docs_copy / "limits.md"
    page.write_text(page.read_text(encoding="utf-8") + "\nMy own words.\n", encoding="utf-8")
    assert run_generator(docs_copy).stdout.startswith("written: nothing")
    assert page.read_text(encoding="utf-8").endswith("\nMy own words.\n")


@pytest.mark.parametrize("module", [trio_mcp_session, trio_mcp_session.testing])
def test_every_public_name_has_an_entry(module: Any) -> None:
    entries = set(re.findall(r"^## `(\w+)`$", reference(), re.MULTILINE))
    names = load("public").exported(module)
    assert names.keys() <= entries


def test_a_public_name_without_a_page_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio_mcp_session, "Newcomer", object, raising=False)
    with pytest.raises(LookupError, match=r"Newcomer") as caught:
        load("public").check_areas()
    assert "docs/generator/public.py" in str(caught.value)


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown generated part 'limitz'"):
        load("pages").block("limitz")


def test_a_page_that_the_index_does_not_list_is_refused(docs_copy: Path) -> None:
    lost = "# Lost\n\n<!-- generated: next -->\n<!-- end -->\n"
    (docs_copy / "lost.md").write_text(lost, encoding="utf-8")
    made = run_generator(docs_copy)
    assert made.returncode != 0
    assert "docs/index.md does not list lost.md: add a line where readers look" in made.stderr


@pytest.mark.parametrize("owner", PAGES)
def test_every_setting_has_a_line_with_its_default(owner: type) -> None:
    rows = load("source").settings(owner)
    assert [row.name for row in rows] == [one.name for one in attrs.fields(owner) if one.init]
    assert all(row.default and row.doc for row in rows)
    page = (DOCS / PAGES[owner]).read_text(encoding="utf-8")
    assert f"<!-- generated: settings {owner.__name__} -->\n" in page
    assert all(f"| `{row.name}` | `{row.default}` |" in page for row in rows)


def test_generated_defaults_agree_with_the_class() -> None:
    rows = {row.name: row.default for row in load("source").settings(CleanupConfig)}
    assert rows["max_idle_time"] == "1800"
    assert rows["max_session_time"] == "math.inf"


def test_every_member_and_field_has_a_meaning() -> None:
    read = load("source").meanings
    assert read(AdmissionPolicy).keys() == AdmissionPolicy.__members__.keys()
    assert read(SessionHooks).keys() == {one.name for one in attrs.fields(SessionHooks)}


def test_every_transition_is_drawn_and_named() -> None:
    states = [state.value for state in SessionState]
    moves = [(old.value, new.value) for old, news in TRANSITIONS.items() for new in news]
    picture = (DOCS / "states.svg").read_text(encoding="utf-8")
    page = (DOCS / "lifecycle.md").read_text(encoding="utf-8")
    assert picture.count("marker-end") == len(moves)
    assert all(f">{state}</text>" in picture for state in states)
    assert all(f"{old} to {new}" in picture and f"{old} to {new}" in page for old, new in moves)


@pytest.mark.parametrize(
    "doc,expected",
    [
        ("One. Two ``code``.", ["", "One.", "Two `code`."]),
        ("Text::\n\n    x = 1\n", ["", "Text:", "", "```python", "x = 1", "```"]),
        ("Text.\n\n- one\n  more\n- two", ["", "Text.", "", "- one more", "- two"]),
        (
            "Args:\n    a: First,\n        second.",
            ["", "**Arguments**", "", "- `a`: First, second."],
        ),
        ("Returns:\n    A. B.", ["", "**Returns**", "", "A.", "B."]),
        ("Raises:\n    E: Why.\n\nEnd.", ["", "**Raises**", "", "- `E`: Why.", "", "End."]),
    ],
)
def test_docstrings_become_markdown(doc: str, expected: list[str]) -> None:
    assert load("markdown").from_docstring(doc).splitlines() == expected


@pytest.mark.parametrize(
    "address,expected",
    [
        ("", "The address is not known yet"),
        ("https://code.example/report", "Report it at <https://code.example/report>."),
        ("security@example.org", "Write to <security@example.org>."),
    ],
)
def test_a_contact_is_shown_or_said_to_be_unknown(address: str, expected: str) -> None:
    assert load("pages")._contact(address).startswith(expected)
