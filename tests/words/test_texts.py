"""Which text is read, and from where."""

from __future__ import annotations

from pathlib import Path

import pytest

from .texts import Text, read_all, read_code, read_page, words_of


def of_page(source: str) -> list[tuple[int, str, str]]:
    return [(one.line, one.kind, one.text) for one in read_page("a.md", source)]


def of_code(source: str, path: str = "tests/a.py") -> list[tuple[int, str, str]]:
    return [(one.line, one.kind, one.text) for one in read_code(path, source)]


def test_paragraphs_headings_and_items_of_a_page() -> None:
    source = """\
(label)=
# A title
One
paragraph.

- An item
  of two lines
- with a [link](address.md)
2. a number
## Another title"""
    assert of_page(source) == [
        (2, "page", "A title"),
        (3, "page", "One paragraph."),
        (6, "page", "An item of two lines"),
        (8, "page", "with a link"),
        (9, "page", "a number"),
        (10, "page", "Another title"),
    ]


def test_cells_of_a_table_that_are_prose() -> None:
    source = "Before.\n| Name | What it is |\n|---|---|\n| `a` | one \\| two things |\nAfter."
    assert of_page(source) == [
        (1, "page", "Before."),
        (2, "page", "What it is"),
        (4, "page", "one \\| two things"),
        (5, "page", "After."),
    ]


@pytest.mark.parametrize("head", ["python", "", "{testcode}", "{doctest} name"])
def test_code_on_a_page_has_comments_only(head: str) -> None:
    source = f"```{head}\n# The reason.\nx = some code\n\ny = 1  # Why.\n```\nAfter."
    assert of_page(source) == [
        (2, "comment", "The reason."),
        (5, "comment", "Why."),
        (7, "page", "After."),
    ]


def test_a_note_on_a_page_is_prose() -> None:
    source = "````{note}\n:class: x\nA note.\n```python\ncode here\n```\nMore of it.\n````"
    assert of_page(source) == [(3, "page", "A note."), (7, "page", "More of it.")]


def test_docstrings_are_read_by_paragraph() -> None:
    source = '''\
"""The first
line.

Args:
    one: What it
        is.
    **two: Another.
"""

class A:
    x: int
    """A field."""
    1

    def f(self) -> None:
        """A method."""
'''
    assert of_code(source) == [
        (1, "docstring", "The first line."),
        (1, "docstring", "Args:"),
        (1, "docstring", "one: What it is."),
        (1, "docstring", "**two: Another."),
        (12, "docstring", "A field."),
        (16, "docstring", "A method."),
    ]


def test_comments_of_consecutive_lines_are_one() -> None:
    source = "# One,\n# and more.\nx = 1  # Why.\n#: A field.\ny = '#1'\n# Last."
    assert of_code(source) == [
        (1, "comment", "One, and more."),
        (3, "comment", "Why."),
        (4, "comment", "A field."),
        (6, "comment", "Last."),
    ]


def test_strings_of_the_package_are_messages_if_they_are_prose() -> None:
    source = 'f("no session", f"{x} sessions of {y!r}", "word", 1)'
    assert of_code(source) == []
    assert of_code(source, "examples/a.py")[1:] == [
        (1, "message", "no session"),
        (1, "message", "… sessions of …"),
    ]


def test_names_of_the_package_are_read_in_words() -> None:
    source = "class MemorySink:\n    def _send_one(self, it): self._last, x = 1, 2"
    names = [text for _, kind, text in of_code(source, "trio_mcp_session/a_file.py")]
    assert sorted(names) == ["Memory Sink", "a file", "it", "last", "self", "send one", "x"]
    assert of_code(source) == []


def test_names_of_tests_are_read_in_words() -> None:
    source = "class TestA:\n    async def test_it_works() -> None: ...\ndef test_more(): ..."
    assert of_code(source) == [(2, "test name", "it works"), (3, "test name", "more")]


def test_an_identifier_is_taken_apart() -> None:
    assert words_of("__SseResponse_v2") == "Sse Response v2"


def test_all_files_of_a_project_are_read(tmp_path: Path) -> None:
    for name, source in {
        "README.md": "Readme.",
        "docs/a.md": "Page.",
        "docs/_build/b.md": "Not this.",
        "tests/sub/test_a.py": "# Comment.",
        "elsewhere/a.py": "# Not this.",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    assert list(read_all(tmp_path)) == [
        Text("README.md", 1, "page", "Readme."),
        Text("docs/a.md", 1, "page", "Page."),
        Text("tests/sub/test_a.py", 1, "comment", "Comment."),
    ]
