"""`python -m trio_mcp_session demo`, as a new user runs it: real clients, real pipes, real time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.interop


def test_the_demo_without_a_terminal() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(
        [sys.executable, "-m", "trio_mcp_session", "demo"],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=180,
    )
    told = result.stdout
    assert result.stderr == ""
    assert result.returncode == 0, told
    assert "\x1b" not in told
    for ending in (
        "shutdown            3   ada, gus, hal",
        "client closed       2   cleo, fay",
        "crashed             1   dave",
        "evicted             1   eve",
        "idle                1   ben",
        "The drain: 2 completed, 1 cancelled, 0 failed, 0 overran.",
    ):
        assert ending in told
    assert told.count("✓ 0 ") == 5
