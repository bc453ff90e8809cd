"""What the documentation draws from the code: the state diagram, tables of settings, links.

Nothing here is stated twice: what the code says of itself is what the pages show.
"""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any, Final

import attrs
import trio_mcp_session
import trio_mcp_session.testing
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.ext.napoleon import GoogleDocstring
from trio_mcp_session.core import config, errors, metrics, reasons, state

from trio_mcp_session.core.construction import NoPublicConstructor

from . import diagram, read

PUBLIC: Final = {
    name: f"{module.__name__}.{name}"
    for module in (trio_mcp_session.testing, trio_mcp_session)
    for name, value in vars(module).items()
    if not name.startswith("_") and name != "annotations" and not isinstance(value, ModuleType)
}
"""The full name of each public one."""

NOT_CALLED: Final = {"MemoryChannel", "SessionStore", "Subscription", "RequestContext"}
"""Classes that the library makes objects of, and nobody else does."""

_kept: Final[dict[str, list[str]]] = {}

NAME: Final = re.compile(r"([A-Za-z]\w*)((?:\.\w+)*)(?:\(\))?")


class _Markdown(SphinxDirective):
    """A directive whose content is Markdown that is made from code."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(self.text())

    def text(self) -> str:
        raise NotImplementedError


class Settings(_Markdown):
    """All fields of a class of settings: name, default, meaning."""

    required_arguments = 1

    def text(self) -> str:
        owner = getattr(config, self.arguments[0])
        rows = [
            (f"`{owner.__name__}.{setting.name}`", f"`{setting.default}`", setting.meaning)
            for setting in read.settings(owner)
        ]
        return read.table(("Setting", "Default", "Meaning"), rows)


class Members(_Markdown):
    """All members of an enumeration, or all fields of a class: name, meaning."""

    required_arguments = 1

    def text(self) -> str:
        name = self.arguments[0]
        module = next(one for one in (reasons, state, metrics, config) if hasattr(one, name))
        meanings = read.meanings(getattr(module, name))
        rows = [(f"`{name}.{member}`", meaning) for member, meaning in meanings.items()]
        return read.table(("Name", "Meaning"), rows)


class ErrorTree(_Markdown):
    """The classes of errors, each below its base."""

    def text(self) -> str:
        return read.error_tree(vars(errors)[name] for name in vars(errors) if name in PUBLIC)


class StateDiagram(SphinxDirective):
    """The transition table, as a picture."""

    def run(self) -> list[nodes.Node]:
        states = [one.value for one in state.SessionState]
        moves = [(old.value, new.value) for old, news in state.TRANSITIONS.items() for new in news]
        return [nodes.raw("", diagram.svg(states, moves), format="html")]


class LinkNames(SphinxTransform):
    """Make references of code in Markdown that is a public name: `Session.drain`."""

    default_priority = 200

    def apply(self, **_: Any) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            text = literal.astext()
            match = NAME.fullmatch(text)
            if match is None or match[1] not in PUBLIC:
                continue
            if literal.get("classes") or isinstance(literal.parent, (nodes.reference, pending_xref)):
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


def find_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Find what annotations name by the module that defines it under its public name."""
    parts = node["reftarget"].split(".")
    at = next((number for number, part in enumerate(parts) if part in PUBLIC), None)
    if parts[0] != "trio_mcp_session" or at is None:
        return None
    head, rest = parts[at], parts[at + 1 :]
    target = ".".join((PUBLIC[head], *rest))
    if target == node["reftarget"]:
        return None
    domain = env.domains.python_domain
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", target, node, contnode
    )


def find_description(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Describe an exported value in the words of the place where it is defined."""
    short = name.rpartition(".")[2]
    if what != "data" or PUBLIC.get(short) != name:
        return
    for module, loaded in list(sys.modules.items()):
        if module.startswith("trio_mcp_session.") and getattr(loaded, "__file__", None):
            found = ModuleAnalyzer.for_module(module).find_attr_docs()
            lines[:] = found.get(("", short), lines)


def keep_description(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Save the description of a value from Napoleon, which takes words before a colon for a type."""
    if what in {"attribute", "data", "property"}:
        described = GoogleDocstring(list(lines), app.config, app, "function", name).lines()
        _kept[name] = described if what == "property" else list(lines)


def restore_description(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Take the saved description."""
    lines[:] = _kept.pop(name, lines)


def shorten_signatures(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None] | None:
    """Hide constructors that are nobody's business; say what ``with`` blocks get."""
    if what == "class":
        hidden = isinstance(obj, NoPublicConstructor) or obj.__name__ in NOT_CALLED
        if hidden:
            return "", None
        if attrs.has(obj) and signature is not None:
            return read.with_defaults(obj, signature), None
        return None
    manager = re.fullmatch(r"(?:Async)?Iterator\[(.*)\]", returns or "")
    if manager is not None and hasattr(obj, "__wrapped__"):
        return signature, manager[1]
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Add all of this to Sphinx."""
    app.add_directive("settings", Settings)
    app.add_directive("members", Members)
    app.add_directive("error-tree", ErrorTree)
    app.add_directive("state-diagram", StateDiagram)
    app.add_transform(LinkNames)
    app.connect("autodoc-process-docstring", find_description, priority=100)
    app.connect("autodoc-process-docstring", keep_description, priority=200)
    app.connect("autodoc-process-docstring", restore_description, priority=900)
    app.connect("autodoc-process-signature", shorten_signatures)
    app.connect("missing-reference", find_public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
