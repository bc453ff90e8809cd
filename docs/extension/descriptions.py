"""How autodoc describes values and shows signatures."""

# ruff: noqa: ARG001 - Sphinx calls with all of these arguments

from __future__ import annotations

import re
import sys
from typing import Any, Final

import attrs
from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

from trio_mcp_session.core.construction import NoPublicConstructor

from . import read
from .public import PUBLIC

NOT_CALLED: Final = {"MemoryChannel", "RequestContext", "SessionStore", "Subscription"}
"""Classes that the library makes objects of, and nobody else does."""

_kept: Final[dict[str, list[str]]] = {}


def find_description(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Describe an exported value in the words of the place where it is defined."""
    short = name.rpartition(".")[2]
    if what != "data" or PUBLIC.get(short) != name:
        return
    for module in [one for one in sys.modules if one.startswith("trio_mcp_session.")]:
        found = ModuleAnalyzer.for_module(module).find_attr_docs()
        lines[:] = found.get(("", short), lines)


def keep_description(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Save a value's description from Napoleon, which takes words before a colon for a type."""
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
        if isinstance(obj, NoPublicConstructor) or obj.__name__ in NOT_CALLED:
            return "", None
        if attrs.has(obj) and signature is not None:
            return read.with_defaults(obj, signature), None
        return None
    block = re.fullmatch(r"[~\w.]*Iterator\[(.*)\]", returns or "")
    if block is not None and hasattr(obj, "__wrapped__"):
        return signature, block[1]
    return None
