"""Configuration of Sphinx."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

# Where `extension` and `generator` lie.
sys.path.append(str(Path(__file__).parent))

project = "trio_mcp_session"
author = "the trio_mcp_session contributors"
project_copyright = f"2026, {author}"
release = importlib.metadata.version("trio-mcp-session")
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "sphinx.ext.doctest",
    "extension",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
# For programs that read the site: https://llmstxt.org
html_extra_path = ["llms.txt"]

# Alerts: `> [!WARNING]`, which code hosts show, too.
myst_enable_extensions = ["alert", "colon_fence", "deflist"]
myst_heading_anchors = 3

doctest_global_setup = """
import trio
import trio_mcp_session
"""

nitpicky = True
