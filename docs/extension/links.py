"""Links from names in Markdown, such as `Session.drain`, to the reference."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

from docutils import nodes
from generator.public import MODULES, PUBLIC, exported
from sphinx.addnodes import pending_xref
from sphinx.transforms import SphinxTransform

NAME: Final = re.compile(r"([A-Za-z]\w*)((?:\.\w+)*)(?:\(\))?")
VALUES: Final = {name: value for module in MODULES for name, value in exported(module).items()}


class NoteNames(SphinxTransform):
    """Tell Sphinx where the reference describes each name: its headings and tables do."""

    default_priority = 190

    def apply(self, **_: Any) -> None:
        """Look at the headings of a page of the reference, and at the tables below them."""
        if not self.env.docname.startswith("reference/"):
            return
        for section in self.document.findall(nodes.section):
            title = section[0]
            if len(title) != 1 or not isinstance(title[0], nodes.literal):
                continue
            name = title.astext()
            self._note(name, section["ids"][0])
            for cell in list(_first_cells(section)):
                anchor = nodes.make_id(f"{name}.{cell.astext()}")
                cell["ids"].append(anchor)
                self._note(f"{name}.{cell.astext()}", anchor)

    def _note(self, name: str, anchor: str) -> None:
        owner, _, member = name.partition(".")
        domain = self.env.domains.python_domain
        domain.note_object(PUBLIC[owner] + name[len(owner) :], _kind(owner, member), anchor)


class LinkNames(SphinxTransform):
    """Make references of code in Markdown that is a public name."""

    default_priority = 200

    def apply(self, **_: Any) -> None:
        """Look at all code within text."""
        for literal in list(self.document.findall(nodes.literal)):
            match = NAME.fullmatch(literal.astext())
            linked = isinstance(literal.parent, (nodes.reference, nodes.title, pending_xref))
            if match is None or match[1] not in PUBLIC or literal.get("classes") or linked:
                continue
            reference = pending_xref(
                "",
                refdomain="py",
                reftype="obj",
                reftarget=PUBLIC[match[1]] + match[2],
                refdoc=self.env.docname,
                refexplicit=True,
                refwarn=True,
            )
            literal.replace_self(reference)
            reference += literal


def _first_cells(section: nodes.section) -> Iterator[nodes.literal]:
    """Find the names in the tables of a class; those of its methods have sections of their own."""
    for table in section.children:
        if isinstance(table, nodes.table):
            for row in table.findall(nodes.row):
                yield from (one for one in row[0].findall(nodes.literal))


def _kind(owner: str, member: str) -> str:
    value = VALUES[owner]
    if member:
        return (
            "method" if inspect.isroutine(inspect.getattr_static(value, member, 0)) else "attribute"
        )
    if inspect.isclass(value):
        return "exception" if issubclass(value, BaseException) else "class"
    return "function" if inspect.isfunction(value) else "data"
