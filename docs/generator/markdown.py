"""Turns Google-style docstrings into Markdown that can be read as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

SECTIONS: Final = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Raises": "Raises",
    "Returns": "Returns",
    "Yields": "Yields",
    "Note": "Note",
    "Example": "Example",
}


def from_docstring(doc: str) -> str:
    """Return a docstring as Markdown: one sentence a line, sections as lists."""
    return "\n".join(_blocks(doc.splitlines()))


def on_one_line(doc: str) -> str:
    """Return a docstring without sections as one line, for a cell of a table."""
    return inline(" ".join(doc.split())).replace("|", r"\|")


def summary(doc: str) -> str:
    """Return the first paragraph of a docstring, as one line."""
    return inline(" ".join(doc.partition("\n\n")[0].split())).removesuffix("::")


def inline(text: str) -> str:
    """Return text with the code marks of reStructuredText as Markdown has them."""
    return re.sub(r"``(.+?)``", r"`\1`", text)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table."""
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    """Return a text as inline code, for a cell of a table."""
    return f"`{text}`".replace("|", r"\|") if text else ""


def _blocks(lines: list[str]) -> Iterator[str]:
    number = 0
    paragraph: list[str] = []
    while number < len(lines):
        line = lines[number]
        number += 1
        section = SECTIONS.get(line[:-1]) if line.endswith(":") else None
        listed = bool(paragraph) and paragraph[0].startswith("- ")
        if section is None and line.strip() and (listed or not line.startswith(" ")):
            paragraph.append(line)
            continue
        yield from _paragraph(paragraph)
        literal = bool(paragraph) and paragraph[-1].endswith("::")
        paragraph = []
        if section is None and not line.strip():
            if literal:
                block, number = _indented(lines, number)
                yield from ("", "```python", *block, "```")
            continue
        if section is None:
            raise ValueError(f"indented text outside of a section or a code block: {line!r}")
        body, number = _indented(lines, number)
        yield from ("", f"**{section}**", "")
        yield from _items(body) if section in {"Arguments", "Raises"} else _sentences(body)
    yield from _paragraph(paragraph)


def _indented(lines: list[str], number: int) -> tuple[list[str], int]:
    body = []
    while number < len(lines) and (not lines[number].strip() or lines[number].startswith(" ")):
        body.append(lines[number])
        number += 1
    while body and not body[-1].strip():
        body.pop()
    while body and not body[0].strip():
        body.pop(0)
    indent = min((len(one) - len(one.lstrip()) for one in body if one.strip()), default=0)
    return [one[indent:] for one in body], number


def _paragraph(lines: list[str]) -> Iterator[str]:
    if not lines or lines == ["::"]:
        return
    yield ""
    if lines[0].startswith("- "):
        item = ""
        for line in lines:
            if line.startswith("- ") and item:
                yield inline(item)
                item = ""
            item = f"{item} {line.strip()}".strip()
        yield inline(item)
        return
    yield from _sentences(lines)


def _sentences(lines: list[str]) -> Iterator[str]:
    text = inline(" ".join(" ".join(lines).split()))
    text = f"{text[:-2]}:" if text.endswith("::") else text
    yield from re.split(r"(?<=[.!?]) (?=[A-Z`*])", text)


def _items(lines: list[str]) -> Iterator[str]:
    item = ""
    for line in lines:
        if item and line and not line.startswith(" "):
            yield _item(item)
            item = ""
        item = f"{item} {line.strip()}".strip()
    if item:
        yield _item(item)


def _item(text: str) -> str:
    name, _, rest = text.partition(":")
    return f"- `{name.strip('`')}`: {inline(rest.strip())}"
