"""What the result files of the suite must say.

The suite passes a scenario unless one of its checks fails: warnings, skipped checks and no checks
at all pass too, and a scenario that crashes leaves no file. So every check is on a list.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

SUCCESS = "SUCCESS"
SKIPPED = "SKIPPED"
RECORD = "INFO"

FOLDER = re.compile(r"server-(.+)-\d{4}-\d{2}-\d{2}T[\d-]+Z")
NOT_SCORED = re.compile(r"^ +[✓✗] (\S+) \([a-z-]+\)$", re.MULTILINE)


@attrs.frozen
class Check:
    """One check, as the suite judged it."""

    id: str
    status: str
    error: str | None = None


@attrs.frozen(kw_only=True)
class Expected:
    """A list of what must be."""

    required: Mapping[str, Sequence[str]]
    not_scored: Mapping[str, Sequence[str]]
    skipped: Mapping[str, Sequence[str]] = attrs.field(factory=dict[str, list[str]])
    """Scenarios that the suite skips, whatever the server does."""
    by_name: Mapping[str, Sequence[str]] = attrs.field(factory=dict[str, list[str]])
    """Scenarios that are run by their names, since the requirement set does not have them."""
    json_answers: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict[str, dict[str, str]])
    records: Mapping[str, Sequence[str]] = attrs.field(factory=dict[str, list[str]])

    @classmethod
    def read(cls, path: Path) -> Expected:
        """Read a list from its file."""
        found = tomllib.loads(path.read_text("utf-8"))
        return cls(**{key.replace("-", "_"): value for key, value in found.items()})

    @property
    def scenarios(self) -> dict[str, Sequence[str]]:
        """The checks of each scenario."""
        return {**self.required, **self.not_scored, **self.skipped, **self.by_name}

    def statuses(self, scenario: str, *, json_answers: bool) -> list[tuple[str, str]]:
        """Return what must come of a scenario: checks with their statuses."""
        exceptions = self.json_answers.get(scenario, {}) if json_answers else {}
        usual = SKIPPED if scenario in self.skipped else SUCCESS
        return [(check, exceptions.get(check, usual)) for check in self.scenarios[scenario]]

    def complaints(
        self, scenario: str, checks: Sequence[Check] | None, *, json_answers: bool = False
    ) -> list[str]:
        """Tell what is wrong with the checks of a scenario. None stands for no result at all."""
        if checks is None:
            return ["there is no result: it crashed, or did not run"]
        wanted = self.statuses(scenario, json_answers=json_answers)
        records = self.records.get(scenario, ())
        checks = [c for c in checks if not (c.id in records and c.status == RECORD)]
        complaints: list[str] = []
        for name in dict.fromkeys([check for check, _ in wanted] + [check.id for check in checks]):
            must = [status for check, status in wanted if check == name]
            found = [check for check in checks if check.id == name]
            if Counter(must) != Counter(check.status for check in found):
                has = ", ".join(check.status for check in found) or "missing"
                errors = "".join(f"\n    {check.error}" for check in found if check.error)
                complaints.append(f"{name}: {has}, not {', '.join(must) or 'on the list'}{errors}")
        return complaints


def read_checks(text: str) -> list[Check]:
    """Read the checks of one scenario."""
    found: list[dict[str, Any]] = json.loads(text)
    return [Check(check["id"], check["status"], check.get("errorMessage")) for check in found]


def read_results(folder: Path) -> dict[str, list[Check]]:
    """Read what the suite has left in its folder, by scenario.

    Raises:
        ValueError: That is not what a single run leaves there.
    """
    results: dict[str, list[Check]] = {}
    for path in sorted(folder.iterdir()):
        name = FOLDER.fullmatch(path.name)
        if name is None or name[1] in results:
            raise ValueError(f"not the folder of one run: there is {path.name}")
        file = path / "checks.json"
        if file.exists():
            results[name[1]] = read_checks(file.read_text("utf-8"))
    return results


def not_scored(output: str) -> set[str]:
    """Read from the suite's output which scenarios it has not scored."""
    return set(NOT_SCORED.findall(output))
