"""The whole of a requirement set, scenario by scenario."""

from __future__ import annotations

import re

from tests.conformance.judging import not_scored
from tests.conformance.running import Leg, Run


def test_scenario(leg: Leg, scenario: str, run: Run) -> None:
    complaints = leg.complaints(scenario, run.results.get(scenario))
    assert not complaints, "\n".join(complaints)


def test_nothing_else_was_judged(leg: Leg, run: Run) -> None:
    expected = leg.expected
    assert set(run.results) == set(expected.scenarios)
    assert not_scored(run.output) == {*expected.not_scored, *expected.skipped}


def test_the_suite_is_content(leg: Leg, run: Run) -> None:
    assert run.status == 0, run.output


def test_the_server_ended_well(leg: Leg, run: Run) -> None:
    assert run.server_status == 0, run.server_errors
    # The suite sends requests that have to be refused: each kind leaves a record.
    known = r"HTTP 4\d\d for (GET|POST|DELETE) "
    if leg.application == "sdk":  # It records each failure that is asked for.
        known += "|Tool '(test_error_handling|failing_job)' failed: "
        known += "|Resource 'test://nonexistent-resource-for-conformance-testing' failed: "
    assert [one for one in run.server_errors.splitlines() if not re.match(known, one)] == []
