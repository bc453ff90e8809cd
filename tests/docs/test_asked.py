"""The questions that people ask in the issue trackers of this field."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ASKED = tomllib.loads((Path(__file__).parent / "asked.toml").read_text(encoding="utf-8"))
QUESTIONS: list[dict[str, str]] = ASKED["question"]
SOURCE = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+")


def test_there_are_forty_different_questions_from_forty_sources() -> None:
    assert len({one["text"] for one in QUESTIONS}) == 40
    assert len({one["source"] for one in QUESTIONS}) == 40


def test_each_question_was_asked_in_an_issue_tracker_of_another_project() -> None:
    for one in QUESTIONS:
        assert SOURCE.fullmatch(one["source"]), one
        assert "trio-mcp-session" not in one["source"].replace("_", "-"), one
