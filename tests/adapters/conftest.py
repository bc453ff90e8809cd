"""Applications of the official SDK and FastMCP: run where these are installed (`nox -s sdk`)."""

from __future__ import annotations

from itertools import product

import pytest

from tests.adapters.installed import HAS_FASTMCP

collect_ignore_glob = [] if HAS_FASTMCP else ["test_fastmcp*.py"]
CATEGORIES = ("UserWarning", "DeprecationWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore their warnings: they deprecate what the modern revision removed."""
    ours = [item for item in items if "adapters" in item.path.parts]
    for item, category in product(ours, CATEGORIES):
        item.add_marker(pytest.mark.filterwarnings(f"ignore::{category}"))
