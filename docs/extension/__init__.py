"""What the documentation draws from the code: the state diagram, tables of settings, links.

Nothing here is stated twice: what the code says of itself is what the pages show.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from . import descriptions, directives, links


def setup(app: Sphinx) -> dict[str, Any]:
    """Add all of this to Sphinx."""
    app.add_directive("settings", directives.Settings)
    app.add_directive("members", directives.Members)
    app.add_directive("error-tree", directives.ErrorTree)
    app.add_directive("error-numbers", directives.ErrorNumbers)
    app.add_directive("state-diagram", directives.StateDiagram)
    app.add_transform(links.LinkNames)
    app.connect("missing-reference", links.find_public_name)
    app.connect("autodoc-process-docstring", descriptions.find_description, priority=100)
    app.connect("autodoc-process-docstring", descriptions.keep_description, priority=200)
    app.connect("autodoc-process-docstring", descriptions.restore_description, priority=900)
    app.connect("autodoc-process-signature", descriptions.shorten_signatures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
