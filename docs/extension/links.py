"""Links to the reference: from names in Markdown, and from annotations."""

from __future__ import annotations

import re
from typing import Any, Final

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

from .public import PUBLIC

NAME: Final = re.compile(r"([A-Za-z]\w*)((?:\.\w+)*)(?:\(\))?")


class LinkNames(SphinxTransform):
    """Make references of code in Markdown that is a public name: `Session.drain`."""

    default_priority = 200

    def apply(self, **_: Any) -> None:
        """Look at all code within text."""
        for literal in list(self.document.findall(nodes.literal)):
            match = NAME.fullmatch(literal.astext())
            linked = isinstance(literal.parent, (nodes.reference, pending_xref))
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


def find_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Find what annotations name by the module that defines it under its public name."""
    parts = node["reftarget"].split(".")
    at = next((number for number, part in enumerate(parts) if part in PUBLIC), None)
    if parts[0] != "trio_mcp_session" or at is None:
        return None
    target = ".".join((PUBLIC[parts[at]], *parts[at + 1 :]))
    if target == node["reftarget"]:
        return None
    return env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", target, node, content
    )
