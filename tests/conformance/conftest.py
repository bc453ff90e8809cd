"""The official conformance suite against a server of ours, and an application of theirs on it.

Run by `nox -s conformance`, or `pytest tests/conformance`. Needs npm.

Environment:

`TRIO_MCP_SESSION_NODE_MODULES`
    Directory that keeps the suite between runs.
`TRIO_MCP_SESSION_CONFORMANCE_URL`
    Another server to run the suite against, to tell its faults from ours.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.running import LEGS, Leg, Run, Suite

FIGURES: pytest.StashKey[list[str]] = pytest.StashKey()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of a `leg` on each, and one of a `scenario` on each that the leg has."""
    if "scenario" in metafunc.fixturenames:
        pairs = [(leg, scenario) for leg in LEGS for scenario in leg.expected.scenarios]
        metafunc.parametrize("leg, scenario", pairs, ids=str)
    elif "leg" in metafunc.fixturenames:
        metafunc.parametrize("leg", LEGS, ids=str)


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The suite, installed."""
    given = os.environ.get("TRIO_MCP_SESSION_NODE_MODULES")
    suite = Suite(Path(given) if given else tmp_path_factory.mktemp("node"))
    suite.install()
    return suite


@pytest.fixture(scope="session")
def run_once(
    suite: Suite, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Leg], Run | Exception]:
    """Give what comes of a leg. It is run once, also when that goes wrong."""
    figures = request.config.stash.setdefault(FIGURES, [])

    @functools.cache
    def run(leg: Leg) -> Run | Exception:
        try:
            came = suite.run(leg, tmp_path_factory.mktemp(str(leg)))
        except Exception as error:
            return error
        figures.append(came.figures)
        return came

    return run


@pytest.fixture
def run(leg: Leg, run_once: Callable[[Leg], Run | Exception]) -> Run:
    """What came of the test's leg."""
    came = run_once(leg)
    if isinstance(came, Exception):
        raise came
    return came


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print how far the server has come."""
    if figures := config.stash.get(FIGURES, []):
        terminalreporter.section("conformance")
        for line in figures:
            terminalreporter.write_line(line)
