"""The order of the pages: the parts of `index.md`, from which all other lists of pages follow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

PART: Final = re.compile(r"^## (.+)$")
PAGE: Final = re.compile(r"^- \[(.+?)\]\(([\w-]+)\.md\): (.+)$")


class Page(NamedTuple):
    """A page of the site."""

    name: str
    title: str
    about: str


class Part(NamedTuple):
    """A part of the site, with its pages in the order in which they are read."""

    title: str
    pages: list[Page]


def read_parts(docs: Path) -> list[Part]:
    """Return the parts of the site, as `index.md` lists them."""
    parts: list[Part] = []
    for line in (docs / "index.md").read_text(encoding="utf-8").splitlines():
        if match := PART.match(line):
            parts.append(Part(match[1], []))
        elif match := PAGE.match(line):
            parts[-1].pages.append(Page(match[2], match[1], match[3]))
    return [part for part in parts if part.pages]


def toctrees(docs: Path) -> str:
    """Return what tells Sphinx the order of the pages."""
    return "\n\n".join(
        "\n".join(
            ["```{toctree}", ":hidden:", f":caption: {part.title}", ""]
            + [page.name for page in part.pages]
            + ["```"]
        )
        for part in read_parts(docs)
    )


def next_page(docs: Path, name: str) -> str:
    """Return the end of a page: a link to the page that follows it.

    Raises:
        ValueError: `index.md` does not list the page.
    """
    pages = [page for part in read_parts(docs) for page in part.pages]
    if name not in {page.name for page in pages}:
        raise ValueError(f"docs/index.md does not list {name}.md: add a line where readers look")
    for page, following in pairwise(pages):
        if page.name == name:
            return f"Next: [{following.title}]({following.name}.md)"
    return f"Back to the first page: [{pages[0].title}]({pages[0].name}.md)"


def table_of_pages(docs: Path) -> Iterator[tuple[str, str]]:
    """Yield a row of the README's table for each part."""
    for part in read_parts(docs):
        links = (f"[{page.title}](docs/{page.name}.md)" for page in part.pages)
        yield part.title, " · ".join(links)


def llms_txt(docs: Path, summary: str, address: str) -> str:
    """Return `llms.txt`: the pages of the site for programs that read it.

    Args:
        docs: The folder of the pages.
        summary: What the project is, in one paragraph.
        address: Where the site is published; empty if that is not known.
    """
    base = f"{address}/" if address else ""
    lines = ["# trio_mcp_session", "", f"> {summary}", ""]
    for part in read_parts(docs):
        lines += [f"## {part.title}", ""]
        lines += [f"- [{one.title}]({base}{one.name}.html): {one.about}" for one in part.pages]
        lines.append("")
    return "\n".join(lines)
