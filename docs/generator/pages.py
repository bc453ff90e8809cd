"""The pages and the parts of pages that are made from the code."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import trio_mcp_session
from trio_mcp_session.core import errors
from trio_mcp_session.protocol import error_codes, revisions

from . import diagram, site, source
from .markdown import code, from_docstring, inline, on_one_line, summary, table
from .public import AREAS, PUBLIC, Area, check_areas, exported

COMMAND: Final = "python docs/generate.py"
NOTE: Final = f"<!-- Made from the code by `{COMMAND}`: change the docstrings, not this file. -->"
BLOCK: Final = re.compile(r"(<!-- generated: ([\w ./-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

BESIDE: Final = ("README.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
"""Pages beside the documentation that have such parts."""
ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
SUMMARY: Final = (
    "A Python library for MCP servers on Trio that hold something for their clients. Sessions and "
    "state handles own browsers, connections, shells and running work, and close them when they "
    "end. One set of handlers serves clients of all revisions, 2024-11-05 to 2026-07-28."
)


def generate(docs: Path) -> dict[Path, str]:
    """Return the text that each file with generated parts should have."""
    check_areas()
    made = {docs / "reference" / f"{area.file}.md": _reference(area) for area in AREAS}
    made[docs / "reference.md"] = _index()
    made[docs / "states.svg"] = _states() + "\n"
    for page in [*sorted(docs.glob("*.md")), *(docs.parent / name for name in BESIDE)]:
        if not page.exists():  # a copy of the pages alone
            continue
        text = page.read_text(encoding="utf-8")
        if page not in made and BLOCK.search(text):

            def replaced(match: re.Match[str], page: Path = page) -> str:
                return f"{match[1]}{block(match[2], page, docs)}\n{match[3]}"

            made[page] = BLOCK.sub(replaced, text)
    made[docs / "llms.txt"] = site.llms_txt(docs, SUMMARY, _address("DOCUMENTATION"))
    return made


def block(what: str, page: Path = DOCS / "index.md", docs: Path = DOCS) -> str:
    """Return a part of a page.

    Args:
        page: The page.
        docs: The folder of the pages.
        what: What stands in its marker: ``settings CLASS``, ``members CLASS``, ``states``,
            ``error-tree``, ``error-numbers``, ``file NAME``, ``contact ADDRESS``, ``features``,
            ``toctrees``, ``pages``, or ``next``.
    """
    match what.split():
        case ["settings", name]:
            rows = [
                (code(one.name), code(one.default), on_one_line(one.doc))
                for one in source.settings(getattr(trio_mcp_session, name))
            ]
            return table(("Setting", "Default", "Meaning"), rows)
        case ["members", name]:
            found = source.meanings(getattr(trio_mcp_session, name))
            return table(("Name", "Meaning"), [(code(k), on_one_line(v)) for k, v in found.items()])
        case ["error-tree"]:
            return "\n".join(_error_tree(Exception, ""))
        case ["error-numbers"]:
            numbers = source.meanings(error_codes).items()
            return table(
                ("Number", "Name", "Meaning"),
                [
                    (f"\N{MINUS SIGN}{-getattr(error_codes, name)}", code(name), on_one_line(text))
                    for name, text in numbers
                ],
            )
        case ["features"]:
            return _features()
        case ["states"]:
            moves = ", ".join(f"{old} to {new}" for old, new in _moves())
            return f"![The states of a session: {moves}](states.svg)"
        case words:
            return _block_of_site(words, page, docs)


def _block_of_site(words: list[str], page: Path, docs: Path) -> str:
    """Return a part that comes from files and from the order of the pages."""
    match words:
        case ["file", name]:
            text = (Path(__file__).parents[1] / name).read_text(encoding="utf-8")
            return f"```python\n{text}```"
        case ["contact", name]:
            return _contact(_address(name))
        case ["toctrees"]:
            return site.toctrees(docs)
        case ["pages"]:
            return table(("Part", "Pages"), site.table_of_pages(docs))
        case ["next"]:
            return site.next_page(docs, page.stem)
        case _:
            what = " ".join(words)
            raise ValueError(f"unknown generated part {what!r}: see docs/generator/pages.py")


def _features() -> str:
    known = (*revisions.HANDSHAKE_REVISIONS.values(), *revisions.STATELESS_REVISIONS.values())
    rows = [
        (on_one_line(text), *("yes" if getattr(one, name) else "no" for one in known))
        for name, text in source.meanings(revisions.Revision).items()
        if name != "version"
    ]
    return table(("Feature", *(one.version for one in known)), rows)


def _address(name: str) -> str:
    found: str = runpy.run_path(str(ROOT / "release" / "addresses.py"))[name]
    return found


def _contact(address: str) -> str:
    if not address:
        return "The address is not known yet: it will stand here before the first release."
    if address.startswith("https://"):
        return f"Report it at <{address}>."
    return f"Write to <{address}>."


def _index() -> str:
    lines = [
        "# Reference",
        "",
        NOTE,
        "",
        "Import the names from `trio_mcp_session`, and those for tests from",
        "`trio_mcp_session.testing`.",
        "Each description says whether a call is a checkpoint,",
        "and what the call does when it is cancelled.",
        "",
        "How signatures are written:",
        "",
        "- `await f() -> T`: an async function; `await` gives a `T`.",
        "- `async with f() as T` and `with f() as T`: a context manager; the block gets a `T`.",
        "- `f() -> T`: a synchronous function. It is not a checkpoint.",
    ]
    for area in AREAS:
        lines += ["", f"## [{area.title}](reference/{area.file}.md)", ""]
        names = exported(area.module)
        for name in area.names.split():
            text = summary(source.describe(name, names[name]).doc)
            lines.append(f"- [`{name}`](reference/{area.file}.md#{name.lower()}): {text}")
    pages = [f"reference/{area.file}" for area in AREAS]
    lines += ["", "```{toctree}", ":hidden:", "", *pages, "```", ""]
    return "\n".join(lines)


def _reference(area: Area) -> str:
    names = exported(area.module)
    lines = [f"# {area.title}", "", NOTE, "", f"Import these from `{area.module.__name__}`."]
    for name in area.names.split():
        lines += _entry(source.describe(name, names[name]))
    return "\n".join(lines) + "\n"


def _entry(one: source.Described) -> Iterator[str]:
    yield from ("", f"## `{one.name}`")
    yield from _signature(one.signatures)
    if one.bases:
        bases = ", ".join(f"`{base}`" for base in one.bases)
        yield from ("", f"A subclass of {bases}.")
    yield from_docstring(one.doc)
    if one.fields:
        yield from ("", _fields(one.fields))
    for method in one.methods:
        yield from ("", f"### `{one.name}.{method.name}`")
        yield from _signature(method.signatures)
        yield from_docstring(method.doc)


def _signature(signatures: list[str]) -> list[str]:
    return ["", "```python", *signatures, "```"] if signatures else []


def _fields(fields: list[source.Field]) -> str:
    head, columns = ["Name"], [[code(one.name) for one in fields]]
    if any(one.type for one in fields):
        head.append("Type")
        columns.append([code(one.type) for one in fields])
    if any(one.default for one in fields):
        head.append("Default")
        columns.append([code(one.default) for one in fields])
    head.append("Meaning")
    columns.append([on_one_line(one.doc) for one in fields])
    return table(head, zip(*columns, strict=True))


def _error_tree(base: type[Any], indent: str) -> Iterator[str]:
    for name, value in vars(errors).items():
        if name in PUBLIC and getattr(value, "__base__", None) is base:
            text = inline(summary(value.__doc__ or ""))
            yield f"{indent}- `{name}`: {text}"
            yield from _error_tree(value, f"{indent}  ")


def _moves() -> list[tuple[str, str]]:
    table_ = trio_mcp_session.TRANSITIONS
    return [
        (old.value, new.value)
        for old in trio_mcp_session.SessionState
        for new in trio_mcp_session.SessionState
        if new in table_[old]
    ]


def _states() -> str:
    return diagram.svg([state.value for state in trio_mcp_session.SessionState], _moves())
