"""The official TypeScript client (`@modelcontextprotocol/sdk`) on Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

SOURCES = Path(__file__).parent / "typescript"
SDK = Path("node_modules", "@modelcontextprotocol", "sdk", "package.json")


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the client and its packages, which Node wants beside each other."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is not on the PATH, and these tests were asked for")
    given = os.environ.get("TRIO_MCP_SESSION_NODE_MODULES")
    directory = Path(given) if given else tmp_path_factory.mktemp("node")
    directory.mkdir(parents=True, exist_ok=True)
    for source in SOURCES.iterdir():
        shutil.copy(source, directory)
    wanted = json.loads((SOURCES / "package.json").read_text())["dependencies"]
    installed = directory / SDK
    if not installed.exists() or (
        json.loads(installed.read_text())["version"] != wanted["@modelcontextprotocol/sdk"]
    ):
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=directory, check=True)
    return directory


@pytest.fixture(scope="module")
def reports(installation: Path, server_command: list[str]) -> dict[str, dict[str, Any]]:
    """What the client said about each check; it runs them all, once."""
    command = ["node", "client.mjs", *server_command]
    client = subprocess.run(command, cwd=installation, stdout=subprocess.PIPE, check=False)
    reports = {report["check"]: report for report in map(json.loads, client.stdout.splitlines())}
    assert client.returncode == (0 if all(report["ok"] for report in reports.values()) else 1)
    return reports


def test_typescript_client(
    check: str, reports: dict[str, dict[str, Any]], figure: Callable[[str], None]
) -> None:
    report = reports[check]
    if text := report.get("figure"):
        figure(f"TypeScript: {text}")
    assert report["ok"], report["error"]


def test_typescript_matrix_is_complete(
    matrix: list[str], reports: dict[str, dict[str, Any]]
) -> None:
    assert list(reports) == matrix
