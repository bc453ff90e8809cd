"""Links between the pages lead somewhere, on the site and on a code host alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "reference").glob("*.md")),
]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")


def prose_of(page: Path) -> str:
    return re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts and the site make them."""
    prose = prose_of(page)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    texts = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower() for heading in headings)
    slugs = {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", prose, re.MULTILINE))


def leads_somewhere(page: Path, path: str, anchor: str) -> bool:
    target = (page.parent / path).resolve() if path else page
    checked = bool(anchor) and target.suffix == ".md"
    return target.exists() and (not checked or anchor in anchors_of(target))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    links = LINK.findall(prose_of(page))
    assert [link for link in links if not leads_somewhere(page, *link)] == []


def test_a_broken_link_is_found() -> None:
    page = ROOT / "docs" / "index.md"
    assert not leads_somewhere(page, "missing.md", "")
    assert not leads_somewhere(page, "errors.md", "missing")
