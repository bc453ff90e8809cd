"""All text of the project, in pieces: pages, docstrings, comments, messages, names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

ROOT: Final = Path(__file__).parents[2]

CODE: Final = (
    "trio_mcp_session",
    "examples",
    "docs",
    "benchmarks",
    "release",
    "tests",
    "noxfile.py",
)
PAGES: Final = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "benchmarks")
SPEAKING: Final = ("trio_mcp_session", "docs", "examples")
"""Where strings are messages, and names are read; elsewhere strings are data."""

Kind: TypeAlias = Literal["page", "docstring", "comment", "message", "name", "test name"]


class Text(NamedTuple):
    """A piece of text: a paragraph, a table cell, a heading, a docstring, a message ..."""

    path: str
    line: int
    kind: Kind
    text: str
    """In one line."""


_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_FENCE: Final = re.compile(r"(```+|~~~+|:::+) *(.*)$")
_DIRECTIVE: Final = re.compile(r"\{(?!testcode|testoutput|testsetup|doctest|code-block)")
_NOT_PROSE: Final = re.compile(r"\(.*\)=$|:[\w-]+:|[-:| ]+$")
_BLOCK: Final = re.compile(r"^(?:#+|[-*+]|\d+\.) ")
_COMMENT: Final = re.compile(r"(?:^|\s)#+:?\s(.*)$")
_PROSE: Final = re.compile(r"[^\W\d_]+ [^\W\d_]+")
# A blank line, the head of a section, or the name of an argument.
_PARAGRAPH: Final = re.compile(r"\n\s*\n|(?<=:)\n|\n\s*(?=\*{0,2}\w+: )")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def clean(text: str) -> str:
    """Return a text in one line, without the targets of links and the signs of a block."""
    return _BLOCK.sub("", " ".join(_LINK.sub(r"\1", text).split()))


def words_of(name: str) -> str:
    """Return the words of an identifier."""
    return _HUMP.sub(" ", name).replace("_", " ").strip()


def read_page(path: str, source: str) -> Iterator[Text]:
    """Yield the paragraphs, list items, headings, table cells of a page, and comments in code."""
    lines: list[str] = []
    fences: list[bool] = []  # of each fence that is open, whether it holds code
    begin = 1
    for number, line in enumerate([*source.splitlines(), ""], 1):
        stripped = line.strip()
        fence = _FENCE.match(stripped)
        in_code = bool(fences) and fences[-1]
        row = stripped.startswith("|")
        aside = in_code or fence or row or not stripped or _NOT_PROSE.match(stripped)
        if lines and (aside or _BLOCK.match(stripped) or lines[0].startswith("#")):
            yield Text(path, begin, "page", clean(" ".join(lines)))
            lines = []
        if fence and (fence[2] or not fences):
            fences.append(not _DIRECTIVE.match(fence[2]))
        elif fence:
            fences.pop()
        elif in_code:
            if comment := _COMMENT.search(line):
                yield Text(path, number, "comment", clean(comment[1]))
        elif row:
            for cell in map(clean, re.split(r"(?<!\\)\|", stripped)):
                if _PROSE.search(cell):
                    yield Text(path, number, "page", cell)
        elif not aside:
            begin = begin if lines else number
            lines.append(stripped)


def read_code(path: str, source: str) -> Iterator[Text]:
    """Yield the docstrings, comments, messages and names of a Python file."""
    yield from _comments(path, source)
    speaks = path.startswith(SPEAKING)
    if speaks:
        yield Text(path, 1, "name", words_of(Path(path).stem))
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        name = _defined(node)
        if speaks and name:
            yield Text(path, vars(node)["lineno"], "name", words_of(name))
        elif name.startswith("test_"):
            words = words_of(name.removeprefix("test_"))
            yield Text(path, vars(node)["lineno"], "test name", words)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            for paragraph in filter(str.strip, _PARAGRAPH.split(_string(node.value))):
                yield Text(path, node.lineno, "docstring", clean(paragraph))
            continue
        if isinstance(node, (ast.Constant, ast.JoinedStr)):
            if _PROSE.search(text := clean(_string(node))):
                yield Text(path, node.lineno, "message", text)
            continue
        waiting += reversed([*(ast.iter_child_nodes(node) if speaks else _statements(node))])


def _defined(node: ast.AST) -> str:
    """Return the name that a node defines or assigns; the empty string if it does neither."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return node.name
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.attr
    return ""


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements of a block; faster than all expressions."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        yield from getattr(node, part, ())


def _string(node: ast.expr) -> str:
    """Return the text of a string, with dots for what is formatted into it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_string, node.values))
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "…"


def _comments(path: str, source: str) -> Iterator[Text]:
    """Yield comments; those in consecutive lines as one. (Also what looks like one in a string.)"""
    lines: list[str] = []
    begin = 0
    for number, line in enumerate([*source.splitlines(), ""], 1):
        found = _COMMENT.search(line) if "#" in line else None
        alone = found is not None and not line[: found.start()].strip()
        if lines and not alone:
            yield Text(path, begin, "comment", clean(" ".join(lines)))
            lines = []
        if found is None:
            continue
        if alone:
            if not lines:
                begin = number
            lines.append(found[1])
        else:
            yield Text(path, number, "comment", clean(found[1]))


def _files(root: Path, places: tuple[str, ...], suffix: str) -> Iterator[Path]:
    for place in places:
        path = root / place
        yield from sorted(path.rglob(f"*{suffix}")) if path.is_dir() else [path]


def read_all(root: Path = ROOT) -> Iterator[Text]:
    """Yield all text below a folder that is the project's."""
    for places, suffix, read in ((PAGES, ".md", read_page), (CODE, ".py", read_code)):
        for path in _files(root, places, suffix):
            name = path.relative_to(root).as_posix()
            if path.is_file() and "/_build/" not in name:
                yield from read(name, path.read_text(encoding="utf-8"))
