"""The example of a test suite, run as its users run it: by pytest, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import trio_mcp_session
from tests.examples.test_examples import EXAMPLES, HANG_GUARD


def test_the_example_of_a_test_suite_passes(tmp_path: Path) -> None:
    package = str(Path(trio_mcp_session.__file__).parents[1])
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "tested")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=HANG_GUARD,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    # Ten tests, each with four clients.
    assert "40 passed" in finished.stdout
