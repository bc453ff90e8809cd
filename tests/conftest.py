"""Settings for the whole suite: hypothesis, reports between processes, interrupts."""

from __future__ import annotations

import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# The same examples every time, on every machine, however slow. pytest-trio makes the fixtures of
# an async test anew for each test, not for each example; tests that use them know.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# To look for cases that no test names: `pytest --hypothesis-profile=search`.
settings.register_profile(
    "search", settings.get_profile("suite"), derandomize=False, max_examples=5_000
)
settings.load_profile("suite")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what cannot be encoded: pytest-xdist sends reports to its main process as UTF-8."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode())
        for title, text in report.sections
    ]
    return report


def pytest_configure() -> None:
    """Handle what background jobs and ``nohup`` ignore, because tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
