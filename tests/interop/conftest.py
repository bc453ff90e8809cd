"""Interoperability with clients that this project did not write.

Run by `nox -s interop`, or `pytest tests/interop`.

Environment:

`TRIO_MCP_SESSION_INTEROP_SERVER`
    Command line of another server to run the clients against, to tell their faults from ours. It
    takes the options of server/__main__.py.
`TRIO_MCP_SESSION_CLIENTS`
    Directory that keeps the environments of other Python packages between runs.
`TRIO_MCP_SESSION_NODE_MODULES`
    Directory that keeps the TypeScript clients, the Inspector and their packages between runs.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from tests.interop.typescript_runs import ANY_TYPESCRIPT, Leg, Runs, running

HERE = Path(__file__).parent
FIGURES: pytest.StashKey[list[str]] = pytest.StashKey()


@pytest.fixture(scope="session")
def server_command() -> list[str]:
    """Command line of the server that the clients start."""
    if command := os.environ.get("TRIO_MCP_SESSION_INTEROP_SERVER"):
        return shlex.split(command)
    return [sys.executable, str(HERE / "server")]


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory that keeps what comes from npm."""
    given = os.environ.get("TRIO_MCP_SESSION_NODE_MODULES")
    return Path(given) if given else tmp_path_factory.mktemp("node")


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory that keeps the environments of other Python packages."""
    given = os.environ.get("TRIO_MCP_SESSION_CLIENTS")
    return Path(given) if given else tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="session", autouse=True)
def typescript_runs(
    request: pytest.FixtureRequest, node_modules: Path, server_command: list[str]
) -> Iterator[Runs]:
    """What TypeScript clients do while the other tests run: only what is asked for."""
    wanted: dict[Leg, list[str]] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.path.name == "test_typescript_client.py":
            cell = cast("Mapping[str, str]", item.callspec.params)
            checks = wanted.setdefault((cell.get("client", ANY_TYPESCRIPT), cell["server"]), [])
            checks += [cell["check"]] if "check" in cell else []
    with running(wanted, node_modules, server_command) as runs:
        yield runs


@pytest.fixture(scope="session")
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Record a measured figure for the end of the report."""
    return request.config.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the figures that were measured."""
    if figures := config.stash.get(FIGURES, []):
        terminalreporter.section("interop figures")
        for line in figures:
            terminalreporter.write_line(line)
