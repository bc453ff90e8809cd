"""Configuration of Sphinx."""

from __future__ import annotations

import importlib.metadata
import logging
import sys
from pathlib import Path

# What draws the state diagram and the tables of settings from the code.
sys.path.append(str(Path(__file__).parent))

project = "trio_mcp_session"
author = "the trio_mcp_session contributors"
project_copyright = f"2026, {author}"
release = importlib.metadata.version("trio-mcp-session")
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
    "extension",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# sphinxcontrib_trio extends these classes: they write ``await`` and ``async with`` before methods.
autodoc_use_legacy_class_based = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Backticks around a name are a reference where there is something of that name.
default_role = "obj"

doctest_global_setup = """
import trio
import trio_mcp_session
"""

intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "trio": ("https://trio.readthedocs.io/en/stable", None),
    "attrs": ("https://www.attrs.org/en/stable", None),
}
intersphinx_timeout = 5


def not_about_the_network(record: logging.LogRecord) -> bool:
    """Let everything pass but the warning about an inventory that can't be fetched."""
    return "failed to reach any of the inventories" not in record.getMessage()


# Names of other projects resolve when their inventories can be fetched. Without a network the
# build has to succeed as well, so these names are never an error; our own always are.
logging.getLogger("sphinx.sphinx.ext.intersphinx").addFilter(not_about_the_network)
nitpicky = True
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(attrs?|builtins|collections|contextlib|datetime|email|http|msgspec|os|trio|typing)(\..*)?",
    ),
    # names in signatures that are explained where they are used
    (
        r"py:class",
        r"([\w.]+\.)?(Config|HandlerT|ChannelT|T[123]?|\w+Hook|PrincipalOf|Params|RequestId|UnsetType|Envelope|RequestOwner|AbstractAsyncContextManager)",
    ),
    # plain backticks also mark code that is no name; those in these pages that look like one of
    # our public names have to be one
    (r"py:obj", r"(?!trio_mcp_session\.).*"),
]
