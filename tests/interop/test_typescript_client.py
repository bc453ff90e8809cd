"""The official TypeScript client (`@modelcontextprotocol/sdk`) on Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.interop.cells import MATRIX, cells_of, checks_of
from tests.interop.node import install

pytestmark = pytest.mark.interop

CLIENT = "typescript"
SOURCES = Path(__file__).parent / "typescript"


class Run:
    """The client on its way through all the checks with one server."""

    def __init__(self, folder: Path, server: str, server_command: list[str]) -> None:
        command = ["node", "client.mjs", server, *server_command]
        self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        self.reports: dict[str, Mapping[str, Any]] = {}

    def report(self, check: str) -> Mapping[str, Any]:
        """Return what it says about a check, as soon as it does."""
        while check not in self.reports:
            line = self._lines.readline()
            assert line, f"there is no check {check}"
            self._note(line)
        return self.reports[check]

    def finish(self) -> None:
        """Wait until it has made all checks."""
        if not self._lines.closed:
            with self._process:
                for line in self._lines:
                    self._note(line)
        failed = not all(report["ok"] for report in self.reports.values())
        assert self._process.returncode == failed

    def _note(self, line: str) -> None:
        report = json.loads(line)
        self.reports[report["check"]] = report


@pytest.fixture(scope="module")
def run(node_modules: Path, server_command: list[str]) -> Iterator[Callable[[str], Run]]:
    """Let the client make all checks with a server, once."""
    folder = install(SOURCES / "package.json", node_modules)
    # Node wants the packages beside the program.
    for source in SOURCES.glob("*.mjs"):
        shutil.copy(source, folder)
    runs: dict[str, Run] = {}

    def run(server: str) -> Run:
        if server not in runs:
            runs[server] = Run(folder, server, server_command)
        return runs[server]

    yield run
    for started in runs.values():
        started.finish()


@pytest.mark.parametrize("client, server, check", cells_of(CLIENT))
def test_typescript_client(
    client: str,
    server: str,
    check: str,
    run: Callable[[str], Run],
    figure: Callable[[str], None],
) -> None:
    report = run(server).report(check)
    if text := report.get("figure"):
        figure(f"{client}, {server}: {text}")
    assert report["ok"], report["error"]


@pytest.mark.parametrize("server", MATRIX["clients"][CLIENT])
def test_typescript_checks_are_the_matrix(server: str, run: Callable[[str], Run]) -> None:
    made = run(server)
    made.finish()
    assert list(made.reports) == checks_of(server)
