"""Applications of the official SDK and FastMCP: run where these are installed (`nox -s sdk`)."""

from __future__ import annotations

import pytest

from tests.adapters.installed import HAS_FASTMCP, HAS_MCP

collect_ignore_glob = [] if HAS_MCP else ["test_*.py", "contract/test_*.py"]
if not HAS_FASTMCP:
    collect_ignore_glob.append("test_fastmcp*.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore their warnings: they deprecate what the modern revision removed."""
    for item in items:
        if "tests/adapters" in str(item.path):
            for category in ("UserWarning", "DeprecationWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{category}"))
