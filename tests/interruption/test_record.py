"""What the scenarios' records notice."""

from __future__ import annotations

import pytest

from trio_mcp_session.transports.memory import memory_channel_pair

from .scenarios import Record


@pytest.mark.parametrize(
    "marks, found",
    [
        ("entered A, leaving A, left A", []),
        ("entered A, entered B, leaving B, left B, leaving A, left A", []),
        (
            "entered A, entered B, leaving A, leaving B, left B, left A",
            ["A of o was left before B"],
        ),
        ("entered A, entered B, left B, leaving A", ["A of o was never left"]),
    ],
)
def test_contexts_left_in_the_wrong_order_are_problems(marks: str, found: list[str]) -> None:
    record = Record()
    for mark in marks.split(", "):
        step, name = mark.split()
        record.mark(step, "o", name)
    assert record.problems() == found


def test_a_connection_that_is_still_open() -> None:
    record = Record()
    here, there = memory_channel_pair()
    record.channels.append(here)
    assert record.problems() == ["1 connections are still open"]
    there.close()
    assert record.problems() == []
