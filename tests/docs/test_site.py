"""The site: its order, the ends of its pages, what is found, and what phones show."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {page.stem: page.read_text("utf-8") for page in sorted(DOCS.glob("*.md"))}
LISTED = re.findall(r"^- \[.+?\]\(([\w-]+)\.md\): ", PAGES["index"], re.MULTILINE)
MADE = {"reference"}
"""Made from the code as a whole."""
INCLUDED = {"changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
WRITTEN = [name for name in LISTED if name not in MADE]

WORDS = [
    "prometheus",
    "image",
    "kubernetes",
    "docker",
    "pydantic",
    "fastmcp",
    "opentelemetry",
    "claude",
    "cursor",
    "migrate",
    "dataclass",
    "stateless",
    "elicitation",
    "sampling",
    "roots",
    "prompts",
    "resources",
    "completion",
    "tools",
    "logging",
    "cancellation",
    "progress",
    "notifications",
    "subscriptions",
    "tasks",
    "cors",
    "nginx",
    "systemd",
    "oauth",
    "jwt",
    "401",
    "403",
    "404",
    "timeout",
    "pagination",
    "middleware",
    "lifespan",
    "Last-Event-ID",
    "Mcp-Session-Id",
    "inspector",
    "mcp-remote",
]
"""What people search for."""


def test_each_page_is_listed_once_with_what_it_is_about() -> None:
    assert sorted(LISTED) == sorted(PAGES.keys() - {"index"})


def test_the_site_has_the_parts_that_readers_look_for() -> None:
    parts = re.findall(r"^## (.+)$", PAGES["index"], re.MULTILINE)
    assert parts == [
        "Get started",
        "Inside your server",
        "What you hold",
        "Running it",
        "Recipes",
        "Troubleshooting",
        "Coming from other libraries",
        "Reference",
        "Project",
    ]


@pytest.mark.parametrize("name", WRITTEN)
def test_each_page_ends_with_the_next_one(name: str) -> None:
    *_, last, end = PAGES[name].strip().splitlines()
    following = LISTED[LISTED.index(name) + 1] if name != LISTED[-1] else LISTED[0]
    assert end == "<!-- end -->"
    assert re.fullmatch(rf"(Next|Back to the first page): \[.+\]\({following}\.md\)", last)


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in INCLUDED])
def test_each_page_begins_with_what_its_reader_wants(name: str) -> None:
    title, empty, first, *_ = PAGES[name].splitlines()
    assert title.startswith("# ")
    assert empty == ""
    assert re.match(r"You |Your |How |Several of your ", first), first


@pytest.mark.parametrize("word", WORDS)
def test_what_people_search_for_is_on_a_page(word: str) -> None:
    found = [name for name, text in PAGES.items() if word.lower() in text.lower()]
    assert found


def test_each_question_has_an_answer_on_a_page_of_the_site() -> None:
    asked = tomllib.loads((ROOT / "tests" / "docs" / "asked.toml").read_text("utf-8"))
    for question in asked["question"]:
        page, _, anchor = question["answer"].partition("#")
        text = PAGES[page.removesuffix(".md")]
        assert f"](#{anchor})" in text or anchor in anchors(text), question["answer"]


def anchors(text: str) -> set[str]:
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
    return {"", *made}


def test_the_configurations_of_hosts_are_json() -> None:
    blocks = re.findall(r"^```json\n(.*?)^```", PAGES["connect"], re.DOTALL | re.MULTILINE)
    found = [json.loads(block) for block in blocks]
    assert ["mcpServers" in one for one in found] == [True, True, False]
    assert found[2]["servers"]["notes"]["type"] == "stdio"


def test_programs_find_every_page() -> None:
    text = (DOCS / "llms.txt").read_text("utf-8")
    assert text.startswith("# trio_mcp_session\n\n> ")
    assert re.findall(r"\(([\w-]+)\.html\): \S", text) == LISTED
