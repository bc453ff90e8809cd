"""The table of features in the documentation, which the contract suite checks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.adapters.contract.differences import FASTMCP, IN_SHORT, LEGACY, MCP, MODERN, different

PAGE: Final = Path(__file__).parents[3] / "docs" / "sdk-apps.md"
COLUMNS: Final = [(app, revision) for app in (MCP, FASTMCP) for revision in (LEGACY, MODERN)]
HEADER: Final = "| What a client looks at |"
EQUAL: Final = "="
NOT_THERE: Final = "–"


def cell(app: str, revision: str, what: str) -> str:
    """Return what the table has to say of something that a client looks at."""
    reason = different(app, revision).get(what)
    return EQUAL if reason is None else IN_SHORT[reason]


def documented(app: str, revision: str) -> dict[str, str]:
    """Return what the table says, by what a client looks at."""
    _, _, after = PAGE.read_text("utf-8").partition(HEADER)
    column = COLUMNS.index((app, revision)) + 1
    found: dict[str, str] = {}
    for line in after.splitlines()[2:]:
        if not line.startswith("|"):
            break
        cells = [one.strip() for one in line.strip("|").split("|")]
        if cells[column] != NOT_THERE:
            found[cells[0]] = cells[column]
    return found
