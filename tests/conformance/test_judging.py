"""The judge itself: what the suite lets pass, it must not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.judging import Check, Expected, not_scored, read_checks, read_results
from tests.conformance.running import EXPECTED

LIST = """
[required]
ping = ["ping", "wire"]
headers = ["refused", "accepted", "refused"]

[not-scored]
polling = ["resumed"]

[skipped]
tasks = ["pushed"]

[json-answers]
ping = { wire = "INFO" }

[records]
polling = ["request"]
"""
OUTPUT = """
✓ ping: 2 passed, 0 failed
✗ polling: 0 passed, 1 failed

Total: 2 passed, 1 failed

Not scored for 2025-11-25: 2 scenario(s) run, 1 failing. These do not affect conformance.
  ✓ tasks (added-after-release)
  ✗ polling (pending)
"""


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    path = tmp_path / "expected.toml"
    path.write_text(LIST, "utf-8")
    return Expected.read(path)


def checks(**statuses: str) -> list[Check]:
    return [Check(name, status) for name, status in statuses.items()]


def leave(folder: Path, name: str, found: list[dict[str, str]] | None) -> None:
    path = folder / name
    path.mkdir()
    if found is not None:
        (path / "checks.json").write_text(json.dumps(found), "utf-8")


def test_all_is_well(expected: Expected) -> None:
    assert expected.complaints("ping", checks(wire="SUCCESS", ping="SUCCESS")) == []


@pytest.mark.parametrize("status", ["FAILURE", "WARNING", "SKIPPED", "INFO"])
def test_anything_but_success(expected: Expected, status: str) -> None:
    found = [Check("ping", status, "no pong"), Check("wire", "SUCCESS")]
    assert expected.complaints("ping", found) == [f"ping: {status}, not SUCCESS\n    no pong"]


def test_a_missing_check(expected: Expected) -> None:
    assert expected.complaints("ping", checks(ping="SUCCESS")) == ["wire: missing, not SUCCESS"]
    assert len(expected.complaints("ping", [])) == 2


def test_a_scenario_that_crashed(expected: Expected) -> None:
    (complaint,) = expected.complaints("ping", None)
    assert "no result" in complaint


@pytest.mark.parametrize("status", ["SUCCESS", "INFO"])
def test_an_unknown_conformance_check_is_a_complaint(expected: Expected, status: str) -> None:
    found = checks(ping="SUCCESS", wire="SUCCESS", new=status)
    assert expected.complaints("ping", found) == [f"new: {status}, not on the list"]


def test_a_check_that_is_made_repeatedly(expected: Expected) -> None:
    refused, accepted = Check("refused", "SUCCESS"), Check("accepted", "SUCCESS")
    assert expected.complaints("headers", [accepted, refused, refused]) == []
    assert expected.complaints("headers", [accepted, refused]) == [
        "refused: SUCCESS, not SUCCESS, SUCCESS"
    ]
    assert expected.complaints("headers", [accepted, refused, Check("refused", "WARNING")]) == [
        "refused: SUCCESS, WARNING, not SUCCESS, SUCCESS"
    ]
    assert len(expected.complaints("headers", [accepted, refused, refused, refused])) == 1


def test_json_answers_have_a_list_of_their_own(expected: Expected) -> None:
    noted, succeeded = checks(ping="SUCCESS", wire="INFO"), checks(ping="SUCCESS", wire="SUCCESS")
    assert expected.complaints("ping", noted, json_answers=True) == []
    assert expected.complaints("ping", succeeded, json_answers=True) == ["wire: SUCCESS, not INFO"]
    assert expected.complaints("ping", noted) == ["wire: INFO, not SUCCESS"]


def test_records_do_not_count_as_checks_unless_they_fail(expected: Expected) -> None:
    record, resumed = Check("request", "INFO"), Check("resumed", "SUCCESS")
    assert expected.complaints("polling", [record, resumed, record]) == []
    failed = Check("request", "FAILURE", "refused")
    assert expected.complaints("polling", [record, failed, resumed]) == [
        "request: FAILURE, not on the list\n    refused"
    ]


def test_what_the_suite_skips_must_be_skipped(expected: Expected) -> None:
    assert expected.complaints("tasks", checks(pushed="SKIPPED")) == []
    assert expected.complaints("tasks", checks(pushed="SUCCESS")) == [
        "pushed: SUCCESS, not SKIPPED"
    ]
    assert expected.complaints("tasks", []) == ["pushed: missing, not SKIPPED"]
    assert len(expected.complaints("tasks", None)) == 1


def test_results_of_a_run(tmp_path: Path) -> None:
    leave(
        tmp_path,
        "server-server-sse-polling-2026-11-22T19-10-19-163Z",
        [{"id": "a", "status": "SUCCESS"}, {"id": "b", "status": "FAILURE", "errorMessage": "!"}],
    )
    leave(tmp_path, "server-json-schema-2020-12-2026-11-22T19-10-19-158Z", [])
    leave(tmp_path, "server-crashed-2026-11-22T19-10-19-163Z", None)
    assert read_results(tmp_path) == {
        "server-sse-polling": [Check("a", "SUCCESS"), Check("b", "FAILURE", "!")],
        "json-schema-2020-12": [],
    }


@pytest.mark.parametrize("name", ["server-ping-2026-11-22T19-10-20-000Z", "ping"])
def test_results_of_more_than_a_run(tmp_path: Path, name: str) -> None:
    leave(tmp_path, "server-ping-2026-11-22T19-10-19-000Z", [])
    leave(tmp_path, name, [])
    with pytest.raises(ValueError, match=name):
        read_results(tmp_path)


def test_a_result_that_is_not_understood() -> None:
    with pytest.raises(KeyError):
        read_checks('[{"id": "ping"}]')


def test_what_was_not_scored(expected: Expected) -> None:
    assert not_scored(OUTPUT) == {"tasks", "polling"}
    assert not_scored(OUTPUT) == {*expected.not_scored, *expected.skipped}


@pytest.mark.parametrize(
    "revision, scenarios, count",
    [
        ("2025-11-25", (30, 3, 0, 0), 84),
        ("2026-07-28", (37, 12, 1, 3), 243),
    ],
)
def test_the_lists_in_use(revision: str, scenarios: tuple[int, int, int], count: int) -> None:
    expected = EXPECTED[revision]
    parts = (expected.required, expected.not_scored, expected.skipped, expected.by_name)
    assert tuple(map(len, parts)) == scenarios
    assert len(expected.scenarios) == sum(scenarios)
    assert sum(map(len, expected.scenarios.values())) == count
    assert set(expected.records) | set(expected.json_answers) <= set(expected.scenarios)
