"""Environments of the clients.

`TRIO_MCP_SESSION_CLIENTS` is the directory that keeps the environments in Python between runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory that keeps the environments."""
    given = os.environ.get("TRIO_MCP_SESSION_CLIENTS")
    return Path(given) if given else tmp_path_factory.mktemp("clients")
