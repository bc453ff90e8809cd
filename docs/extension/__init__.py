"""Links in the documentation: from names in the text to the pages of the reference."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from .links import LinkNames, NoteNames


def setup(app: Sphinx) -> dict[str, Any]:
    """Add them to Sphinx."""
    app.add_transform(LinkNames)
    app.add_transform(NoteNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
